/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* TCP options. They are copied first: the verifier allows no walk of unknown length through a packet. */
#ifndef SRCIP_OPTIONS_H
#define SRCIP_OPTIONS_H

#include "packet.h"

#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_SACK 5
#define TCPOPT_TIMESTAMP 8
#define TCPOPT_MPTCP 30
#define TCPOPT_FASTOPEN 34
#define TCPOPT_TOA 200
#define TCPOPT_EXP 254 /* RFC 6994; outside of a SYN it is TOA, too */
#define TCPOPT_FASTOPEN_MAGIC 0xf989 /* its experiment identifier (RFC 7413, appendix B) */
#define TCPOLEN_TIMESTAMP 10
#define TCPOLEN_TOA_IPV4 8 /* kind, length, port, address */
#define TCPOLEN_TOA_IPV6 20
#define HALF_TIMESTAMP_SPACE 0x7fffffff
/* The first four bytes of options as Linux aligns them. */
#define NOP_NOP_TIMESTAMP 0x0101080a
#define NOP_NOP_SACK 0x0101050a /* of one block */
#define SACK_PERMITTED_TIMESTAMP 0x0402080a
#define MSS 0x02040000       /* of its two first bytes */
#define NOP_WSCALE 0x01030300 /* of its three first bytes */
#define FOUR_NOPS 0x01010101

struct options_walk {
	struct scratch *scratch;
};

static __always_inline int read_options(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	__u32 size = p->tcp_header_len - OPTIONS_AT;

	__builtin_memset(s->options, 0, sizeof(s->options));
	if (!size ||
	    bpf_skb_load_bytes(skb, p->tcp_offset + OPTIONS_AT, s->options, bounded_len(size, sizeof(s->options))))
		return -1;
	__builtin_memcpy(s->options_before, s->options, sizeof(s->options));
	s->option_at = 0;
	return 0;
}

static __always_inline void write_options(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	__u32 size = p->tcp_header_len - OPTIONS_AT;
	__s64 difference;

	difference = bpf_csum_diff((__be32 *)s->options_before, sizeof(s->options_before), (__be32 *)s->options,
				   sizeof(s->options), 0);
	bpf_l4_csum_replace(skb, p->tcp_offset + CHECK_AT, 0, difference, 0);
	bpf_skb_store_bytes(skb, p->tcp_offset + OPTIONS_AT, s->options, bounded_len(size, sizeof(s->options)), 0);
}

/* A byte of the options, by an index that was read from a map and masked (see srcip_masked()). */
static __always_inline __u8 *option(struct scratch *s, __u32 at)
{
	volatile __u32 *index = &s->masked;

	*index = at;
	return &s->options[*index & (sizeof(s->options) - 1)];
}

/* Four bytes of the options at a multiple of four, where Linux writes numbers. */
static __always_inline __be32 *word(struct scratch *s, __u32 at)
{
	volatile __u32 *index = &s->masked;

	*index = at / 4;
	return &((__be32 *)s->options)[*index & (sizeof(s->options) / 4 - 1)];
}

/* Kind and length of the option at s->option_at; TCPOPT_EOL behind the last. A NOP has one byte. */
static __always_inline __u32 next_option(struct scratch *s, __u32 *size)
{
	__u32 at = s->option_at, kind = *option(s, at);

	*size = *option(s, at + 1);
	if (kind == TCPOPT_NOP)
		*size = 1;
	else if (*size < 2)
		kind = TCPOPT_EOL;
	return at + *size > s->packet.tcp_header_len - OPTIONS_AT ? TCPOPT_EOL : kind;
}

static long raise_edge(__u32 i, void *context)
{
	struct scratch *s = ((struct options_walk *)context)->scratch;
	__be32 *edge = word(s, s->option_at + 2 + i * 4);

	if (2 + i * 4 + 4 > s->option_len)
		return 1;
	*edge = bpf_htonl(bpf_ntohl(*edge) + s->raise_by);
	return 0;
}

/*
 * One option: raises the edges of SACK blocks by s->raise_by and sets TSval to s->timestamp, unless that is 0. SACK
 * blocks that are not aligned as Linux does it cannot be raised here: they lose their kind, or they would be wrong.
 */
static long change_option(__u32 i, void *context)
{
	struct scratch *s = ((struct options_walk *)context)->scratch;
	__u32 kind = next_option(s, &s->option_len);
	bool is_aligned = (s->option_at & 3) == 2;

	(void)i;
	if (kind == TCPOPT_EOL)
		return 1;
	if (kind == TCPOPT_SACK && !is_aligned)
		*option(s, s->option_at) = TCPOPT_EXP;
	else if (kind == TCPOPT_SACK)
		bpf_loop(8, raise_edge, context, 0);
	else if (kind == TCPOPT_TIMESTAMP && is_aligned && s->option_len == TCPOLEN_TIMESTAMP && s->timestamp)
		*word(s, s->option_at + 2) = bpf_htonl(s->timestamp);
	s->option_at += s->option_len;
	return 0;
}

/* Sets s->timestamps_at to the offset of the last timestamp, the one that counts. */
static long find_timestamps(__u32 i, void *context)
{
	struct scratch *s = ((struct options_walk *)context)->scratch;
	__u32 size, kind = next_option(s, &size);

	(void)i;
	if (kind == TCPOPT_EOL)
		return 1;
	if (kind == TCPOPT_TIMESTAMP && size == TCPOLEN_TIMESTAMP)
		s->timestamps_at = s->option_at + 2;
	s->option_at += size;
	return 0;
}

/*
 * TCP reports the header as data received twice (D-SACK, RFC 2883), in the Pod's numbers. Raised it would be right, but
 * of no use, and take the peer through its slow path: NOPs replace it. Linux writes it as the last option.
 */
static __always_inline bool hide_dsack(__be32 *option, __u32 isn, __u32 header_len)
{
	if (option[0] != bpf_htonl(NOP_NOP_SACK) || option[1] != bpf_htonl(isn + 1 - header_len) ||
	    option[2] != bpf_htonl(isn + 1))
		return false;
	option[0] = option[1] = option[2] = bpf_htonl(FOUR_NOPS);
	return true;
}

/*
 * The same by direct access, where the checksum is CHECKSUM_PARTIAL. False: there is no such D-SACK, or it is elsewhere.
 */
static __always_inline bool hide_dsack_in_place(struct __sk_buff *skb, const struct packet *p, __u32 isn, __u32 header_len)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!DIRECT_ACCESS || p->tcp_header_len != OPTIONS_AT + 24 || p->first_option != bpf_htonl(NOP_NOP_TIMESTAMP))
		return false;
	if (p->tcp_offset == TCP_AT_IPV4 && begin + TCP_AT_IPV4 + OPTIONS_AT + 24 <= end &&
	    is_partial(begin + TCP_AT_IPV4, p))
		return hide_dsack(begin + TCP_AT_IPV4 + OPTIONS_AT + 12, isn, header_len);
	if (p->tcp_offset == TCP_AT_IPV6 && begin + TCP_AT_IPV6 + OPTIONS_AT + 24 <= end &&
	    is_partial(begin + TCP_AT_IPV6, p))
		return hide_dsack(begin + TCP_AT_IPV6 + OPTIONS_AT + 12, isn, header_len);
	return false;
}

/* Whether there is no option but a timestamp, as on most packets. */
static __always_inline bool has_no_sack(const struct packet *p)
{
	return p->tcp_header_len == OPTIONS_AT ||
	       (p->tcp_header_len == OPTIONS_AT + 12 && p->first_option == bpf_htonl(NOP_NOP_TIMESTAMP));
}

/* On egress: raises SACK blocks by `by` and sets TSval to `timestamp`, unless that is 0. */
static __noinline void change_options(struct __sk_buff *skb, struct scratch *s, __u32 by, __u32 timestamp)
{
	struct options_walk walk = { s };

	if (read_options(skb, s))
		return;
	s->raise_by = by;
	s->timestamp = timestamp;
	bpf_loop(OPTIONS_SIZE, change_option, &walk, 0);
	write_options(skb, s);
}

/*
 * The offset of the timestamp where Linux writes it: alone, or in a SYN-ACK behind MSS and SACK permitted or NOPs; else
 * 0.
 */
static __always_inline __u32 usual_timestamp_offset(struct __sk_buff *skb, const struct packet *p)
{
	__be32 second;

	if (p->first_option == bpf_htonl(NOP_NOP_TIMESTAMP) && p->tcp_header_len == OPTIONS_AT + 12)
		return 4;
	if ((p->first_option & bpf_htonl(0xffff0000)) != bpf_htonl(MSS) || p->tcp_header_len > OPTIONS_AT + 20 ||
	    p->tcp_header_len < OPTIONS_AT + 16 ||
	    bpf_skb_load_bytes(skb, p->tcp_offset + OPTIONS_AT + 4, &second, sizeof(second)))
		return 0;
	return second == bpf_htonl(SACK_PERMITTED_TIMESTAMP) || second == bpf_htonl(NOP_NOP_TIMESTAMP) ? 8 : 0;
}

/* Reads TSval and TSecr to s->timestamps. False: there is no timestamp. */
static __noinline bool read_timestamps(struct __sk_buff *skb, struct scratch *s)
{
	__u32 at = usual_timestamp_offset(skb, &s->packet);
	struct options_walk walk = { s };

	if (!at) {
		if (read_options(skb, s))
			return false;
		s->timestamps_at = 0;
		bpf_loop(OPTIONS_SIZE, find_timestamps, &walk, 0);
		at = s->timestamps_at;
	}
	return at && !bpf_skb_load_bytes(skb, s->packet.tcp_offset + OPTIONS_AT + at, s->timestamps, sizeof(s->timestamps));
}

/* One option, or one byte of an option that NOPs replace: s->nops_left of them are left. */
static long strip_syn_option(__u32 i, void *context)
{
	struct scratch *s = ((struct options_walk *)context)->scratch;
	__u32 size, kind, magic, left = s->nops_left;

	(void)i;
	if (left) {
		*option(s, s->option_at) = TCPOPT_NOP;
		s->option_at++;
		s->nops_left = left - 1;
		return 0;
	}
	kind = next_option(s, &size);
	if (kind == TCPOPT_EOL)
		return 1;
	magic = *option(s, s->option_at + 2) << 8 | *option(s, s->option_at + 3);
	if (kind == TCPOPT_FASTOPEN || kind == TCPOPT_MPTCP || (kind == TCPOPT_EXP && magic == TCPOPT_FASTOPEN_MAGIC))
		s->nops_left = size;
	else
		s->option_at += size;
	return 0;
}

/*
 * Whether a SYN's options are those of Linux without MPTCP and Fast Open: MSS, SACK permitted, timestamp, NOP, window
 * scale. It spares most SYNs the walk.
 */
static __always_inline bool is_plain_syn(struct __sk_buff *skb, const struct packet *p)
{
	__be32 option[5];

	if (p->tcp_header_len != OPTIONS_AT + sizeof(option) ||
	    bpf_skb_load_bytes(skb, p->tcp_offset + OPTIONS_AT, option, sizeof(option)))
		return false;
	return (option[0] & bpf_htonl(0xffff0000)) == bpf_htonl(MSS) && option[1] == bpf_htonl(SACK_PERMITTED_TIMESTAMP) &&
	       (option[4] & bpf_htonl(0xffffff00)) == bpf_htonl(NOP_WSCALE);
}

/* MPTCP has sequence numbers of its own, which count the header; Fast Open would give data to the application at once. */
static __noinline void strip_syn_options(struct __sk_buff *skb, struct scratch *s)
{
	struct options_walk walk = { s };

	if (read_options(skb, s))
		return;
	s->nops_left = 0;
	bpf_loop(2 * OPTIONS_SIZE, strip_syn_option, &walk, 0);
	write_options(skb, s);
}

/* Ends at the option TOA and sets s->toa_len to its length. */
static long find_toa(__u32 i, void *context)
{
	struct scratch *s = ((struct options_walk *)context)->scratch;
	__u32 size, kind = next_option(s, &size);

	(void)i;
	if (kind == TCPOPT_EOL || s->option_at + size > s->packet.tcp_header_len - OPTIONS_AT)
		return 1;
	if ((kind == TCPOPT_EXP || kind == TCPOPT_TOA) && (size == TCPOLEN_TOA_IPV4 || size == TCPOLEN_TOA_IPV6)) {
		s->toa_len = size;
		return 1;
	}
	s->option_at += size;
	return 0;
}

/* The client that the option TOA states. */
static __always_inline void set_toa_claim(struct srcip_claim *claim, const struct toa *toa, bool is_ipv6)
{
	__be32 *address = (__be32 *)claim->address;

	__builtin_memset(claim, 0, sizeof(*claim));
	claim->port = bpf_ntohs(toa->port);
	claim->family = 4;
	if (!is_ipv6) {
		address[0] = toa->address[0];
	} else if (!toa->address[0] && !toa->address[1] && toa->address[2] == bpf_htonl(0xffff)) {
		address[0] = toa->address[3]; /* IPv4-mapped */
	} else {
		claim->family = 6;
		__builtin_memcpy(address, toa->address, sizeof(toa->address));
	}
}

/* Reads the option TOA. False: there is none of a length that it has. */
static __noinline bool read_toa(struct __sk_buff *skb, struct scratch *s, struct srcip_claim *claim)
{
	__u32 begin = s->packet.tcp_offset + OPTIONS_AT + 2; /* behind kind and length */
	struct options_walk walk = { s };

	s->toa_len = 0;
	if (s->packet.tcp_header_len == OPTIONS_AT || read_options(skb, s))
		return false;
	bpf_loop(OPTIONS_SIZE, find_toa, &walk, 0);
	if (s->toa_len == TCPOLEN_TOA_IPV4) {
		if (bpf_skb_load_bytes(skb, begin + s->option_at, &s->toa.port, TCPOLEN_TOA_IPV4 - 2))
			return false;
		set_toa_claim(claim, &s->toa, false);
		return true;
	}
	if (s->toa_len != TCPOLEN_TOA_IPV6 ||
	    bpf_skb_load_bytes(skb, begin + s->option_at, &s->toa.port, TCPOLEN_TOA_IPV6 - 2))
		return false;
	set_toa_claim(claim, &s->toa, true);
	return true;
}

#endif
