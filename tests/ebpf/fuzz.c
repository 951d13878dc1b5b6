/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Holds header.h against the reference on damaged headers, each whole and cut at a place: same verdict, same claim, and
 * what is refused or accepted early stays so. Reads the corpus, a line of hexadecimal per header, from standard input.
 * Usage: fuzz COUNT SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "header.h"
#include "reference.h"

#define MOST_HEADERS 1024
#define ROOM (SRCIP_MAX_HEADER + 64)

struct input {
	uint8_t bytes[ROOM];
	size_t count;
};

static struct {
	uint8_t *bytes;
	size_t count;
} corpus[MOST_HEADERS];
static size_t corpus_count;
static uint64_t state;
static unsigned long verdicts[3];

static uint32_t below(uint32_t limit) /* splitmix64 */
{
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % limit;
}

static void read_corpus(void)
{
	static char line[2 * ROOM + 2];

	while (corpus_count < MOST_HEADERS && fgets(line, sizeof(line), stdin)) {
		size_t count = strlen(line) / 2;
		uint8_t *bytes = malloc(count);
		unsigned int byte;

		for (size_t i = 0; i < count; i++) {
			sscanf(line + 2 * i, "%2x", &byte);
			bytes[i] = byte;
		}
		corpus[corpus_count].bytes = bytes;
		corpus[corpus_count++].count = count;
	}
}

static void cut_out(struct input *in, size_t at, size_t count)
{
	if (count > in->count - at)
		count = in->count - at;
	memmove(in->bytes + at, in->bytes + at + count, in->count - at - count);
	in->count -= count;
}

static void put_in(struct input *in, size_t at, const uint8_t *bytes, size_t count)
{
	if (in->count + count > ROOM)
		return;
	memmove(in->bytes + at + count, in->bytes + at, in->count - at);
	memmove(in->bytes + at, bytes, count);
	in->count += count;
}

static uint8_t likely_byte(void)
{
	static const char LIKELY[] = "PROXY TCP46UNKNOWN00112233445566789abcdefABCDEF....::::    \r\n\0\1\2\3\4\x11\x20\x21\xff%+-g/";

	return below(4) ? (uint8_t)LIKELY[below(sizeof(LIKELY) - 1)] : below(256);
}

static void splice(struct input *in, size_t at)
{
	size_t other = below(corpus_count), from = below(corpus[other].count), count = 1 + below(24);

	if (count > corpus[other].count - from)
		count = corpus[other].count - from;
	put_in(in, at, corpus[other].bytes + from, count);
}

static void damage(struct input *in)
{
	size_t at = below(in->count + 1);
	uint8_t byte = likely_byte(), copy[8];

	switch (below(8)) {
	case 0:
		put_in(in, at, &byte, 1);
		break;
	case 1:
		cut_out(in, at, 1 + below(3));
		break;
	case 2:
	case 3:
		if (at < in->count)
			in->bytes[at] = byte;
		break;
	case 4:
		if (at < in->count)
			in->bytes[at] ^= 1 << below(8);
		break;
	case 5:
		splice(in, at);
		break;
	case 6:
		if (at + sizeof(copy) <= in->count) {
			memcpy(copy, in->bytes + at, sizeof(copy));
			put_in(in, at, copy, 1 + below(sizeof(copy)));
		}
		break;
	default:
		if (below(4) == 0)
			in->count = at;
	}
}

static int is_version2(const struct input *in)
{
	return in->count >= 16 && !memcmp(in->bytes, "\r\n\r\n\0\r\nQUIT\n", 12);
}

/* Makes the length of a version 2 header that of the bytes, or another one near a limit. */
static void set_length(struct input *in)
{
	size_t size = in->count - 16;

	if (!below(8))
		size = (size_t[]){ 0, 11, 12, 35, 36, 216, 4080, 4081, 65535 }[below(9)];
	in->bytes[14] = size >> 8;
	in->bytes[15] = size;
}

/* Makes the first CRC32C right, wherever its TLV stands by now. */
static void set_checksum(struct input *in)
{
	static const size_t PAIRS[] = { 0, 12, 36, 216 };
	size_t length = 16 + in->bytes[14] * 256u + in->bytes[15], at = 16 + PAIRS[in->bytes[13] >> 4 & 3];

	while (length <= in->count && at + 7 <= length) {
		size_t size = in->bytes[at + 1] * 256u + in->bytes[at + 2];

		if (in->bytes[at] == 3 && size == 4) {
			memset(in->bytes + at + 3, 0, 4);
			uint32_t crc = reference_crc32c(0, in->bytes, length);

			for (int i = 0; i < 4; i++)
				in->bytes[at + 3 + i] = crc >> (24 - 8 * i);
			return;
		}
		at += 3 + size;
	}
}

static void make(struct input *in)
{
	size_t which = below(corpus_count);

	in->count = corpus[which].count;
	memcpy(in->bytes, corpus[which].bytes, in->count);
	for (int changes = below(5); changes; changes--)
		damage(in);
	if (is_version2(in) && below(2))
		set_length(in);
	if (is_version2(in) && below(4))
		set_checksum(in);
}

static void disagree(const struct input *in, size_t count, const char *what)
{
	fprintf(stderr, "%s, %zu bytes: ", what, count);
	for (size_t i = 0; i < count; i++)
		fprintf(stderr, "%02x", in->bytes[i]);
	fprintf(stderr, "\n");
	exit(1);
}

static void check_claim(const struct input *in, size_t count, const struct srcip_claim *claim, const struct answer *answer)
{
	if (claim->family != answer->family || claim->version != answer->version || claim->port != answer->port ||
	    claim->length != answer->length || memcmp(claim->address, answer->address, 16))
		disagree(in, count, "another claim");
	if (claim->family && !!srcip_usable(claim) != reference_usable(answer->family, answer->address))
		disagree(in, count, "usable or not");
}

/* The first `count` bytes. What lies behind them in the parser is left over from other inputs. */
static int check(const struct input *in, size_t count, struct srcip_parser *parser, const struct srcip_limits *limits)
{
	struct answer answer = reference_read(in->bytes, count, limits->versions, limits->max_header);
	int verdict;

	parser->have = count < SRCIP_MAX_HEADER ? count : SRCIP_MAX_HEADER;
	memcpy(parser->bytes, in->bytes, parser->have);
	verdict = srcip_parse(parser, limits);
	if ("mar"[verdict] != (answer.kind == 'n' ? 'r' : answer.kind))
		disagree(in, count, "another verdict");
	if ((verdict == SRCIP_REJECT) != !!parser->reason || (parser->reason == SRCIP_NO_HEADER) != (answer.kind == 'n'))
		disagree(in, count, "another reason");
	if (verdict == SRCIP_ACCEPT)
		check_claim(in, count, &parser->claim, &answer);
	return verdict;
}

static void round_of(struct input *in, struct srcip_parser *parser)
{
	struct srcip_limits limits = { .max_header = SRCIP_MAX_HEADER, .versions = below(8) ? 3 : below(4) };
	int early, late;

	if (!below(4))
		limits.max_header = (__u16[]){ 0, 16, 28, 52, 107, 232, 536, 65535 }[below(8)];
	if (limits.max_header > SRCIP_MAX_HEADER)
		limits.max_header = SRCIP_MAX_HEADER;
	make(in);
	early = check(in, below(in->count + 1), parser, &limits);
	late = check(in, in->count, parser, &limits);
	if (early != SRCIP_MORE && early != late)
		disagree(in, in->count, "changed its mind");
	verdicts[late]++;
}

int main(int count, char **arguments)
{
	static struct input input;
	static struct srcip_parser parser;

	if (count != 3)
		return 2;
	state = strtoull(arguments[2], NULL, 0);
	read_corpus();
	for (unsigned long left = strtoul(arguments[1], NULL, 0); left; left--)
		round_of(&input, &parser);
	printf("%lu more, %lu accepted, %lu refused\n", verdicts[0], verdicts[1], verdicts[2]);
	return 0;
}
