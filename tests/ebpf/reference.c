/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A reader of the PROXY protocol written from the specification only, in another way than header.h, to hold it against:
 * whole words go to inet_pton; whether something cut short can still become a header is found by trying completions.
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "reference.h"

#define CRLF_LIMIT 107

static const struct answer MORE = { .kind = 'm' }, BAD = { .kind = 'r' }, NONE = { .kind = 'n' };

/* Version 1. */

static bool is_number(const char *word)
{
	unsigned long value = 0;
	size_t length = strlen(word);

	if (!length || length > 5 || strspn(word, "0123456789") != length || (length > 1 && *word == '0'))
		return false;
	for (; *word; word++)
		value = value * 10 + (*word - '0');
	return value <= 65535;
}

static bool is_address(int family, const char *word)
{
	unsigned char bytes[16];

	return inet_pton(family, word, bytes) == 1;
}

/* Nobody needs the destination, and senders write the one that they accepted at: its family is free (nginx 1.22). */
static bool is_field(int family, int field, const char *word)
{
	if (field == 1)
		return is_address(AF_INET, word) || is_address(AF_INET6, word);
	return field ? is_number(word) : is_address(family, word);
}

/* Whatever a beginning of an address or a number lacks, it is one of these. */
static const char *const ENDINGS[] = {
	"", "0", "::", ":", ":0", ".0.0.0", "0.0.0.0", "0.0.0", ".0.0", "0.0", ".0",
};

static bool can_become_field(int family, int field, const char *word)
{
	char whole[CRLF_LIMIT + 16];

	for (size_t i = 0; i < sizeof(ENDINGS) / sizeof(*ENDINGS); i++) {
		strcpy(whole, word);
		strcat(whole, ENDINGS[i]);
		if (is_field(family, field, whole))
			return true;
	}
	return false;
}

/* The words behind "PROXY TCP4 ". `ended`: the CR has been seen. */
static struct answer fields(char *line, int family, bool ended)
{
	char *words[5] = { line };
	int count = 1;
	struct answer answer = { .kind = 'a', .version = 1, .family = family == AF_INET ? 4 : 6 };

	for (char *space = line; (space = strchr(space, ' ')); count++) {
		if (count == 4)
			return BAD;
		*space++ = 0;
		words[count] = space;
	}
	for (int i = 0; i < count - 1 + ended; i++)
		if (!is_field(family, i, words[i]))
			return BAD;
	if (!ended)
		return can_become_field(family, count - 1, words[count - 1]) ? MORE : BAD;
	if (count != 4)
		return BAD;
	inet_pton(family, words[0], answer.address);
	for (char *digit = words[2]; *digit; digit++)
		answer.port = answer.port * 10 + (*digit - '0');
	return answer;
}

/* A line without its CRLF. A NUL in it is what no word contains, and UNKNOWN lines are not looked at as text. */
static struct answer line_verdict(char *line, size_t length, bool ended)
{
	const struct answer unknown = { .kind = 'a', .version = 1 };

	if (length >= 14 && !memcmp(line, "PROXY UNKNOWN ", 14))
		return ended ? unknown : MORE;
	if (memchr(line, 0, length))
		return BAD;
	if (!strcmp(line, "PROXY UNKNOWN"))
		return ended ? unknown : MORE;
	if (!strncmp(line, "PROXY TCP4 ", 11))
		return fields(line + 11, AF_INET, ended);
	if (!strncmp(line, "PROXY TCP6 ", 11))
		return fields(line + 11, AF_INET6, ended);
	if (ended)
		return BAD;
	return !strncmp("PROXY UNKNOWN ", line, length) || !strncmp("PROXY TCP4 ", line, length) ||
			       !strncmp("PROXY TCP6 ", line, length) ?
		       MORE :
		       BAD;
}

static struct answer version1(const uint8_t *data, size_t count)
{
	char line[CRLF_LIMIT + 1] = { 0 };
	size_t length = 0;
	struct answer answer;

	while (length < count && length < CRLF_LIMIT - 1 && data[length] != '\r' && data[length] != '\n')
		length++;
	if (length == CRLF_LIMIT - 1)
		return BAD; /* the CR would be the last byte that is allowed, or later */
	if (length < count && data[length] == '\n')
		return BAD;
	memcpy(line, data, length);
	answer = line_verdict(line, length, length < count);
	if (length == count || answer.kind != 'a')
		return answer;
	if (length + 1 == count)
		return MORE;
	answer.length = length + 2;
	return data[length + 1] == '\n' ? answer : BAD;
}

/* Version 2. */

struct crc_table {
	uint32_t of[256];
};

static struct crc_table make_crc_table(void)
{
	struct crc_table table;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t value = i;

		for (int bit = 0; bit < 8; bit++)
			value = value & 1 ? value >> 1 ^ 0x82f63b78u : value >> 1;
		table.of[i] = value;
	}
	return table;
}

uint32_t reference_crc32c(uint32_t crc, const uint8_t *data, size_t count)
{
	static struct crc_table table;

	if (!table.of[1])
		table = make_crc_table();
	crc = ~crc;
	while (count--)
		crc = table.of[(crc ^ *data++) & 255] ^ crc >> 8;
	return ~crc;
}

static bool checksum_fits(const uint8_t *header, size_t length, size_t at)
{
	const uint8_t zeros[4] = { 0 };
	uint32_t stated, crc;

	crc = reference_crc32c(0, header, at);
	crc = reference_crc32c(crc, zeros, 4);
	crc = reference_crc32c(crc, header + at + 4, length - at - 4);
	memcpy(&stated, header + at, 4);
	return ntohl(stated) == crc;
}

/* The TLVs in `left` bytes from `at`, as far as they are there. Returns 'a', 'm' or 'r'. */
static char tlvs(const uint8_t *header, size_t count, size_t at, size_t left, size_t *checksum)
{
	size_t size;

	if (left == 0)
		return 'a';
	if (left < 3)
		return 'r';
	if (at + 3 > count)
		return 'm';
	size = header[at + 1] * 256u + header[at + 2];
	if (size + 3 > left)
		return 'r';
	if (header[at] == 3) {
		if (size != 4 || *checksum)
			return 'r';
		*checksum = at + 3;
	}
	return tlvs(header, count, at + 3 + size, left - 3 - size, checksum);
}

static struct answer addresses(const uint8_t *header, struct answer answer)
{
	uint16_t port;

	if (header[13] == 0x11) {
		answer.family = 4;
		memcpy(answer.address, header + 16, 4);
		memcpy(&port, header + 24, 2);
		answer.port = ntohs(port);
	} else if (header[13] == 0x21) {
		answer.family = 6;
		memcpy(answer.address, header + 16, 16);
		memcpy(&port, header + 48, 2);
		answer.port = ntohs(port);
	}
	return answer;
}

static struct answer proxied(const uint8_t *header, size_t count, size_t length)
{
	static const size_t PAIRS[] = { 0, 12, 36, 216 };
	size_t pair = 16 + PAIRS[header[13] >> 4], checksum = 0;
	char kind;

	if (length < pair)
		return BAD;
	kind = tlvs(header, count, pair, length - pair, &checksum);
	if (kind == 'r')
		return BAD;
	if (count < length)
		return MORE;
	if (checksum && !checksum_fits(header, length, checksum))
		return BAD;
	return addresses(header, (struct answer){ .kind = 'a', .version = 2, .length = length });
}

static struct answer version2(const uint8_t *data, size_t count, size_t most)
{
	bool local = count > 12 && data[12] == 0x20;
	size_t length;

	if (count > 12 && data[12] != 0x20 && data[12] != 0x21)
		return BAD;
	if (count > 13 && !local && (data[13] > 0x3f || (data[13] & 15) > 2))
		return BAD;
	if (count == 15 && 16 + data[14] * 256u > most)
		return BAD;
	if (count < 16)
		return MORE;
	length = 16 + data[14] * 256u + data[15];
	if (length > most)
		return BAD;
	if (!local)
		return proxied(data, count, length);
	return count < length ? MORE : (struct answer){ .kind = 'a', .version = 2, .length = length };
}

/* Both. */

static struct answer unmapped(struct answer answer)
{
	static const uint8_t MAPPED[12] = { [10] = 255, [11] = 255 };

	if (answer.family == 6 && !memcmp(answer.address, MAPPED, 12)) {
		answer.family = 4;
		memmove(answer.address, answer.address + 12, 4);
		memset(answer.address + 4, 0, 12);
	}
	return answer;
}

struct answer reference_read(const uint8_t *data, size_t count, unsigned int versions, size_t most)
{
	static const struct {
		const char *bytes;
		size_t length;
	} SIGNATURES[] = { { "PROXY", 5 }, { "\r\n\r\n\0\r\nQUIT\n", 12 } };

	for (int i = 0; i < 2; i++) {
		size_t length = SIGNATURES[i].length;

		if (memcmp(data, SIGNATURES[i].bytes, count < length ? count : length))
			continue;
		if (count < length)
			return MORE;
		if (!(versions >> i & 1))
			return BAD;
		return unmapped(i == 0 ? version1(data, count) : version2(data, count, most));
	}
	return NONE;
}

/* What no client has (design of the data plane; RFC 1122, 3927, 4291, 5771). */
bool reference_usable(int family, const uint8_t *address)
{
	static const struct {
		int family;
		const char *network;
		int bits;
	} REFUSED[] = {
		{ 4, "0.0.0.0", 8 },     { 4, "127.0.0.0", 8 }, { 4, "224.0.0.0", 4 }, { 4, "169.254.0.0", 16 },
		{ 4, "255.255.255.255", 32 }, { 6, "::", 127 },  { 6, "ff00::", 8 },    { 6, "fe80::", 10 },
	};

	for (size_t i = 0; i < sizeof(REFUSED) / sizeof(*REFUSED); i++) {
		uint8_t network[16];
		int bits = REFUSED[i].bits, bit = 0;

		if (REFUSED[i].family != family)
			continue;
		inet_pton(family == 4 ? AF_INET : AF_INET6, REFUSED[i].network, network);
		while (bit < bits && !((network[bit / 8] ^ address[bit / 8]) & 0x80 >> bit % 8))
			bit++;
		if (bit == bits)
			return false;
	}
	return true;
}
