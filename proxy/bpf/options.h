/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* TCP options: a list that is walked in memory, as the verifier follows no such walk through a packet. */
#ifndef SRCIP_OPTIONS_H
#define SRCIP_OPTIONS_H

#include "packet.h"

#define KIND_END 0
#define KIND_NOP 1
#define KIND_SACK 5
#define KIND_TIMESTAMP 8
#define KIND_MPTCP 30
#define KIND_FAST_OPEN 34
#define KIND_TOA 200
#define KIND_EXPERIMENT 254 /* TOA, too, wherever it is no SYN */
#define TOA_IPV4 8           /* bytes: kind, length, port, address */
#define TOA_IPV6 20
#define FAST_OPEN_MAGIC 0xf989 /* RFC 7413, appendix B: of the experiment */
#define ANY_TIME_BEFORE 0x7fffffff
#define ONLY_TIMESTAMP 0x0101080a
#define ONLY_SACK 0x0101050a /* of one block */
#define ONLY_NOPS 0x01010101

struct walk {
	struct work *work;
};

static __always_inline int read_options(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	__u32 size = p->header - OPTIONS_AT;

	__builtin_memset(w->options, 0, sizeof(w->options));
	if (!size || bpf_skb_load_bytes(skb, p->tcp + OPTIONS_AT, w->options, length_of(size, sizeof(w->options))))
		return -1;
	__builtin_memcpy(w->before, w->options, sizeof(w->options));
	w->at = 0;
	return 0;
}

static __always_inline void write_options(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	__u32 size = p->header - OPTIONS_AT;
	__s64 difference;

	difference = bpf_csum_diff((__be32 *)w->before, sizeof(w->before), (__be32 *)w->options, sizeof(w->options), 0);
	bpf_l4_csum_replace(skb, p->tcp + CHECK_AT, 0, difference, 0);
	bpf_skb_store_bytes(skb, p->tcp + OPTIONS_AT, w->options, length_of(size, sizeof(w->options)), 0);
}

/* A byte of the options; the verifier takes an index that was read from a map and masked (see srcip_index). */
static __always_inline __u8 *option(struct work *w, __u32 at)
{
	volatile __u32 *place = &w->place;

	*place = at;
	return &w->options[*place & (sizeof(w->options) - 1)];
}

/* Four bytes of the options, where Linux writes numbers: at a multiple of four. */
static __always_inline __be32 *word(struct work *w, __u32 at)
{
	volatile __u32 *place = &w->place;

	*place = at / 4;
	return &((__be32 *)w->options)[*place & (sizeof(w->options) / 4 - 1)];
}

/* The next option begins at w->at. Returns its kind, or KIND_END; NOPs are like others, of one byte. */
static __always_inline __u32 next_option(struct work *w, __u32 *size)
{
	__u32 at = w->at, kind = *option(w, at);

	*size = *option(w, at + 1);
	if (kind == KIND_NOP)
		*size = 1;
	else if (*size < 2)
		kind = KIND_END;
	return at + *size > w->packet.header - OPTIONS_AT ? KIND_END : kind;
}

static long raise_edge(__u32 i, void *context)
{
	struct work *w = ((struct walk *)context)->work;
	__be32 *edge = word(w, w->at + 2 + i * 4);

	if (2 + i * 4 + 4 > w->size)
		return 1;
	*edge = bpf_htonl(bpf_ntohl(*edge) + w->shift);
	return 0;
}

/*
 * One option: SACK blocks are raised by w->shift, the time is set to w->timestamp, unless that is 0. SACK blocks that stand
 * where Linux writes none lose their kind, as they would be wrong.
 */
static long change_option(__u32 i, void *context)
{
	struct work *w = ((struct walk *)context)->work;
	__u32 kind = next_option(w, &w->size), is_aligned = (w->at & 3) == 2;

	(void)i;
	if (kind == KIND_END)
		return 1;
	if (kind == KIND_SACK && !is_aligned)
		*option(w, w->at) = KIND_EXPERIMENT;
	else if (kind == KIND_SACK)
		bpf_loop(8, raise_edge, context, 0);
	else if (kind == KIND_TIMESTAMP && is_aligned && w->size == 10 && w->timestamp)
		*word(w, w->at + 2) = bpf_htonl(w->timestamp);
	w->at += w->size;
	return 0;
}

/* w->shift is where the last timestamp stands, which is the one that counts; else 0. */
static long find_times(__u32 i, void *context)
{
	struct work *w = ((struct walk *)context)->work;
	__u32 size, kind = next_option(w, &size);

	(void)i;
	if (kind == KIND_END)
		return 1;
	if (kind == KIND_TIMESTAMP && size == 10)
		w->shift = w->at + 2;
	w->at += size;
	return 0;
}

/*
 * TCP reports the header as data that came twice (D-SACK, RFC 2883), in the Pod's numbers. Once raised it would be true, but
 * of no use, and it would send the peer through its slow path: NOPs take its place. It stands last, as Linux writes it.
 */
static __always_inline int hide_header(__be32 *option, __u32 isn, __u32 shift)
{
	if (option[0] != bpf_htonl(ONLY_SACK) || option[1] != bpf_htonl(isn + 1 - shift) || option[2] != bpf_htonl(isn + 1))
		return 0;
	option[0] = option[1] = option[2] = bpf_htonl(ONLY_NOPS);
	return 1;
}

/* The same in a packet of which only the checksum of the addresses is known yet; 0: there is no such report. */
static __always_inline int hide_header_of(struct __sk_buff *skb, const struct packet *p, __u32 isn, __u32 shift)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!IN_PLACE || p->header != OPTIONS_AT + 24 || p->option != bpf_htonl(ONLY_TIMESTAMP))
		return 0;
	if (p->tcp == TCP_AT_IPV4 && begin + TCP_AT_IPV4 + OPTIONS_AT + 24 <= end && is_partial(begin + TCP_AT_IPV4, p))
		return hide_header(begin + TCP_AT_IPV4 + OPTIONS_AT + 12, isn, shift);
	if (p->tcp == TCP_AT_IPV6 && begin + TCP_AT_IPV6 + OPTIONS_AT + 24 <= end && is_partial(begin + TCP_AT_IPV6, p))
		return hide_header(begin + TCP_AT_IPV6 + OPTIONS_AT + 12, isn, shift);
	return 0;
}

/* Whether there is no option but, as on most packets, a timestamp. */
static __always_inline int has_no_sack(const struct packet *p)
{
	return p->header == OPTIONS_AT || (p->header == OPTIONS_AT + 12 && p->option == bpf_htonl(ONLY_TIMESTAMP));
}

/* On the way out: SACK blocks are raised by `by`; the time is `timestamp`, unless that is 0. */
static __noinline void change_options(struct __sk_buff *skb, struct work *w, __u32 by, __u32 timestamp)
{
	struct walk walk = { w };

	if (read_options(skb, w))
		return;
	w->shift = by;
	w->timestamp = timestamp;
	bpf_loop(OPTIONS_SIZE, change_option, &walk, 0);
	write_options(skb, w);
}

/* Where Linux writes the timestamp: alone, or in a SYN-ACK behind MSS and, as one of these, SACK or NOPs. */
static __always_inline __u32 usual_times(struct __sk_buff *skb, const struct packet *p)
{
	__be32 second;

	if (p->option == bpf_htonl(ONLY_TIMESTAMP) && p->header == OPTIONS_AT + 12)
		return 4;
	if ((p->option & bpf_htonl(0xffff0000)) != bpf_htonl(0x02040000) || p->header > OPTIONS_AT + 20 ||
	    p->header < OPTIONS_AT + 16 || bpf_skb_load_bytes(skb, p->tcp + OPTIONS_AT + 4, &second, sizeof(second)))
		return 0;
	return second == bpf_htonl(0x0402080a) || second == bpf_htonl(ONLY_TIMESTAMP) ? 8 : 0;
}

/* Reads the option timestamp to w->times; 0 where there is none. */
static __noinline int read_times(struct __sk_buff *skb, struct work *w)
{
	__u32 at = usual_times(skb, &w->packet);
	struct walk walk = { w };

	if (!at) {
		if (read_options(skb, w))
			return 0;
		w->shift = 0;
		bpf_loop(OPTIONS_SIZE, find_times, &walk, 0);
		at = w->shift;
	}
	return at && !bpf_skb_load_bytes(skb, w->packet.tcp + OPTIONS_AT + at, w->times, sizeof(w->times));
}

/* One option, or one byte of an option that goes; w->shift tells how many of those are left. */
static long withdraw_offer(__u32 i, void *context)
{
	struct work *w = ((struct walk *)context)->work;
	__u32 size, kind, magic, left = w->shift;

	(void)i;
	if (left) {
		*option(w, w->at) = KIND_NOP;
		w->at++;
		w->shift = left - 1;
		return 0;
	}
	kind = next_option(w, &size);
	if (kind == KIND_END)
		return 1;
	magic = *option(w, w->at + 2) << 8 | *option(w, w->at + 3);
	if (kind == KIND_FAST_OPEN || kind == KIND_MPTCP || (kind == KIND_EXPERIMENT && magic == FAST_OPEN_MAGIC))
		w->shift = size;
	else
		w->at += size;
	return 0;
}

/*
 * Whether a SYN's options are as Linux writes them, with nothing to withdraw: MSS, SACK, timestamp, NOP, window scale.
 * It spares most of them the walk.
 */
static __always_inline int is_plain_syn(struct __sk_buff *skb, const struct packet *p)
{
	__be32 option[5];

	if (p->header != OPTIONS_AT + sizeof(option) || bpf_skb_load_bytes(skb, p->tcp + OPTIONS_AT, option, sizeof(option)))
		return 0;
	return (option[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0x02040000) && option[1] == bpf_htonl(0x0402080a) &&
	       (option[4] & bpf_htonl(0xffffff00)) == bpf_htonl(0x01030300);
}

/* MPTCP has numbers of its own, which count the header; Fast Open would hand data to the application at once. */
static __noinline void withdraw_offers(struct __sk_buff *skb, struct work *w)
{
	struct walk walk = { w };

	if (read_options(skb, w))
		return;
	w->shift = 0;
	bpf_loop(2 * OPTIONS_SIZE, withdraw_offer, &walk, 0);
	write_options(skb, w);
}

/* Ends at the option TOA; w->shift tells its length then. */
static long find_toa(__u32 i, void *context)
{
	struct work *w = ((struct walk *)context)->work;
	__u32 size, kind = next_option(w, &size);

	(void)i;
	if (kind == KIND_END || w->at + size > w->packet.header - OPTIONS_AT)
		return 1;
	if ((kind == KIND_EXPERIMENT || kind == KIND_TOA) && (size == TOA_IPV4 || size == TOA_IPV6)) {
		w->shift = size;
		return 1;
	}
	w->at += size;
	return 0;
}

/* An address of the option TOA. */
static __always_inline void claim_toa(struct srcip_claim *claim, const struct toa *toa, __u32 is_ipv6)
{
	__be32 *address = (__be32 *)claim->address;

	__builtin_memset(claim, 0, sizeof(*claim));
	claim->port = bpf_ntohs(toa->port);
	claim->family = 4;
	if (!is_ipv6) {
		address[0] = toa->address[0];
	} else if (!toa->address[0] && !toa->address[1] && toa->address[2] == bpf_htonl(0xffff)) {
		address[0] = toa->address[3]; /* IPv4 in the clothes of IPv6 */
	} else {
		claim->family = 6;
		__builtin_memcpy(address, toa->address, sizeof(toa->address));
	}
}

/* What the option TOA of the packet says of the client. One of any other length is none. */
static __noinline int read_toa(struct __sk_buff *skb, struct work *w, struct srcip_claim *claim)
{
	__u32 begin = w->packet.tcp + OPTIONS_AT + 2; /* behind kind and length */
	struct walk walk = { w };

	w->shift = 0;
	if (w->packet.header == OPTIONS_AT || read_options(skb, w))
		return 0;
	bpf_loop(OPTIONS_SIZE, find_toa, &walk, 0);
	if (w->shift == TOA_IPV4) {
		if (bpf_skb_load_bytes(skb, begin + w->at, &w->toa.port, TOA_IPV4 - 2))
			return 0;
		claim_toa(claim, &w->toa, 0);
		return 1;
	}
	if (w->shift != TOA_IPV6 || bpf_skb_load_bytes(skb, begin + w->at, &w->toa.port, TOA_IPV6 - 2))
		return 0;
	claim_toa(claim, &w->toa, 1);
	return 1;
}

#endif
