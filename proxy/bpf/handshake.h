/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From the handshake to the end of the header: which packets wait, which are held back, and what comes of each. */
#ifndef SRCIP_HANDSHAKE_H
#define SRCIP_HANDSHAKE_H

#include "reassembly.h"

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

/*
 * Whether TCP would drop a packet of a handshake for its timestamp: one that is older than what it has seen (PAWS, RFC 7323,
 * 5.3), or, since Linux 6.15, one that echoes what was never sent.
 */
static __noinline int is_old(struct __sk_buff *skb, struct work *w, struct pending *pending)
{
	__u32 value, echo;

	if (!pending->has_times || !read_times(skb, w))
		return 0;
	value = bpf_ntohl(w->times[0]);
	echo = bpf_ntohl(w->times[1]);
	if (pending->recent && (__s32)(value - pending->recent) < 0)
		return 1;
	return echo && echo - pending->first > pending->last - pending->first;
}

/* Whether TCP would take a packet of a handshake, as far as it says nothing of the header. Else it is to be dropped. */
static __noinline int is_taken(struct __sk_buff *skb, struct work *w, struct pending *pending)
{
	int is_whole = is_sound(skb, w);

	if (is_whole && !is_old(skb, w, pending))
		return 1;
	count(is_whole ? DROPPED_TIMESTAMP : DROPPED_CHECKSUM);
	return 0;
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
	if (is_early(w, pending, 0) || !is_taken(skb, w, pending))
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
	if (is_early(w, pending, have) || !is_taken(skb, w, pending))
		return DROP;
	is_late = is_over(settings, pending);
	if (have - offset >= p->payload)
		return on_silence(skb, w, pending, have, is_late);
	if (is_late)
		return REFUSE + REFUSED_HEADER_TIMEOUT;
	return on_next(skb, w, held, have - offset);
}

/*
 * The handshake of a SYN cookie has an entry from its ACK on, so that a flood of SYNs makes none. Where the cookie was
 * forgotten, too, the kernel tells that it is one; then the time for a header begins now, and no timestamp is known.
 */
static __noinline int begin_by_cookie(struct __sk_buff *skb, struct work *w)
{
	struct pending *pending = find_cookie(w, w->attempt.isn);

	if (pending)
		return !bpf_map_update_elem(&attempts, &w->attempt, pending, BPF_NOEXIST);
	pending = &w->pending;
	if (find_cookie(w, ANY_ISN) || !answers_cookie(skb, w))
		return 0;
	__builtin_memset(pending, 0, sizeof(*pending));
	pending->policy = policy_of(w);
	pending->since = bpf_ktime_get_coarse_ns();
	pending->iss = w->packet.ack - 1;
	pending->is_cookie = 1;
	return !bpf_map_update_elem(&attempts, &w->attempt, pending, BPF_NOEXIST);
}

/* A packet that belongs to no handshake that was seen. */
static __noinline int on_stray(struct __sk_buff *skb, struct work *w)
{
	struct flow *flow = &w->packet.flow;
	__u32 state = state_of(skb, flow);
	__u8 is_heard = 1;

	if (state == TCP_NEW_SYN_RECV || (state == TCP_LISTEN && find_cookie(w, ANY_ISN))) {
		if (state == TCP_NEW_SYN_RECV)
			bpf_map_update_elem(&heard, flow, &is_heard, BPF_ANY);
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

	if (!(p->flags & (RST | ACK))) /* the kernel drops it in every state */
		return PASS;
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
	pending = bpf_map_lookup_elem(&attempts, &w->attempt); /* anew: Linux 6.1 follows no pointer through two conditions */
	if (pending) /* a part of its header made room for others, after its time */
		return conclude(skb, w, pending, pending->is_refused ? AGAIN : REFUSE + REFUSED_HEADER_TIMEOUT);
	if (!begin_by_cookie(skb, w))
		return on_stray(skb, w);
	pending = bpf_map_lookup_elem(&attempts, &w->attempt);
	return pending ? conclude(skb, w, pending, on_waiting(skb, w, pending)) : DROP;
}

#endif
