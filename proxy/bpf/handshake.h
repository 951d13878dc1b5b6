/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From the handshake to the end of the header: what is held back, what is refused, and what makes a connection known. */
#ifndef SRCIP_HANDSHAKE_H
#define SRCIP_HANDSHAKE_H

#include "connections.h"
#include "options.h"

#define PASS (-1) /* TC_ACT_UNSPEC: whoever is attached behind sees the packet, too */
#define DROP 2
#define HALF_A_SPACE 0x40000000
#define COPIED 0x7371 /* a mark, seen by nobody else */

/*
 * A copy of the packet arrives behind it. It must not be copied again, or the programs would never stop where the kernel
 * takes neither (the listener's queue is full).
 */
static __always_inline void copy(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	skb->mark = COPIED;
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	skb->mark = mark;
}

static __always_inline int is_copy(struct __sk_buff *skb)
{
	if (skb->mark != COPIED)
		return 0;
	skb->mark = 0;
	return 1;
}

/*
 * The request goes away and the peer gets an RST, both by the kernel's own hand: this packet becomes an RST for the
 * request, and a copy of it meets the listener, which answers an ACK that belongs to nothing with RST. The copy's sequence
 * number is off, or a SYN cookie could make a connection of it.
 */
static __noinline int refuse_packet(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	int was_copied = is_copy(skb);

	if (state_of(skb, &p->flow) != TCP_NEW_SYN_RECV) {
		bpf_map_delete_elem(&cookies, &p->flow);
		set_seq(skb, p, p->seq ^ HALF_A_SPACE);
		return PASS;
	}
	if (was_copied)
		return DROP;
	copy(skb);
	set_flags(skb, p, RST | ACK);
	set_seq(skb, p, w->attempt.isn + 1);
	return PASS;
}

/*
 * What becomes of a packet of a handshake, beside PASS and DROP. Each step says the next one, and all are taken at one place
 * (conclude): the verifier walks through a function again wherever it is called.
 */
enum outcome {
	JUDGE = 16, /* w's part of a header was read */
	HOLD,       /* it is the beginning of one */
	CLAIM,      /* it is whole, or there is an option: both state a client */
	NATIVE,     /* there is none, and none is needed */
	PROMOTE,    /* w->live is what is known from now on */
	AGAIN,      /* it was refused before */
	REFUSE = 32 /* and the counter of the reason */
};

static __always_inline __u32 counter_of(__u32 reason)
{
	switch (reason) {
	case SRCIP_NO_HEADER: return REFUSED_NO_HEADER;
	case SRCIP_VERSION: return REFUSED_VERSION;
	case SRCIP_TOO_LONG: return REFUSED_TOO_LONG;
	case SRCIP_CHECKSUM: return REFUSED_CHECKSUM;
	default: return REFUSED_MALFORMED;
	}
}

/* The segment that completes the header, or one like it: `w->live.shift` bytes are the header. */
static __always_inline int deliver(struct __sk_buff *skb, struct work *w, __u32 state)
{
	struct packet *p = &w->packet;
	__u32 expected = w->live.isn + 1, seq = p->seq - w->live.shift;
	int was_copied = is_copy(skb);

	if (!w->live.shift) /* no header: the packet is what it was */
		return PASS;
	/*
	 * A request takes no segment that ends where it should begin; a SYN cookie knows just the number it expects.
	 * Nobody answers a bare ACK, though a sender may wait for one (Nagle): the connection meets a copy, as old data.
	 */
	if ((state == TCP_NEW_SYN_RECV && seq + p->payload == expected && p->payload) || state == TCP_LISTEN) {
		if (was_copied) /* it comes again from the peer */
			return DROP;
		if (state == TCP_LISTEN || !(p->flags & FIN))
			copy(skb);
		if (state == TCP_LISTEN) /* an end comes behind the data, with the copy */
			set_flags(skb, p, ACK);
		return trim(skb, w, expected) ? DROP : PASS;
	}
	set_seq(skb, p, seq);
	return PASS;
}

/* From now on the connection is known, as w->live says; its header is w->live.shift bytes long. */
static __noinline int promote(struct __sk_buff *skb, struct work *w, struct pending *pending)
{
	struct packet *p = &w->packet;
	__u32 was_held = pending->is_held, state = TCP_NEW_SYN_RECV;

	w->live.isn = w->attempt.isn;
	w->live.is_ending = 0;
	w->live.peer_end = w->live.isn; /* before everything: no FIN can end there */
	if (pending->is_cookie || p->seq + p->payload == w->live.isn + 1 + w->live.shift) /* else it does not matter */
		state = state_of(skb, &p->flow);
	if (add_live(skb, w))
		return REFUSE + REFUSED_NO_ROOM;
	count(w->counter);
	bpf_map_delete_elem(&attempts, &w->attempt);
	if (was_held)
		bpf_map_delete_elem(&headers, &p->flow);
	if (state == TCP_LISTEN)
		bpf_map_delete_elem(&cookies, &p->flow);
	return deliver(skb, w, state);
}

static __always_inline int be_native(struct work *w)
{
	__builtin_memset(&w->live, 0, sizeof(w->live));
	w->counter = ACCEPTED_NONE;
	return PROMOTE;
}

static __noinline int take_claim(struct __sk_buff *skb, struct work *w, const struct srcip_claim *claim)
{
	struct settings *settings = get_settings();
	const __be32 *address = (const __be32 *)claim->address;
	__u32 family = claim->family;

	if (!settings)
		return DROP;
	w->counter = family ? ACCEPTED_PROXY : ACCEPTED_LOCAL;
	if (!claim->version) /* no header, and nothing to lower sequence numbers by */
		w->counter = ACCEPTED_TOA;
	if (!srcip_usable(claim, &settings->own))
		return REFUSE + REFUSED_UNUSABLE_ADDRESS;
	if (family == 6 && !w->packet.is_ipv6 && !can_show_ipv6(skb, w)) {
		if (settings->is_exact)
			return REFUSE + REFUSED_FAMILY;
		count(FALLBACK_FAMILY);
		family = 0;
	}
	w->live.family = family;
	w->live.port = bpf_htons(claim->port);
	w->live.shift = claim->length;
	if (family == 6)
		__builtin_memcpy(w->live.client, address, 16);
	else
		set_ipv4(w->live.client, address[0]);
	return PROMOTE;
}

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
static __noinline int keep(struct __sk_buff *skb, struct work *w, struct pending *pending, struct held *first)
{
	int failure;

	first->isn = w->attempt.isn;
	first->since = bpf_ktime_get_coarse_ns();
	first->timestamp = read_echo(skb, w);
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
		failure = keep(skb, w, pending, part);
		if (failure)
			return failure;
	}
	if (state_of(skb, &p->flow) != TCP_NEW_SYN_RECV)
		return DROP; /* a SYN cookie: nobody is there who could acknowledge it */
	set_seq(skb, p, p->seq - have);
	return PASS;
}

/* Nothing new in it: an ACK, or the end. */
static __always_inline int on_silence(struct __sk_buff *skb, struct work *w, struct pending *pending, __u32 have,
				      __u32 is_late)
{
	struct packet *p = &w->packet;

	if (p->flags & FIN)
		return REFUSE + (have ? REFUSED_HEADER_CLOSED : REFUSED_EMPTY);
	if (is_late && !have && pending->policy == OPTIONAL)
		return NATIVE;
	if (is_late)
		return REFUSE + REFUSED_HEADER_TIMEOUT;
	if (!p->payload || !have || state_of(skb, &p->flow) != TCP_NEW_SYN_RECV)
		return DROP; /* above all the ACK that ends the handshake */
	set_seq(skb, p, p->seq - have);
	return PASS;
}

/*
 * A packet of a handshake that waits for the option TOA. It may be on the ACK, which then ends the handshake as it is, or
 * on the first data.
 */
static __noinline int on_option(struct __sk_buff *skb, struct work *w, struct pending *pending, __u32 is_late)
{
	struct held *part = get_fresh();

	if (!part)
		return DROP;
	if (read_toa(skb, w, &part->scratch.claim))
		return CLAIM;
	if (!w->packet.payload)
		return on_silence(skb, w, pending, 0, is_late);
	return pending->policy == OPTIONAL ? NATIVE : REFUSE + REFUSED_NO_OPTION;
}

/* Whether a packet cannot belong to the handshake, of whose header `have` bytes are there. */
static __always_inline int is_early(struct work *w, struct pending *pending, __u32 have)
{
	if (w->packet.seq - (w->attempt.isn + 1) <= have && w->packet.ack == pending->iss + 1)
		return 0;
	count(DROPPED_EARLY);
	return 1;
}

static __always_inline int is_over(struct settings *settings, struct pending *pending)
{
	return bpf_ktime_get_coarse_ns() - pending->since > settings->timeout_ms * 1000000ULL;
}

/* A packet of a handshake that waits for its header. */
static __noinline int on_waiting(struct __sk_buff *skb, struct work *w, struct pending *pending)
{
	struct settings *settings = get_settings();
	__u32 is_late;

	if (!settings)
		return DROP;
	if (pending->is_refused)
		return AGAIN;
	if (is_early(w, pending, 0))
		return DROP;
	is_late = is_over(settings, pending);
	if (settings->is_toa)
		return on_option(skb, w, pending, is_late);
	if (!w->packet.payload)
		return on_silence(skb, w, pending, 0, is_late);
	if (is_late && pending->policy == REQUIRED)
		return REFUSE + REFUSED_HEADER_TIMEOUT;
	return on_first(skb, w);
}

/* A packet of a handshake of whose header a part is there. */
static __noinline int on_held(struct __sk_buff *skb, struct work *w, struct pending *pending, struct held *held)
{
	struct settings *settings = get_settings();
	struct packet *p = &w->packet;
	__u32 have = held->scratch.have, offset = p->seq - (w->attempt.isn + 1), is_late;

	if (!settings)
		return DROP;
	if (pending->is_refused)
		return AGAIN;
	if (is_early(w, pending, have))
		return DROP;
	is_late = is_over(settings, pending);
	if (have - offset >= p->payload)
		return on_silence(skb, w, pending, have, is_late);
	if (is_late)
		return REFUSE + REFUSED_HEADER_TIMEOUT;
	return on_next(skb, w, held, have - offset);
}

/* A packet that belongs to no handshake that was seen. */
static __noinline int on_stray(struct __sk_buff *skb, struct work *w)
{
	struct flow *flow = &w->packet.flow;
	__u32 state = state_of(skb, flow);

	if (state == TCP_NEW_SYN_RECV || (state == TCP_LISTEN && bpf_map_lookup_elem(&cookies, flow))) {
		count(DROPPED_EARLY);
		return DROP;
	}
	if (state == TCP_LISTEN) /* refused by the kernel, even if it were the answer to a SYN cookie */
		set_seq(skb, &w->packet, w->packet.seq ^ HALF_A_SPACE);
	return PASS; /* of a connection that is older than the rules or begun by the Pod */
}

/* Takes the steps that are left. */
static __noinline int conclude(struct __sk_buff *skb, struct work *w, struct pending *pending, int outcome)
{
	struct held *part = get_fresh();

	if (!part)
		return DROP;
	if (outcome == JUDGE)
		outcome = judge(w, pending, part);
	if (outcome == HOLD)
		outcome = hold(skb, w, pending, part);
	if (outcome == CLAIM)
		outcome = take_claim(skb, w, &part->scratch.claim);
	if (outcome == NATIVE)
		outcome = be_native(w);
	if (outcome == PROMOTE)
		outcome = promote(skb, w, pending);
	if (outcome >= REFUSE) {
		pending->is_refused = 1;
		count(outcome - REFUSE);
		if (pending->is_held)
			bpf_map_delete_elem(&headers, &w->packet.flow);
		outcome = AGAIN;
	}
	return outcome == AGAIN ? refuse_packet(skb, w) : outcome;
}

static __always_inline int on_unknown(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct pending *pending;
	struct held *held;

	w->attempt.flow = p->flow;
	w->attempt.isn = p->seq - 1;
	pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	if (pending && !pending->is_held)
		return p->flags & RST ? PASS : conclude(skb, w, pending, on_waiting(skb, w, pending));
	held = bpf_map_lookup_elem(&headers, &p->flow);
	if (p->flags & RST) {
		if (held)
			set_seq(skb, p, p->seq - held->scratch.have);
		return PASS;
	}
	if (held) {
		w->attempt.isn = held->isn;
		pending = bpf_map_lookup_elem(&attempts, &w->attempt);
		return pending ? conclude(skb, w, pending, on_held(skb, w, pending, held)) : on_stray(skb, w);
	}
	pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	if (!pending)
		return on_stray(skb, w);
	/* a part of its header made room for others, after its time */
	return conclude(skb, w, pending, pending->is_refused ? AGAIN : REFUSE + REFUSED_HEADER_TIMEOUT);
}

#endif
