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

static __always_inline int refuse(struct __sk_buff *skb, struct work *w, struct pending *pending, __u32 counter)
{
	pending->is_refused = 1;
	count(counter);
	if (pending->is_held)
		bpf_map_delete_elem(&headers, &w->packet.flow);
	return refuse_packet(skb, w);
}

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

/* The header (of `length` bytes; 0: there is none) is whole: from now on the connection is known. */
static __noinline int promote(struct __sk_buff *skb, struct work *w, struct pending *pending, __u32 length)
{
	struct packet *p = &w->packet;
	__u32 was_held = pending->is_held, state = TCP_NEW_SYN_RECV;

	if (pending->is_cookie || p->seq + p->payload == w->attempt.isn + 1 + length) /* for all others the state makes no difference */
		state = state_of(skb, &p->flow);
	w->live.isn = w->attempt.isn;
	w->live.shift = length;
	w->live.is_ending = 0;
	w->live.peer_end = w->live.isn; /* before everything: no FIN can end there */
	if (add_live(skb, w))
		return refuse(skb, w, pending, REFUSED_NO_ROOM);
	bpf_map_delete_elem(&attempts, &w->attempt);
	if (was_held)
		bpf_map_delete_elem(&headers, &p->flow);
	if (state == TCP_LISTEN)
		bpf_map_delete_elem(&cookies, &p->flow);
	return deliver(skb, w, state);
}

static __always_inline int promote_none(struct __sk_buff *skb, struct work *w, struct pending *pending)
{
	__builtin_memset(&w->live, 0, sizeof(w->live));
	count(ACCEPTED_NONE);
	return promote(skb, w, pending, 0);
}

static __noinline int promote_claim(struct __sk_buff *skb, struct work *w, struct pending *pending,
				    const struct srcip_claim *claim)
{
	struct settings *settings = get_settings();
	const __be32 *address = (const __be32 *)claim->address;
	__u32 family = claim->family, counter = family ? ACCEPTED_PROXY : ACCEPTED_LOCAL;

	if (!settings)
		return DROP;
	if (!claim->version) /* no header, and nothing to lower sequence numbers by */
		counter = ACCEPTED_TOA;
	if (!srcip_usable(claim, &settings->own))
		return refuse(skb, w, pending, REFUSED_UNUSABLE_ADDRESS);
	if (family == 6 && !w->packet.is_ipv6 && !can_show_ipv6(skb, &w->packet.flow)) {
		if (settings->is_exact)
			return refuse(skb, w, pending, REFUSED_FAMILY);
		count(FALLBACK_FAMILY);
		family = 0;
	}
	w->live.family = family;
	w->live.port = bpf_htons(claim->port);
	if (family == 6)
		__builtin_memcpy(w->live.client, address, 16);
	else
		set_ipv4(w->live.client, address[0]);
	count(counter);
	return promote(skb, w, pending, claim->length);
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

/* Reads `size` bytes of the payload, from `skip` on, into w->held. */
static __noinline int read_header(struct __sk_buff *skb, struct work *w, __u32 skip, __u32 size)
{
	struct packet *p = &w->packet;

	if (!size || size > SRCIP_MAX_HEADER)
		return -1;
	w->held.scratch.have = size;
	return bpf_skb_load_bytes(skb, p->tcp + p->header + skip, w->held.scratch.bytes,
				  length_of(size, SRCIP_MAX_HEADER));
}

/* Puts what was read behind what is held. */
static __noinline void append(struct work *w, struct held *held)
{
	struct {
		struct srcip_scratch *to, *from;
	} both = { &held->scratch, &w->held.scratch };

	bpf_loop(SRCIP_MAX_HEADER, append_byte, &both, 0);
}

/* The header goes on: its part is kept, and the kernel made to acknowledge it. */
static __noinline int hold(struct __sk_buff *skb, struct work *w, struct pending *pending, __u32 have)
{
	struct packet *p = &w->packet;
	int failure;

	if (!pending->is_held) {
		w->held.isn = w->attempt.isn;
		w->held.since = bpf_ktime_get_coarse_ns();
		w->held.timestamp = read_echo(skb, w);
		failure = add_held(w);
		if (failure == -ENOMEM) /* for a moment: it comes again */
			return DROP;
		if (failure)
			return refuse(skb, w, pending, REFUSED_NO_ROOM);
		pending->is_held = 1;
	}
	if (state_of(skb, &p->flow) != TCP_NEW_SYN_RECV)
		return DROP; /* a SYN cookie: nobody is there who could acknowledge it */
	set_seq(skb, p, p->seq - have);
	return PASS;
}

/* `fresh` bytes of the payload, from `skip` on, are new. */
static __noinline int on_payload(struct __sk_buff *skb, struct work *w, struct pending *pending, struct held *held,
				 __u32 skip)
{
	struct settings *settings = get_settings();
	struct packet *p = &w->packet;
	struct srcip_scratch *scratch = held ? &held->scratch : &w->held.scratch;
	__u32 have = held ? scratch->have : 0, fresh = p->payload - skip, size = fresh;
	int verdict;

	if (!settings || have > SRCIP_MAX_HEADER)
		return DROP;
	if (size > SRCIP_MAX_HEADER - have)
		size = SRCIP_MAX_HEADER - have;
	if (read_header(skb, w, skip, size))
		return DROP;
	if (held)
		append(w, held);
	verdict = srcip_parse(scratch, &settings->limits);
	if (verdict == SRCIP_ACCEPT)
		return promote_claim(skb, w, pending, &scratch->claim);
	if (verdict == SRCIP_REJECT) {
		if (scratch->reason == SRCIP_NO_HEADER && pending->policy == OPTIONAL && !held)
			return promote_none(skb, w, pending);
		return refuse(skb, w, pending, counter_of(scratch->reason));
	}
	if (p->flags & FIN)
		return refuse(skb, w, pending, REFUSED_HEADER_CLOSED);
	if (size < fresh)
		return refuse(skb, w, pending, REFUSED_TOO_LONG);
	return hold(skb, w, pending, have + size);
}

/* Nothing new in it: an ACK, or the end. */
static __always_inline int on_silence(struct __sk_buff *skb, struct work *w, struct pending *pending,
				      struct held *held, __u32 is_late)
{
	struct packet *p = &w->packet;

	if (p->flags & FIN)
		return refuse(skb, w, pending, held ? REFUSED_HEADER_CLOSED : REFUSED_EMPTY);
	if (is_late && !held && pending->policy == OPTIONAL)
		return promote_none(skb, w, pending);
	if (is_late)
		return refuse(skb, w, pending, REFUSED_HEADER_TIMEOUT);
	if (!p->payload || !held || state_of(skb, &p->flow) != TCP_NEW_SYN_RECV)
		return DROP; /* above all the ACK that ends the handshake */
	set_seq(skb, p, p->seq - held->scratch.have);
	return PASS;
}

/*
 * A packet of a handshake that waits for the option TOA. It may be on the ACK, which then ends the handshake as it is, or
 * on the first data.
 */
static __noinline int on_option(struct __sk_buff *skb, struct work *w, struct pending *pending, __u32 is_late)
{
	struct srcip_claim *claim = &w->held.scratch.claim;

	if (read_toa(skb, w, claim))
		return promote_claim(skb, w, pending, claim);
	if (!w->packet.payload)
		return on_silence(skb, w, pending, 0, is_late);
	if (pending->policy == OPTIONAL)
		return promote_none(skb, w, pending);
	return refuse(skb, w, pending, REFUSED_NO_OPTION);
}

/* A packet of a handshake that waits for its header. */
static __always_inline int on_pending(struct __sk_buff *skb, struct work *w, struct pending *pending, struct held *held)
{
	struct settings *settings = get_settings();
	struct packet *p = &w->packet;
	__u32 offset = p->seq - (w->attempt.isn + 1), have = held ? held->scratch.have : 0, is_late;

	if (!settings)
		return DROP;
	if (pending->is_refused)
		return refuse_packet(skb, w);
	if (pending->is_held && !held) /* it made room for others, after its time */
		return refuse(skb, w, pending, REFUSED_HEADER_TIMEOUT);
	if (offset > have || p->ack != pending->iss + 1) {
		count(DROPPED_EARLY);
		return DROP;
	}
	is_late = bpf_ktime_get_coarse_ns() - pending->since > settings->timeout_ms * 1000000ULL;
	if (settings->is_toa)
		return on_option(skb, w, pending, is_late);
	if (have - offset >= p->payload)
		return on_silence(skb, w, pending, held, is_late);
	if (is_late && (held || pending->policy == REQUIRED))
		return refuse(skb, w, pending, REFUSED_HEADER_TIMEOUT);
	return on_payload(skb, w, pending, held, have - offset);
}

/* A packet that belongs to no handshake that was seen. */
static __always_inline int on_stray(struct __sk_buff *skb, struct work *w)
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

static __always_inline int on_unknown(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct pending *pending;
	struct held *held = 0;

	w->attempt.flow = p->flow;
	w->attempt.isn = p->seq - 1;
	pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	if (!pending || pending->is_held)
		held = bpf_map_lookup_elem(&headers, &p->flow);
	if (!pending && held) {
		w->attempt.isn = held->isn;
		pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	}
	if (held && held->isn != w->attempt.isn) /* of an earlier handshake of the same addresses */
		held = 0;
	if (p->flags & RST) {
		if (held)
			set_seq(skb, p, p->seq - held->scratch.have);
		return PASS;
	}
	if (!pending)
		return on_stray(skb, w);
	return on_pending(skb, w, pending, held);
}

#endif
