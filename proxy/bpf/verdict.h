/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What becomes of a packet of a handshake: it is refused, or it makes its connection known. */
#ifndef SRCIP_VERDICT_H
#define SRCIP_VERDICT_H

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
		forget_cookie(w);
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
		if (was_copied && state == TCP_LISTEN) /* it comes again from the peer */
			return DROP;
		if (was_copied) { /* not taken: the listener waits for data (TCP_DEFER_ACCEPT), or its queue is full */
			set_seq(skb, p, seq); /* the request acknowledges it as old data */
			return PASS;
		}
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
	w->live.iss = pending->iss;
	w->live.is_ending = 0;
	w->live.is_told = 0;
	w->live.is_reset = 0;
	w->live.unsure = 0;
	w->live.timestamp = pending->has_times ? pending->last : 0;
	if (pending->is_cookie || p->seq + p->payload == w->live.isn + 1 + w->live.shift) /* else it does not matter */
		state = state_of(skb, &p->flow);
	if (add_live(skb, w))
		return REFUSE + REFUSED_NO_ROOM;
	count(w->counter);
	bpf_map_delete_elem(&attempts, &w->attempt);
	if (was_held)
		bpf_map_delete_elem(&headers, &p->flow);
	if (state == TCP_LISTEN)
		forget_cookie(w);
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
	if (!srcip_usable(claim))
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

#endif
