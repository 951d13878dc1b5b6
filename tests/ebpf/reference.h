/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the reference says of the first bytes of a connection. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct answer {
	char kind; /* 'm' more, 'a' accepted, 'r' refused, 'n' no header */
	int version;
	int family; /* 0: no address is stated, 4, 6 */
	unsigned int port;
	uint8_t address[16];
	size_t length; /* bytes of the header */
};

/* `versions`: bit 0 for version 1, bit 1 for version 2. `most`: bytes of a version 2 header. */
struct answer reference_read(const uint8_t *data, size_t count, unsigned int versions, size_t most);
bool reference_usable(int family, const uint8_t *address);
uint32_t reference_crc32c(uint32_t crc, const uint8_t *data, size_t count);
