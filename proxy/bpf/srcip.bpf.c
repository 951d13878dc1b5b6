/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The client's address for an unmodified application, without a second connection. docs/ebpf.md has the drawing.
 *
 * The handshake's last ACK is held back until the PROXY header is there. Then all sequence numbers of the peer are lowered
 * by the header's length, so that the header lies before what TCP expects; on the way out ACK and SACK are raised again.
 * accept() and getpeername() are told the client. The kernel's own sockets do everything else: they resend, they
 * acknowledge what is out of their window (so a held part of a header gets its ACK), and they refuse by RST.
 */
#include "handshake.h"
#include "getpeername.h"

static __always_inline struct work *work_of(__u32 direction)
{
	return bpf_map_lookup_elem(&works, &direction);
}

/* A packet of a connection whose client is known. Where it ends, nothing is read of the entry behind its removal. */
static __always_inline int on_live(struct __sk_buff *skb, struct work *w, struct live *live)
{
	struct packet *p = &w->packet;
	__u32 isn = live->isn, shift = live->shift;

	if (p->flags & RST)
		keep_untold(w, &p->flow, live);
	if (live->is_ending && p->ack == live->own_end && is_sound(skb, w))
		bpf_map_delete_elem(&lives, &p->flow);
	if (!shift)
		return PASS;
	if (p->seq - isn - 1 < shift && (p->flags & (MASK & ~FIN)) == ACK) { /* the header again */
		w->live.isn = isn;
		w->live.shift = shift;
		return deliver(skb, w, state_of(skb, &p->flow));
	}
	lower_seq(skb, p, shift);
	return PASS;
}

/* A SYN: from a trusted peer its data comes again, behind the handshake. */
static __always_inline int on_syn(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;

	if ((!p->payload && is_plain_syn(skb, p)) || policy_of(w) == OFF)
		return PASS;
	if (p->header != OPTIONS_AT)
		withdraw_offers(skb, w);
	if (!p->payload)
		return PASS;
	return is_sound(skb, w) && !trim(skb, w, p->seq) ? PASS : DROP; /* trim() makes a wrong checksum right */
}

/* Nobody accepts a connection that both sides opened, so nobody could be told its client: the other end learns it so. */
static __always_inline void refuse_crossing(struct __sk_buff *skb, struct packet *p)
{
	set_flags(skb, p, RST | ACK);
	set_seq(skb, p, p->seq + 1);
}

/* The answer to a SYN of the Pod's own; where both SYNs crossed, the connection is refused here, too. */
static __always_inline int on_crossing(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct pending *pending;

	w->attempt.flow = p->flow;
	w->attempt.isn = p->seq;
	pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	if (pending && pending->is_refused)
		refuse_crossing(skb, p);
	return PASS;
}

/*
 * TCP that comes in pieces, or behind IPv6 extension headers. Nobody sends it like this, and it would go past the rules
 * or be read in part: from a trusted peer it is dropped where it is, or may be, for an intercepted port.
 */
static __noinline int on_fragment(struct work *w)
{
	struct settings *settings = get_settings();
	__be16 port = w->packet.flow.own_port;

	if (!settings || !settings->fingerprint || (port && !is_intercepted(port)) || policy_of(w) == OFF)
		return PASS;
	count(DROPPED_FRAGMENT);
	return DROP;
}

SEC("tc")
int srcip_ingress(struct __sk_buff *skb)
{
	struct work *w = work_of(INWARD);
	struct live *live;
	int reading;

	if (!w)
		return DROP;
	if (skb->pkt_type) /* for another host, or for many: TCP drops it */
		return PASS;
	reading = read_inward(skb, w);
	if (reading == FRAGMENT)
		return on_fragment(w);
	if (reading == OTHER || !is_intercepted(w->packet.flow.own_port))
		return PASS;
	if (w->packet.flags & SYN)
		return w->packet.flags & ACK ? on_crossing(skb, w) : on_syn(skb, w);
	live = bpf_map_lookup_elem(&lives, &w->packet.flow);
	if (live)
		return on_live(skb, w, live);
	return policy_of(w) == OFF ? PASS : on_unknown(skb, w);
}

/*
 * Whether a SYN-ACK answers the SYN that has just come in, on this CPU. Else the kernel says it again, and what it said
 * first, which the peer may echo, is known only where the handshake is still remembered.
 */
static __always_inline int is_first_answer(struct work *w)
{
	struct work *in = work_of(INWARD);

	return in && in->packet.flags & SYN && in->packet.seq == w->attempt.isn &&
	       in->packet.flow.peer_port == w->packet.flow.peer_port && in->packet.flow.own_port == w->packet.flow.own_port;
}

/* The kernel has taken a SYN: only now there is a handshake, with the numbers that count. */
static __noinline int on_syn_ack(struct __sk_buff *skb, struct work *w)
{
	struct pending *known, *pending = &w->pending;
	struct packet *p = &w->packet;
	struct live *live = bpf_map_lookup_elem(&lives, &p->flow);
	__u32 is_first;

	w->attempt.flow = p->flow;
	w->attempt.isn = p->ack - 1;
	if (live) {
		if (live->isn == w->attempt.isn && live->iss == p->seq)
			return PASS; /* the queue of the listener was full: it comes again */
		keep_untold(w, &p->flow, live);
		bpf_map_delete_elem(&lives, &p->flow);
	}
	is_first = is_first_answer(w);
	__builtin_memset(pending, 0, sizeof(*pending));
	pending->policy = policy_of(w);
	if (pending->policy == OFF)
		return PASS;
	pending->since = bpf_ktime_get_coarse_ns();
	pending->iss = p->seq;
	pending->is_refused = is_crossing(skb);
	if (read_times(skb, w)) {
		pending->has_times = 1;
		pending->first = pending->last = bpf_ntohl(w->times[0]);
		if (!is_first)
			pending->first -= ANY_TIME_BEFORE;
		pending->recent = bpf_ntohl(w->times[1]);
	}
	if (is_cookie(skb, &p->flow)) {
		pending->is_cookie = 1;
		bpf_map_delete_elem(&attempts, &w->attempt);
		note_cookie(w, pending);
		return PASS;
	}
	if (bpf_map_update_elem(&attempts, &w->attempt, pending, BPF_NOEXIST)) {
		known = bpf_map_lookup_elem(&attempts, &w->attempt);
		if (known) {
			known->iss = pending->iss;
			known->last = pending->last;
			known->is_cookie = 0;
		}
	} else if (pending->is_refused) {
		count(REFUSED_SIMULTANEOUS_OPEN);
	}
	if (!is_first && bpf_map_lookup_elem(&heard, &p->flow))
		bpf_map_lookup_elem(&attempts, &w->attempt); /* an entry that was looked up is not the first to be forgotten */
	if (pending->is_refused)
		refuse_crossing(skb, p);
	return PASS;
}

static __always_inline int raise_ack(struct __sk_buff *skb, struct work *w, __u32 isn, __u32 by, __u32 timestamp)
{
	struct packet *p = &w->packet;

	if (!(by || timestamp) || !(p->flags & ACK))
		return PASS;
	if (timestamp || !(has_no_sack(p) || hide_header_of(skb, p, isn, by)))
		change_options(skb, w, by, timestamp);
	if (by)
		raise_number(skb, p, by);
	return PASS;
}

/* A FIN of the Pod. If it comes behind the peer's, only its own acknowledgement is still to come. */
static __always_inline void note_end(struct __sk_buff *skb, const struct packet *p, struct live *live)
{
	live->own_end = p->seq + p->payload + 1;
	live->is_ending = is_last(skb);
}

/*
 * The kernel acknowledges what a half-open connection cannot take. Since Linux 6.15 it refuses, in a handshake, the echo of
 * any timestamp but the SYN-ACK's: the acknowledgement has to bear that one.
 */
static __always_inline __u32 time_of_request(struct __sk_buff *skb, struct live *live)
{
	if (live->timestamp && !is_of_request(skb))
		live->timestamp = 0;
	return live->timestamp;
}

/* An acknowledgement for a connection whose header is not whole yet. */
static __noinline int on_request(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct pending *pending;
	struct held *held;
	__u32 isn = p->ack - 1, timestamp = 0, have = 0;

	w->attempt.flow = p->flow;
	w->attempt.isn = isn;
	pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	if (pending && pending->has_times)
		timestamp = pending->last;
	held = bpf_map_lookup_elem(&headers, &p->flow);
	if (held && held->isn == isn)
		have = held->scratch.have;
	return raise_ack(skb, w, isn, have, timestamp);
}

SEC("tc")
int srcip_egress(struct __sk_buff *skb)
{
	struct work *w = work_of(OUTWARD);
	struct packet *p;
	struct live *live;

	if (!w)
		return DROP;
	p = &w->packet;
	if (read_outward(skb, w) != WHOLE || !is_intercepted(p->flow.own_port))
		return PASS;
	if ((p->flags & (SYN | ACK)) == (SYN | ACK))
		return on_syn_ack(skb, w);
	live = bpf_map_lookup_elem(&lives, &p->flow);
	if (p->flags & SYN) { /* the Pod's own connection: what was known of the flow is over */
		if (live) {
			keep_untold(w, &p->flow, live);
			bpf_map_delete_elem(&lives, &p->flow);
		}
		return PASS;
	}
	if (live) {
		if (p->flags & RST) /* the kernel gives it up */
			keep_untold(w, &p->flow, live);
		if (p->flags & FIN)
			note_end(skb, p, live);
		return raise_ack(skb, w, live->isn, live->shift, time_of_request(skb, live));
	}
	return p->payload || is_established(skb) ? PASS : on_request(skb, w);
}

char _license[] SEC("license") = "GPL";
