/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From the handshake to the end of the header: which packets are held back, and the verdict on each. */
#ifndef SRCIP_HANDSHAKE_H
#define SRCIP_HANDSHAKE_H

#include "reassembly.h"

/* A packet without new data: an ACK, a FIN, or a retransmission. */
static __always_inline int on_no_new_data(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake, __u32 have,
					   bool is_timed_out)
{
	struct packet *p = &s->packet;

	if (p->flags & FIN)
		return REJECT + (have ? REFUSED_HEADER_CLOSED : REFUSED_EMPTY);
	if (is_timed_out && !have && handshake->policy == OPTIONAL)
		return ACCEPT_WITHOUT_HEADER;
	if (is_timed_out)
		return REJECT + REFUSED_HEADER_TIMEOUT;
	if (!p->payload || !have || socket_state(skb, s, &p->flow) != TCP_NEW_SYN_RECV)
		return TC_ACT_SHOT; /* holds back the ACK that completes the handshake */
	set_seq(skb, p, p->seq - have);
	return TC_ACT_UNSPEC;
}

/*
 * A packet of a handshake that waits for the option TOA. It may be on the ACK, which then completes the handshake
 * unchanged, or on the first data.
 */
static __noinline int on_toa(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake, bool is_timed_out)
{
	struct partial_header *part = get_segment_header();

	if (!part)
		return TC_ACT_SHOT;
	if (read_toa(skb, s, &part->parser.claim))
		return APPLY_CLAIM;
	if (!s->packet.payload)
		return on_no_new_data(skb, s, handshake, 0, is_timed_out);
	return handshake->policy == OPTIONAL ? ACCEPT_WITHOUT_HEADER : REJECT + REFUSED_NO_OPTION;
}

/* Whether the numbers of a packet are not those of the handshake, `have` bytes of whose header have arrived. */
static __always_inline bool is_out_of_sequence(struct scratch *s, struct handshake *handshake, __u32 have)
{
	if (s->packet.seq - (s->handshake_key.isn + 1) <= have && s->packet.ack == handshake->iss + 1)
		return false;
	count(DROPPED_EARLY);
	return true;
}

/* Whether header-timeout is over. */
static __always_inline bool header_timed_out(struct settings *settings, struct handshake *handshake)
{
	return bpf_ktime_get_coarse_ns() - handshake->since > settings->timeout_ms * 1000000ULL;
}

/*
 * Whether TCP would drop a packet of a handshake for its timestamp: TSval older than TS.Recent (PAWS, RFC 7323, 5.3), or,
 * since Linux 6.15, TSecr that was never sent.
 */
static __noinline bool fails_paws(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake)
{
	__u32 value, echo;

	if (!handshake->has_timestamps || !read_timestamps(skb, s))
		return false;
	value = bpf_ntohl(s->timestamps[0]);
	echo = bpf_ntohl(s->timestamps[1]);
	if (handshake->recent && (__s32)(value - handshake->recent) < 0)
		return true;
	return echo && echo - handshake->first > handshake->last - handshake->first;
}

/*
 * Whether TCP would accept a packet of a handshake, by its checksums and its timestamp. Else it is counted, to be
 * dropped.
 */
static __noinline bool tcp_would_accept(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake)
{
	bool is_valid = has_valid_checksums(skb, s);

	if (is_valid && !fails_paws(skb, s, handshake))
		return true;
	count(is_valid ? DROPPED_TIMESTAMP : DROPPED_CHECKSUM);
	return false;
}

/* A packet of a handshake that waits for its header. */
static __noinline int on_awaited_header(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake)
{
	struct settings *settings = get_settings();
	bool is_timed_out;

	if (!settings)
		return TC_ACT_SHOT;
	if (handshake->is_refused)
		return REJECT_AGAIN;
	if (is_out_of_sequence(s, handshake, 0) || !tcp_would_accept(skb, s, handshake))
		return TC_ACT_SHOT;
	is_timed_out = header_timed_out(settings, handshake);
	if (settings->is_toa)
		return on_toa(skb, s, handshake, is_timed_out);
	if (!s->packet.payload)
		return on_no_new_data(skb, s, handshake, 0, is_timed_out);
	if (is_timed_out && handshake->policy == REQUIRED)
		return REJECT + REFUSED_HEADER_TIMEOUT;
	return read_first_part(skb, s);
}

/* A packet of a handshake a part of whose header has arrived. */
static __noinline int on_partial_header(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake,
					struct partial_header *stored)
{
	struct settings *settings = get_settings();
	struct packet *p = &s->packet;
	__u32 have = stored->parser.have, offset = p->seq - (s->handshake_key.isn + 1);
	bool is_timed_out;

	if (!settings)
		return TC_ACT_SHOT;
	if (handshake->is_refused)
		return REJECT_AGAIN;
	if (is_out_of_sequence(s, handshake, have) || !tcp_would_accept(skb, s, handshake))
		return TC_ACT_SHOT;
	is_timed_out = header_timed_out(settings, handshake);
	if (have - offset >= p->payload)
		return on_no_new_data(skb, s, handshake, have, is_timed_out);
	if (is_timed_out)
		return REJECT + REFUSED_HEADER_TIMEOUT;
	return read_next_part(skb, s, stored, have - offset);
}

/*
 * A handshake by SYN cookie has an entry in `handshakes` from its ACK on, so that a flood of SYNs adds none. Where its
 * entry in `syncookies` was evicted, the kernel checks the cookie; then header-timeout begins now, and no timestamp is
 * known.
 */
static __noinline bool begin_from_syncookie(struct __sk_buff *skb, struct scratch *s)
{
	struct handshake *handshake = find_syncookie(s, s->handshake_key.isn);

	if (handshake)
		return !bpf_map_update_elem(&handshakes, &s->handshake_key, handshake, BPF_NOEXIST);
	handshake = &s->handshake;
	if (find_syncookie(s, ANY_ISN) || !matches_syncookie(skb, s))
		return false;
	__builtin_memset(handshake, 0, sizeof(*handshake));
	handshake->policy = policy_of(s);
	handshake->since = bpf_ktime_get_coarse_ns();
	handshake->iss = s->packet.ack - 1;
	handshake->is_syncookie = true;
	return !bpf_map_update_elem(&handshakes, &s->handshake_key, handshake, BPF_NOEXIST);
}

/* A packet that belongs to no handshake in the maps. */
static __noinline int on_unknown_handshake(struct __sk_buff *skb, struct scratch *s)
{
	struct flow *flow = &s->packet.flow;
	__u32 state = socket_state(skb, s, flow);
	bool is_evicted = true;

	if (state == TCP_NEW_SYN_RECV || (state == TCP_LISTEN && find_syncookie(s, ANY_ISN))) {
		if (state == TCP_NEW_SYN_RECV)
			bpf_map_update_elem(&evicted_flows, flow, &is_evicted, BPF_ANY);
		count(DROPPED_EARLY);
		return TC_ACT_SHOT;
	}
	if (state == TCP_LISTEN) /* the kernel refuses it by RST, even if it were the ACK of a SYN cookie */
		set_seq(skb, &s->packet, s->packet.seq ^ OUT_OF_WINDOW);
	return TC_ACT_UNSPEC; /* of a connection from before the attach, or that the Pod has opened */
}

/* Takes all steps that are left, one behind the other (enum verdict). */
static __noinline int apply_verdict(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake, int verdict)
{
	struct partial_header *part = get_segment_header();

	if (!part)
		return TC_ACT_SHOT;
	if (verdict == PARSE)
		verdict = parse_header(s, handshake, part);
	if (verdict == HOLD)
		verdict = hold_partial_header(skb, s, handshake, part);
	if (verdict == APPLY_CLAIM)
		verdict = apply_claim(skb, s, &part->parser.claim);
	if (verdict == ACCEPT_WITHOUT_HEADER)
		verdict = accept_without_header(s);
	if (verdict == ESTABLISH)
		verdict = establish(skb, s, handshake);
	if (verdict >= REJECT) {
		handshake->is_refused = true;
		count(verdict - REJECT);
		if (handshake->has_partial_header)
			bpf_map_delete_elem(&partial_headers, &s->packet.flow);
		verdict = REJECT_AGAIN;
	}
	return verdict == REJECT_AGAIN ? reject_connection(skb, s) : verdict;
}

/* A packet from a trusted network whose connection is not in `conns`. */
static __always_inline int on_handshake(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	struct handshake *handshake;
	struct partial_header *stored;

	if (!(p->flags & (RST | ACK))) /* the kernel drops it in every state */
		return TC_ACT_UNSPEC;
	s->handshake_key.flow = p->flow;
	s->handshake_key.isn = p->seq - 1;
	handshake = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
	if (handshake && !handshake->has_partial_header) {
		if (p->flags & RST)
			return TC_ACT_UNSPEC;
		return apply_verdict(skb, s, handshake, on_awaited_header(skb, s, handshake));
	}
	stored = bpf_map_lookup_elem(&partial_headers, &p->flow);
	if (p->flags & RST) {
		if (stored)
			set_seq(skb, p, p->seq - stored->parser.have);
		return TC_ACT_UNSPEC;
	}
	if (stored) {
		s->handshake_key.isn = stored->isn;
		handshake = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
		if (!handshake)
			return on_unknown_handshake(skb, s);
		return apply_verdict(skb, s, handshake, on_partial_header(skb, s, handshake, stored));
	}
	/* again: the verifier of Linux 6.1 knows no more whether the first one is null (docs/kernels.md) */
	handshake = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
	if (handshake) /* its partial header timed out and was deleted to make room */
		return apply_verdict(skb, s, handshake,
				     handshake->is_refused ? REJECT_AGAIN : REJECT + REFUSED_HEADER_TIMEOUT);
	if (!begin_from_syncookie(skb, s))
		return on_unknown_handshake(skb, s);
	handshake = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
	return handshake ? apply_verdict(skb, s, handshake, on_awaited_header(skb, s, handshake)) : TC_ACT_SHOT;
}

#endif
