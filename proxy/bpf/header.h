/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Reads one PROXY protocol header, version 1 or 2, from the first bytes of a connection.
 *
 * Follows https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, with the same verdicts as
 * srcip_proxy/haproxy/lua/proxy_protocol.lua. Compiled for user space (the tests) and for BPF; it needs no libc.
 *
 * It keeps nothing between calls: whoever has more bytes calls again with all of them. The bytes and all that changes
 * while they are read lie in `struct srcip_parser`, in BPF a map value: values on the stack would multiply the
 * verifier's work, and without CAP_PERFMON it refuses a variable index there. Every loop is bpf_loop (Linux 5.17).
 */
#ifndef SRCIP_HEADER_H
#define SRCIP_HEADER_H

#include <linux/types.h>

#define SRCIP_MAX_HEADER 4096 /* a power of two: masks keep every index inside */

enum srcip_verdict {
	SRCIP_MORE,   /* so far the beginning of a header */
	SRCIP_ACCEPT, /* a whole header: see the claim */
	SRCIP_REJECT, /* no header can begin like this: see the reason */
};

/* Why, in the words of the counters of the other modes. */
enum srcip_reason {
	SRCIP_NO_REASON,
	SRCIP_NO_HEADER, /* neither signature: the policy `optional` lets it pass */
	SRCIP_MALFORMED,
	SRCIP_VERSION,
	SRCIP_TOO_LONG,
	SRCIP_CHECKSUM,
	SRCIP_UNUSABLE_ADDRESS, /* never set here: for callers of srcip_usable() */
};

/* The client that a header states. IPv4 inside ::ffff:0:0/96 is IPv4. */
struct srcip_claim {
	__u8 family;  /* 0: no address is stated (LOCAL, UNKNOWN, not TCP), 4, 6 */
	__u8 version; /* 1, 2 */
	__u16 port;   /* host order */
	__u8 address[16] __attribute__((aligned(4))); /* network order; IPv4: the first four, then zeros */
	__u16 length; /* bytes of the header */
};

struct srcip_limits {
	__u16 max_header; /* bytes of a version 2 header, at most SRCIP_MAX_HEADER */
	__u8 versions;    /* 1: version 1, 2: version 2, 3: both */
};

/* Where a version 1 line or the TLVs of a version 2 header have been read to. */
struct srcip_reading {
	__u32 at;       /* next byte */
	__u32 end;      /* version 2: bytes of the header */
	__u32 checksum; /* version 2: where the CRC32C stands, or 0 */
	__u32 crc;
	__u32 index;   /* see srcip_masked */
	__u8 verdict;  /* enum srcip_verdict */
	__u8 stage;    /* version 1, below */
	__u8 field;    /* version 1: 0 source, 1 destination, 2 source port, 3 destination port */
	__u8 family;   /* version 1: '4', '6' */
	__u8 digits;   /* of the number being read */
	__u8 octets;   /* dotted parts of the address that are complete */
	__u8 colons;   /* how many were read last */
	__u8 filled;   /* bytes of the address that are complete */
	__u8 elided;   /* how many of them stand before `::` */
	__u8 has_gap;  /* whether `::` was read */
	__u16 hex;     /* the number being read in base 16 */
	__u32 decimal; /* and in base 10; SRCIP_NO_DECIMAL when it is none */
	__u16 port;
	__u8 source_filled, source_elided;
	__u8 address[32]; /* source and destination, without the gap of `::` */
};

struct srcip_parser {
	__u8 bytes[SRCIP_MAX_HEADER];
	__u32 have; /* how many of them are valid */
	struct srcip_claim claim;
	__u8 reason; /* enum srcip_reason */
	struct srcip_reading reading;
};

/*
 * A function per step and a loop that ends when it returns 1. bpf_loop takes a context on the stack only, so that holds
 * just the pointer.
 */
#ifdef __bpf__
#include <bpf/bpf_helpers.h>
#define SRCIP_CALLED static __attribute__((noinline, unused))
struct srcip_context {
	struct srcip_parser *parser;
};
#define SRCIP_STEP(name)                                                                              \
	static __attribute__((always_inline)) inline long name##_body(struct srcip_parser *p, __u32 i);   \
	static long name(__u32 i, void *context)                                                           \
	{                                                                                                  \
		return name##_body(((struct srcip_context *)context)->parser, i);                         \
	}                                                                                                  \
	static __attribute__((always_inline)) inline long name##_body(struct srcip_parser *p, __u32 i)
#define SRCIP_LOOP(times, step, p)                                                                    \
	do {                                                                                          \
		struct srcip_context context = { p };                                                 \
		bpf_loop(times, step, &context, 0);                                                   \
	} while (0)
#else
#define SRCIP_CALLED static __attribute__((unused))
#define SRCIP_STEP(name) static long name(struct srcip_parser *p, __u32 i)
#define SRCIP_LOOP(times, step, p)                                                                    \
	do {                                                                                          \
		for (__u32 i_ = 0; i_ < (times) && !step(p, i_); i_++)                                \
			;                                                                             \
	} while (0)
#endif

#ifdef __clang__
#define SRCIP_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SRCIP_UNROLL
#endif

#define SRCIP_INLINE static __attribute__((always_inline, unused)) inline

/*
 * An index below `size`, a power of two. Without CAP_PERFMON the verifier refuses an addition to a pointer that it meets
 * with different bounds on different paths; of what was read from a map it knows no bounds but the mask's.
 */
SRCIP_INLINE __u32 srcip_masked(struct srcip_reading *r, __u32 at, __u32 size)
{
	volatile __u32 *index = &r->index;

	*index = at;
	return *index & (size - 1);
}

SRCIP_INLINE __u32 srcip_byte(struct srcip_parser *p, __u32 at)
{
	return p->bytes[srcip_masked(&p->reading, at, SRCIP_MAX_HEADER)];
}

SRCIP_INLINE __u32 srcip_word(struct srcip_parser *p, __u32 at)
{
	return srcip_byte(p, at) << 8 | srcip_byte(p, at + 1);
}

SRCIP_INLINE long srcip_refuse(struct srcip_parser *p, enum srcip_reason reason)
{
	p->reason = reason;
	p->reading.verdict = SRCIP_REJECT;
	return 1;
}

/* Version 1. */

#define SRCIP_V1_MAX 107 /* bytes with CRLF (section 2.1) */
#define SRCIP_NO_DECIMAL (~0U)

enum srcip_stage {
	SRCIP_WORD, /* "PROXY ", then the family */
	SRCIP_TCP,
	SRCIP_UNKNOWN,
	SRCIP_FIELDS,
	SRCIP_IGNORED, /* whatever stands behind UNKNOWN */
	SRCIP_LF,
};

SRCIP_INLINE void srcip_next_number(struct srcip_reading *r)
{
	r->digits = 0;
	r->hex = 0;
	r->decimal = 0;
}

SRCIP_INLINE void srcip_next_field(struct srcip_reading *r)
{
	srcip_next_number(r);
	r->field++;
	r->octets = r->colons = r->filled = r->elided = r->has_gap = 0;
}

/* Takes one hexadecimal digit into the number; 0 when `c` is none. */
SRCIP_INLINE int srcip_digit(struct srcip_reading *r, __u32 c)
{
	__u32 letter = (c | 0x20) - 'a';
	__u32 value = c - '0';
	__u32 decimal = r->decimal;

	if (value > 9) {
		if (letter > 5)
			return 0;
		value = letter + 10;
		decimal = SRCIP_NO_DECIMAL;
	} else if (decimal > 65535 || (r->digits && !decimal)) { /* no heading zeroes */
		decimal = SRCIP_NO_DECIMAL;
	} else {
		decimal = decimal * 10 + value;
	}
	r->decimal = decimal;
	r->hex = r->hex << 4 | value;
	r->digits++;
	return 1;
}

/* Adds a byte to the address being read. */
SRCIP_INLINE void srcip_fill(struct srcip_reading *r, __u32 value)
{
	r->address[srcip_masked(r, (r->field & 1) << 4 | (r->filled & 15), 32)] = value;
	r->filled++;
}

SRCIP_INLINE void srcip_fill_group(struct srcip_reading *r)
{
	__u32 value = r->hex;

	srcip_fill(r, value >> 8);
	srcip_fill(r, value & 255);
	srcip_next_number(r);
}

SRCIP_INLINE void srcip_fill_octet(struct srcip_reading *r)
{
	srcip_fill(r, r->decimal);
	r->octets++;
	srcip_next_number(r);
}

/* Digits and dots; what follows is the caller's. 1: fine so far. */
SRCIP_INLINE int srcip_dotted(struct srcip_reading *r, __u32 c)
{
	if (c == '.') {
		if (!r->digits || r->octets > 2)
			return 0;
		srcip_fill_octet(r);
		return 1;
	}
	return srcip_digit(r, c) && r->decimal <= 255;
}

SRCIP_INLINE int srcip_colon(struct srcip_reading *r)
{
	if (r->octets)
		return 0;
	if (r->digits) {
		srcip_fill_group(r);
		r->colons = 1;
		return r->filled <= (r->has_gap ? 12 : 14); /* another group comes, or the gap, which is one or more */
	}
	if (r->colons == 1 && !r->has_gap) {
		r->has_gap = 1;
		r->elided = r->filled;
		r->colons = 2;
		return 1;
	}
	if (r->colons)
		return 0;
	r->colons = 1; /* the address begins with it, so another one must follow */
	return 1;
}

/* A destination may be IPv4 alone, whatever the source is. */
SRCIP_INLINE int srcip_may_embed_ipv4(const struct srcip_reading *r)
{
	if (r->has_gap)
		return r->filled <= 10;
	return r->filled == 12 || (r->field && !r->filled);
}

SRCIP_INLINE int srcip_first_dot(struct srcip_reading *r)
{
	if (!r->digits || r->decimal > 255 || !srcip_may_embed_ipv4(r))
		return 0;
	srcip_fill_octet(r);
	return 1;
}

SRCIP_INLINE int srcip_group_digit(struct srcip_reading *r, __u32 c)
{
	if (!r->has_gap && !r->filled && r->colons)
		return 0; /* one colon at the beginning */
	if (r->has_gap && r->filled > 12)
		return 0;
	return srcip_digit(r, c) && r->digits <= 4;
}

/* A byte inside an IPv6 address, or inside a destination. */
SRCIP_INLINE int srcip_address6(struct srcip_reading *r, __u32 c)
{
	if (c == ':')
		return srcip_colon(r);
	if (r->octets)
		return srcip_dotted(r, c);
	if (c == '.')
		return srcip_first_dot(r);
	return srcip_group_digit(r, c);
}

/* The space behind an address: whether it is whole. */
SRCIP_INLINE int srcip_address_ends(struct srcip_reading *r)
{
	if (r->octets) {
		if (!r->digits || r->octets != 3)
			return 0;
		srcip_fill_octet(r);
	} else if (r->digits) {
		srcip_fill_group(r);
	} else if (r->colons != 2) {
		return 0;
	}
	if (r->family == '4' && !r->field)
		return r->filled == 4;
	return r->has_gap || r->filled == 16 || (r->octets && r->filled == 4);
}

/*
 * The source is of the family that the header names. The destination, which nobody uses, is of either: a proxy in a chain
 * names the client that it was told, and itself as it was reached (nginx 1.22: TCP6 with an IPv4 destination).
 */
SRCIP_INLINE int srcip_address(struct srcip_reading *r, __u32 c)
{
	if (c != ' ')
		return r->family == '4' && !r->field ? srcip_dotted(r, c) : srcip_address6(r, c);
	if (!srcip_address_ends(r))
		return 0;
	if (!r->field) {
		r->source_filled = r->filled;
		r->source_elided = r->has_gap ? r->elided : 16;
	}
	srcip_next_field(r);
	return 1;
}

SRCIP_INLINE int srcip_port(struct srcip_reading *r, __u32 c)
{
	if (c != (r->field == 2 ? ' ' : '\r'))
		return srcip_digit(r, c) && r->decimal <= 65535;
	if (!r->digits)
		return 0;
	if (r->field == 3) {
		r->stage = SRCIP_LF;
		return 1;
	}
	r->port = r->decimal;
	srcip_next_field(r);
	return 1;
}

/* The words at the beginning, by their place. */
SRCIP_INLINE int srcip_words(struct srcip_reading *r, __u32 c, __u32 at)
{
	/* the last byte is the first to come */
	const __u64 proxy = 0x2059584f5250ULL, tcp = 0x5043ULL, unknown = 0x4e574f4e4b4eULL;

	if (r->stage == SRCIP_WORD) {
		if (at < 6)
			return c == ((proxy >> (at & 7) * 8) & 255);
		r->stage = c == 'T' ? SRCIP_TCP : SRCIP_UNKNOWN;
		return c == 'T' || c == 'U';
	}
	if (r->stage == SRCIP_UNKNOWN) {
		if (at < 13)
			return c == ((unknown >> ((at - 7) & 7) * 8) & 255);
		r->stage = c == ' ' ? SRCIP_IGNORED : SRCIP_LF;
		return c == ' ' || c == '\r';
	}
	if (at < 9)
		return c == ((tcp >> ((at - 7) & 7) * 8) & 255);
	if (at == 9) {
		r->family = c;
		return c == '4' || c == '6';
	}
	r->stage = SRCIP_FIELDS;
	return c == ' ';
}

SRCIP_INLINE int srcip_v1_byte(struct srcip_reading *r, __u32 c, __u32 at)
{
	if (r->stage == SRCIP_LF) {
		r->verdict = SRCIP_ACCEPT;
		return c == '\n';
	}
	if (at == SRCIP_V1_MAX - 2 && c != '\r')
		return 0;
	if (r->stage < SRCIP_FIELDS)
		return srcip_words(r, c, at);
	if (r->stage == SRCIP_IGNORED) {
		if (c == '\r')
			r->stage = SRCIP_LF;
		return c != '\n';
	}
	return r->field < 2 ? srcip_address(r, c) : srcip_port(r, c);
}

SRCIP_STEP(srcip_v1_step)
{
	if (i >= p->have)
		return 1;
	p->reading.at = i + 1;
	if (!srcip_v1_byte(&p->reading, p->bytes[i & (SRCIP_MAX_HEADER - 1)], i))
		return srcip_refuse(p, SRCIP_MALFORMED);
	return p->reading.verdict != SRCIP_MORE;
}

/* One byte of the source address, with the gap of `::` put back. */
SRCIP_STEP(srcip_expand_step)
{
	__u32 elided = p->reading.source_elided, filled = p->reading.source_filled;
	__u32 from = i < elided ? i : i + filled - 16;
	__u32 value = p->reading.address[srcip_masked(&p->reading, from, 16)];

	if (i >= elided && i - elided < 16 - filled)
		value = 0;
	p->claim.address[srcip_masked(&p->reading, i, 16)] = value;
	return 0;
}

/* IPv4 inside ::ffff:0:0/96 is IPv4. */
SRCIP_INLINE void srcip_unmap(struct srcip_claim *claim)
{
	__u32 *words = (__u32 *)claim->address;
	__u8 *bytes = claim->address;

	if (claim->family != 6 || words[0] || words[1] || bytes[8] || bytes[9] || bytes[10] != 255 || bytes[11] != 255)
		return;
	claim->family = 4;
	words[0] = words[3];
	words[2] = words[3] = 0;
}

SRCIP_CALLED int srcip_v1(struct srcip_parser *p)
{
	SRCIP_LOOP(SRCIP_V1_MAX, srcip_v1_step, p);
	if (p->reading.verdict != SRCIP_ACCEPT)
		return p->reading.verdict;
	p->claim.length = p->reading.at;
	if (!p->reading.family)
		return SRCIP_ACCEPT;
	SRCIP_LOOP(16, srcip_expand_step, p);
	p->claim.family = p->reading.family - '0';
	p->claim.port = p->reading.port;
	srcip_unmap(&p->claim);
	return SRCIP_ACCEPT;
}

/* Version 2. */

#define SRCIP_V2_FIXED 16 /* bytes before the addresses (section 2.2) */
#define SRCIP_TLV 3       /* bytes before a TLV's value */
#define SRCIP_MAX_TLVS ((SRCIP_MAX_HEADER - SRCIP_V2_FIXED) / SRCIP_TLV)
#define SRCIP_TYPE_CRC32C 3
#define SRCIP_POLYNOMIAL 0x82f63b78 /* CRC32C (RFC 3720, appendix B.4), reflected */

/* Bytes of the addresses and ports, by the high half of the family byte. */
SRCIP_INLINE __u32 srcip_addresses_len(__u32 network)
{
	return network == 1 ? 12 : network == 2 ? 36 : network == 3 ? 216 : 0;
}

SRCIP_STEP(srcip_tlv_step)
{
	struct srcip_reading *r = &p->reading;
	__u32 at = r->at, left = r->end - at, size;

	(void)i;
	if (!left)
		return 1;
	if (left < SRCIP_TLV)
		return srcip_refuse(p, SRCIP_MALFORMED);
	if (p->have < at + SRCIP_TLV)
		return 1;
	size = srcip_word(p, at + 1);
	if (size > left - SRCIP_TLV)
		return srcip_refuse(p, SRCIP_MALFORMED);
	if (srcip_byte(p, at) == SRCIP_TYPE_CRC32C) {
		/* with a second one nobody could say what the first was computed over */
		if (size != 4 || r->checksum)
			return srcip_refuse(p, SRCIP_CHECKSUM);
		r->checksum = at + SRCIP_TLV;
	}
	r->at = at + SRCIP_TLV + size;
	return 0;
}

SRCIP_STEP(srcip_crc_step)
{
	struct srcip_reading *r = &p->reading;
	__u32 crc = r->crc, byte = srcip_byte(p, i);

	if (i - r->checksum < 4)
		byte = 0;
	crc ^= byte;
	SRCIP_UNROLL
	for (int bit = 0; bit < 8; bit++)
		crc = crc >> 1 ^ (crc & 1) * SRCIP_POLYNOMIAL; /* a mask makes new verifiers branch */
	r->crc = crc;
	return 0;
}

SRCIP_CALLED int srcip_checksum_is_valid(struct srcip_parser *p)
{
	__u32 at = p->reading.checksum;

	p->reading.crc = ~0U;
	SRCIP_LOOP(p->reading.end, srcip_crc_step, p);
	return (srcip_word(p, at) << 16 | srcip_word(p, at + 2)) == ~p->reading.crc;
}

/* The first 16 bytes, each judged as soon as it is there. 1: they are whole, and fine. */
SRCIP_INLINE int srcip_v2_fixed(struct srcip_parser *p, __u32 most)
{
	__u32 command = p->bytes[12], network = p->bytes[13] >> 4, transport = p->bytes[13] & 15, size;

	if (p->have < 13)
		return 0;
	if (command != 0x20 && command != 0x21)
		return !srcip_refuse(p, SRCIP_MALFORMED);
	if (p->have < 14)
		return 0;
	if (command == 0x21 && (network > 3 || transport > 2))
		return !srcip_refuse(p, SRCIP_MALFORMED);
	if (p->have < 15)
		return 0;
	size = p->bytes[14] << 8 | (p->have < 16 ? 0 : p->bytes[15]);
	if (SRCIP_V2_FIXED + size > most)
		return !srcip_refuse(p, SRCIP_TOO_LONG);
	if (p->have < 16)
		return 0;
	if (command == 0x21 && size < srcip_addresses_len(network))
		return !srcip_refuse(p, SRCIP_MALFORMED);
	p->reading.end = SRCIP_V2_FIXED + size;
	return 1;
}

SRCIP_INLINE void srcip_v2_claim(struct srcip_parser *p)
{
	struct srcip_claim *claim = &p->claim;
	__u32 *words = (__u32 *)claim->address;
	const __u32 *from = (const __u32 *)(p->bytes + SRCIP_V2_FIXED);

	if (p->bytes[13] == 0x11) {
		claim->family = 4;
		claim->port = p->bytes[24] << 8 | p->bytes[25];
		words[0] = from[0];
	}
	if (p->bytes[13] == 0x21) {
		claim->family = 6;
		claim->port = p->bytes[48] << 8 | p->bytes[49];
		words[0] = from[0];
		words[1] = from[1];
		words[2] = from[2];
		words[3] = from[3];
	}
	srcip_unmap(claim);
}

SRCIP_CALLED int srcip_v2(struct srcip_parser *p, __u32 most)
{
	__u32 proxied;

	if (!srcip_v2_fixed(p, most))
		return p->reading.verdict;
	proxied = p->bytes[12] & 1; /* of LOCAL nothing else counts */
	if (proxied) {
		p->reading.at = SRCIP_V2_FIXED + srcip_addresses_len(p->bytes[13] >> 4);
		SRCIP_LOOP(SRCIP_MAX_TLVS, srcip_tlv_step, p);
		if (p->reading.verdict == SRCIP_REJECT)
			return SRCIP_REJECT;
	}
	if (p->have < p->reading.end)
		return SRCIP_MORE;
	if (p->reading.checksum && !srcip_checksum_is_valid(p)) {
		srcip_refuse(p, SRCIP_CHECKSUM);
		return SRCIP_REJECT;
	}
	p->claim.length = p->reading.end;
	if (proxied)
		srcip_v2_claim(p);
	return SRCIP_ACCEPT;
}

/* Both. */

/* Whether the bytes begin like `signature`, as far as both go. */
SRCIP_INLINE int srcip_begins(const struct srcip_parser *p, const char *signature, __u32 length)
{
	SRCIP_UNROLL
	for (__u32 i = 0; i < length; i++) {
		if (i >= p->have)
			return 1;
		if (p->bytes[i] != (__u8)signature[i])
			return 0;
	}
	return 1;
}

/* The verdict on the `have` bytes. Written for every call: claim, reason, reading. */
SRCIP_CALLED enum srcip_verdict srcip_parse(struct srcip_parser *p, const struct srcip_limits *l)
{
	__u32 versions = l->versions, most = l->max_header, version, length;

	__builtin_memset(&p->claim, 0, sizeof(p->claim));
	__builtin_memset(&p->reading, 0, sizeof(p->reading));
	p->reason = SRCIP_NO_REASON;
	if (p->have > SRCIP_MAX_HEADER)
		p->have = SRCIP_MAX_HEADER;
	if (most > SRCIP_MAX_HEADER)
		most = SRCIP_MAX_HEADER;
	version = srcip_begins(p, "\r\n\r\n\0\r\nQUIT\n", 12) ? 2 : srcip_begins(p, "PROXY", 5) ? 1 : 0;
	length = version == 2 ? 12 : 5;
	if (!version) {
		srcip_refuse(p, SRCIP_NO_HEADER);
		return SRCIP_REJECT;
	}
	if (p->have < length)
		return SRCIP_MORE;
	if (!(versions & version)) {
		srcip_refuse(p, SRCIP_VERSION);
		return SRCIP_REJECT;
	}
	p->claim.version = version;
	return version == 2 ? srcip_v2(p, most) : srcip_v1(p);
}

SRCIP_INLINE int srcip_usable4(const __u8 *a)
{
	if (a[0] == 0 || a[0] == 127 || (a[0] & 0xf0) == 224) /* unspecified, loopback, multicast */
		return 0;
	if (a[0] == 169 && a[1] == 254) /* link-local */
		return 0;
	return !(a[0] == 255 && a[1] == 255 && a[2] == 255 && a[3] == 255); /* broadcast */
}

SRCIP_INLINE int srcip_usable6(const __u8 *a)
{
	const __u32 *words = (const __u32 *)a;

	if (a[0] == 255 || (a[0] == 254 && (a[1] & 0xc0) == 0x80)) /* multicast, link-local */
		return 0;
	/* unspecified, loopback */
	return words[0] || words[1] || words[2] || a[12] || a[13] || a[14] || a[15] > 1;
}

/*
 * Whether a client can have the claimed address. A claim without an address is usable. The Pod's own address is one, too:
 * a Pod may be its own client by way of the balancer, and nothing is ever sent from the address.
 */
SRCIP_CALLED int srcip_usable(const struct srcip_claim *claim)
{
	if (!claim->family)
		return 1;
	return claim->family == 4 ? srcip_usable4(claim->address) : srcip_usable6(claim->address);
}

#endif
