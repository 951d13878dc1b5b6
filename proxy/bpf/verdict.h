/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What happens to a packet of a handshake: its connection is rejected, or established with its client. */
#ifndef SRCIP_VERDICT_H
#define SRCIP_VERDICT_H

#include "connections.h"
#include "options.h"

/* A packet that goes on gets TC_ACT_UNSPEC, so that programs that are attached behind these see it, too. */
#define OUT_OF_WINDOW 0x40000000 /* bit of a sequence number: with it inverted no window holds the number */
#define CLONE_MARK 0x7371 /* skb->mark of a clone until it arrives here */

/*
 * Sends a clone of the packet into the interface again, behind it. A clone must not be cloned, or it would never end
 * where the kernel accepts neither packet (the listener's queue is full).
 */
static __always_inline void clone_to_ingress(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	skb->mark = CLONE_MARK;
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	skb->mark = mark;
}

/* Whether the packet is a clone; clears its mark. */
static __always_inline bool take_clone_mark(struct __sk_buff *skb)
{
	if (skb->mark != CLONE_MARK)
		return false;
	skb->mark = 0;
	return true;
}

/*
 * Lets the kernel delete the request socket and send the peer an RST: this packet becomes an RST for the request socket,
 * and a clone of it reaches the listener, which answers an ACK of no connection by RST. The sequence number of the clone
 * is out of the window, or it could complete a SYN cookie.
 */
static __noinline int reject_connection(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	bool is_clone = take_clone_mark(skb);

	if (socket_state(skb, s, &p->flow) != TCP_NEW_SYN_RECV) {
		delete_syncookie(s);
		set_seq(skb, p, p->seq ^ OUT_OF_WINDOW);
		return TC_ACT_UNSPEC;
	}
	if (is_clone)
		return TC_ACT_SHOT;
	clone_to_ingress(skb);
	set_flags(skb, p, RST | ACK);
	set_seq(skb, p, s->handshake_key.isn + 1);
	return TC_ACT_UNSPEC;
}

/*
 * The next step for a packet of a handshake, beside TC_ACT_UNSPEC and TC_ACT_SHOT. Each step returns the next one, and
 * apply_verdict() alone calls them: the verifier checks a static function again for each call of it.
 */
enum verdict {
	PARSE = 16,            /* a part of a header was read */
	HOLD,                  /* it is the beginning of a header */
	APPLY_CLAIM,           /* the header is whole, or there is the option TOA */
	ACCEPT_WITHOUT_HEADER, /* there is no header, and the policy needs none */
	ESTABLISH,             /* s->conn is the connection's entry */
	REJECT_AGAIN,          /* it was rejected before */
	REJECT = 32            /* and the counter of the reason */
};

/* The counter of a reason why the parser rejects a header. */
static __always_inline __u32 counter_for(__u32 reason)
{
	switch (reason) {
	case SRCIP_NO_HEADER: return REFUSED_NO_HEADER;
	case SRCIP_VERSION: return REFUSED_VERSION;
	case SRCIP_TOO_LONG: return REFUSED_TOO_LONG;
	case SRCIP_CHECKSUM: return REFUSED_CHECKSUM;
	default: return REFUSED_MALFORMED;
	}
}

/* Delivers the segment that completes the header, or a retransmission of it, with the sequence number lowered. */
static __always_inline int deliver(struct __sk_buff *skb, struct scratch *s, __u32 state)
{
	struct packet *p = &s->packet;
	__u32 expected = s->conn.isn + 1, seq = p->seq - s->conn.header_len;
	bool is_clone = take_clone_mark(skb);

	if (!s->conn.header_len) /* no header: nothing to lower */
		return TC_ACT_UNSPEC;
	/*
	 * A request socket accepts no segment that ends where its window begins, and a SYN cookie only the number that it
	 * expects: they get a bare ACK. The kernel acknowledges none of those, and a sender may wait for that (Nagle): so a
	 * clone with the payload follows, which the connection acknowledges as old data.
	 */
	if ((state == TCP_NEW_SYN_RECV && seq + p->payload == expected && p->payload) || state == TCP_LISTEN) {
		if (is_clone && state == TCP_LISTEN) /* the peer will retransmit it */
			return TC_ACT_SHOT;
		if (is_clone) { /* the bare ACK was not accepted: TCP_DEFER_ACCEPT, or the queue is full */
			set_seq(skb, p, seq); /* the request socket acknowledges it as old data */
			return TC_ACT_UNSPEC;
		}
		if (state == TCP_LISTEN || !(p->flags & FIN))
			clone_to_ingress(skb);
		if (state == TCP_LISTEN) /* the clone brings a FIN, behind the data */
			set_flags(skb, p, ACK);
		return strip_payload(skb, s, expected) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	}
	set_seq(skb, p, seq);
	return TC_ACT_UNSPEC;
}

/* Moves the connection from `handshakes` to `conns`, as s->conn, and delivers the packet. */
static __noinline int establish(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake)
{
	struct packet *p = &s->packet;
	bool had_partial_header = handshake->has_partial_header;
	__u32 state = TCP_NEW_SYN_RECV;

	s->conn.isn = s->handshake_key.isn;
	s->conn.iss = handshake->iss;
	s->conn.is_last_ack = false;
	s->conn.is_reported = false;
	s->conn.has_reset_copy = false;
	s->conn.ambiguous = 0;
	s->conn.timestamp = handshake->has_timestamps ? handshake->last : 0;
	/* else the state does not matter to deliver() */
	if (handshake->is_syncookie || p->seq + p->payload == s->conn.isn + 1 + s->conn.header_len)
		state = socket_state(skb, s, &p->flow);
	if (add_conn(skb, s))
		return REJECT + REFUSED_NO_ROOM;
	count(s->counter);
	bpf_map_delete_elem(&handshakes, &s->handshake_key);
	if (had_partial_header)
		bpf_map_delete_elem(&partial_headers, &p->flow);
	if (state == TCP_LISTEN)
		delete_syncookie(s);
	return deliver(skb, s, state);
}

static __always_inline int accept_without_header(struct scratch *s)
{
	__builtin_memset(&s->conn, 0, sizeof(s->conn));
	s->counter = ACCEPTED_NONE;
	return ESTABLISH;
}

/* Sets s->conn to the client that a header or the option TOA states. */
static __noinline int apply_claim(struct __sk_buff *skb, struct scratch *s, const struct srcip_claim *claim)
{
	struct settings *settings = get_settings();
	const __be32 *address = (const __be32 *)claim->address;
	__u32 family = claim->family;

	if (!settings)
		return TC_ACT_SHOT;
	s->counter = family ? ACCEPTED_PROXY : ACCEPTED_LOCAL;
	if (!claim->version) /* TOA: no header to lower sequence numbers by */
		s->counter = ACCEPTED_TOA;
	if (!srcip_usable(claim))
		return REJECT + REFUSED_UNUSABLE_ADDRESS;
	if (family == 6 && !s->packet.is_ipv6 && !listener_is_ipv6(skb, s)) {
		if (settings->is_exact)
			return REJECT + REFUSED_FAMILY;
		count(FALLBACK_FAMILY);
		family = 0;
	}
	s->conn.family = family;
	s->conn.port = bpf_htons(claim->port);
	s->conn.header_len = claim->length;
	if (family == 6)
		__builtin_memcpy(s->conn.client, address, 16);
	else
		set_ipv4(s->conn.client, address[0]);
	return ESTABLISH;
}

#endif
