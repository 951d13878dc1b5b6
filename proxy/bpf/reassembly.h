/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A header in one segment or in several: its parts are read, judged, and kept until it is whole. */
#ifndef SRCIP_REASSEMBLY_H
#define SRCIP_REASSEMBLY_H

#include "verdict.h"

static long append_byte(__u32 i, void *context)
{
	struct {
		struct srcip_scratch *to, *from;
	} *both = context;
	__u32 at = both->to->have;

	if (i >= both->from->have)
		return 1;
	both->to->bytes[srcip_index(&both->to->reading, at, SRCIP_MAX_HEADER)] =
		both->from->bytes[srcip_index(&both->from->reading, i, SRCIP_MAX_HEADER)];
	both->to->have = at + 1;
	return 0;
}

/* Reads `size` bytes of the payload, from `skip` on. */
static __noinline int read_header(struct __sk_buff *skb, struct work *w, struct held *to, __u32 skip, __u32 size)
{
	struct packet *p = &w->packet;

	if (!size || size > SRCIP_MAX_HEADER)
		return -1;
	to->scratch.have = size;
	return bpf_skb_load_bytes(skb, p->tcp + p->header + skip, to->scratch.bytes, length_of(size, SRCIP_MAX_HEADER));
}

static long copy_word(__u32 i, void *context)
{
	struct {
		struct srcip_scratch *to, *from;
	} *both = context;
	__u32 at = srcip_index(&both->from->reading, i * 8, SRCIP_MAX_HEADER) & ~7;

	if (i * 8 >= both->from->have)
		return 1;
	*(__u64 *)&both->to->bytes[at] = *(__u64 *)&both->from->bytes[at];
	return 0;
}

/* Puts what was read behind what is held, and all of that in the place of what was read. */
static __noinline void append(struct held *part, struct held *held)
{
	struct {
		struct srcip_scratch *to, *from;
	} more = { &held->scratch, &part->scratch }, all = { &part->scratch, &held->scratch };

	bpf_loop(SRCIP_MAX_HEADER, append_byte, &more, 0);
	bpf_loop(SRCIP_MAX_HEADER / 8, copy_word, &all, 0);
	part->scratch.have = held->scratch.have;
}

/* The first part of a header. */
static __noinline int on_first(struct __sk_buff *skb, struct work *w)
{
	__u32 payload = w->packet.payload, size = payload;
	struct held *part = get_fresh();

	if (!part)
		return DROP;
	if (size > SRCIP_MAX_HEADER)
		size = SRCIP_MAX_HEADER;
	w->is_cut = size < payload;
	return read_header(skb, w, part, 0, size) ? DROP : JUDGE;
}

/* Another part: bytes of the payload, from `skip` on, are new. */
static __noinline int on_next(struct __sk_buff *skb, struct work *w, struct held *held, __u32 skip)
{
	__u32 have = held->scratch.have, fresh = w->packet.payload - skip, size = fresh;
	struct held *part = get_fresh();

	if (!part || have > SRCIP_MAX_HEADER)
		return DROP;
	if (size > SRCIP_MAX_HEADER - have)
		size = SRCIP_MAX_HEADER - have;
	w->is_cut = size < fresh;
	if (read_header(skb, w, part, skip, size))
		return DROP;
	append(part, held);
	return JUDGE;
}

/* What the header so far means. */
static __noinline int judge(struct work *w, struct pending *pending, struct held *part)
{
	struct settings *settings = get_settings();
	int verdict;

	if (!settings)
		return DROP;
	verdict = srcip_parse(&part->scratch, &settings->limits);
	if (verdict == SRCIP_ACCEPT)
		return CLAIM;
	if (verdict == SRCIP_REJECT) {
		if (part->scratch.reason == SRCIP_NO_HEADER && pending->policy == OPTIONAL && !pending->is_held)
			return NATIVE;
		return REFUSE + counter_of(part->scratch.reason);
	}
	if (w->packet.flags & FIN)
		return REFUSE + REFUSED_HEADER_CLOSED;
	return w->is_cut ? REFUSE + REFUSED_TOO_LONG : HOLD;
}

/* The header goes on: its first part is kept. 0, or what becomes of the packet. */
static __noinline int keep(struct work *w, struct pending *pending, struct held *first)
{
	int failure;

	first->isn = w->attempt.isn;
	first->since = bpf_ktime_get_coarse_ns();
	failure = add_held(w, first);
	if (failure == -ENOMEM) /* for a moment: it comes again */
		return DROP;
	if (failure)
		return REFUSE + REFUSED_NO_ROOM;
	pending->is_held = 1;
	return 0;
}

/* The beginning of a header, of `have` bytes: the kernel is made to acknowledge them. */
static __noinline int hold(struct __sk_buff *skb, struct work *w, struct pending *pending, struct held *part)
{
	struct packet *p = &w->packet;
	__u32 have = part->scratch.have;
	int failure;

	if (!pending->is_held) {
		failure = keep(w, pending, part);
		if (failure)
			return failure;
	}
	if (state_of(skb, &p->flow) != TCP_NEW_SYN_RECV)
		return DROP; /* a SYN cookie: nobody is there who could acknowledge it */
	set_seq(skb, p, p->seq - have);
	return PASS;
}

#endif
