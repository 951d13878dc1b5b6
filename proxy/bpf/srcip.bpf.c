/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The client's address for an unmodified application, without a second connection: see docs/ebpf.md.
 *
 * The last ACK of the handshake is held back until the PROXY header has arrived. Then all sequence numbers of the peer
 * are lowered by the header's length, so that the header lies before the window of TCP; on egress ACK and SACK are raised
 * by it. accept() and getpeername() return the client. The kernel's own sockets do everything else: they retransmit, they
 * acknowledge segments out of their window (so a part of a header gets its ACK), and they refuse by RST.
 */
#include "handshake.h"
#include "getpeername.h"

static __always_inline struct scratch *get_scratch(__u32 direction)
{
	return bpf_map_lookup_elem(&scratch, &direction);
}

/* A packet of a connection whose client is known. The entry is not read once it is deleted. */
static __always_inline int on_conn(struct __sk_buff *skb, struct scratch *s, struct conn *conn)
{
	struct packet *p = &s->packet;
	__u32 isn = conn->isn, header_len = conn->header_len;

	if (p->flags & RST)
		keep_unreported(s, &p->flow, conn);
	if (conn->is_last_ack && p->ack == conn->local_end && has_valid_checksums(skb, s))
		bpf_map_delete_elem(&conns, &p->flow);
	if (!header_len)
		return TC_ACT_UNSPEC;
	if (p->seq - isn - 1 < header_len && (p->flags & (FLAG_MASK & ~FIN)) == ACK) { /* the header, retransmitted */
		s->conn.isn = isn;
		s->conn.header_len = header_len;
		return deliver(skb, s, socket_state(skb, s, &p->flow));
	}
	lower_seq(skb, p, header_len);
	return TC_ACT_UNSPEC;
}

/* A SYN: from a trusted network data in it is cut, so that the peer retransmits it behind the handshake. */
static __always_inline int on_syn(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;

	if ((!p->payload && is_plain_syn(skb, p)) || policy_of(s) == OFF)
		return TC_ACT_UNSPEC;
	if (p->tcp_header_len != OPTIONS_AT)
		strip_syn_options(skb, s);
	if (!p->payload)
		return TC_ACT_UNSPEC;
	/* strip_payload() would replace a wrong checksum by a right one */
	return has_valid_checksums(skb, s) && !strip_payload(skb, s, p->seq) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* No accept() returns a connection that both ends opened, so its client could not be shown: the other end gets an RST. */
static __always_inline void reject_simultaneous_open(struct __sk_buff *skb, struct packet *p)
{
	set_flags(skb, p, RST | ACK);
	set_seq(skb, p, p->seq + 1);
}

/* A SYN-ACK for a SYN of the Pod; a simultaneous open that was rejected is rejected here, too. */
static __always_inline int on_own_syn_ack(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	struct handshake *handshake;

	s->handshake_key.flow = p->flow;
	s->handshake_key.isn = p->seq;
	handshake = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
	if (handshake && handshake->is_refused)
		reject_simultaneous_open(skb, p);
	return TC_ACT_UNSPEC;
}

/*
 * TCP in fragments, or behind IPv6 extension headers or IPv4 options. No balancer sends it so, and it would pass unread:
 * from a trusted network it is dropped if it is, or may be, for an intercepted port.
 */
static __noinline int on_fragment(struct scratch *s)
{
	struct settings *settings = get_settings();
	__be16 port = s->packet.flow.local_port;

	if (!settings || !settings->fingerprint || (port && !is_intercepted(port)) || policy_of(s) == OFF)
		return TC_ACT_UNSPEC;
	count(DROPPED_FRAGMENT);
	return TC_ACT_SHOT;
}

SEC("tc")
int srcip_ingress(struct __sk_buff *skb)
{
	struct scratch *s = get_scratch(INGRESS);
	struct conn *conn;
	int kind;

	if (!s)
		return TC_ACT_SHOT;
	if (skb->pkt_type) /* not PACKET_HOST: TCP drops it */
		return TC_ACT_UNSPEC;
	kind = read_ingress(skb, s);
	if (kind == FRAGMENT)
		return on_fragment(s);
	if (kind == OTHER || !is_intercepted(s->packet.flow.local_port))
		return TC_ACT_UNSPEC;
	if (s->packet.flags & SYN)
		return s->packet.flags & ACK ? on_own_syn_ack(skb, s) : on_syn(skb, s);
	conn = bpf_map_lookup_elem(&conns, &s->packet.flow);
	if (conn)
		return on_conn(skb, s, conn);
	return policy_of(s) == OFF ? TC_ACT_UNSPEC : on_handshake(skb, s);
}

/*
 * Whether a SYN-ACK answers the SYN that has just come in, on this CPU. Else the kernel retransmits it, and the TSval of
 * the first one, which the peer may echo, is known only if the handshake is still in the map.
 */
static __always_inline bool is_first_syn_ack(struct scratch *s)
{
	struct scratch *in = get_scratch(INGRESS);

	return in && in->packet.flags & SYN && in->packet.seq == s->handshake_key.isn &&
	       in->packet.flow.remote_port == s->packet.flow.remote_port &&
	       in->packet.flow.local_port == s->packet.flow.local_port;
}

/* The kernel has accepted a SYN: only now there is a handshake, and both initial sequence numbers are known. */
static __noinline int on_syn_ack(struct __sk_buff *skb, struct scratch *s)
{
	struct handshake *known, *handshake = &s->handshake;
	struct packet *p = &s->packet;
	struct conn *conn = bpf_map_lookup_elem(&conns, &p->flow);
	bool is_first;

	s->handshake_key.flow = p->flow;
	s->handshake_key.isn = p->ack - 1;
	if (conn) {
		if (conn->isn == s->handshake_key.isn && conn->iss == p->seq)
			return TC_ACT_UNSPEC; /* the listener's queue was full, and the kernel retransmits it */
		keep_unreported(s, &p->flow, conn);
		bpf_map_delete_elem(&conns, &p->flow);
	}
	is_first = is_first_syn_ack(s);
	__builtin_memset(handshake, 0, sizeof(*handshake));
	handshake->policy = policy_of(s);
	if (handshake->policy == OFF)
		return TC_ACT_UNSPEC;
	handshake->since = bpf_ktime_get_coarse_ns();
	handshake->iss = p->seq;
	handshake->is_refused = is_simultaneous_open(skb);
	if (read_timestamps(skb, s)) {
		handshake->has_timestamps = true;
		handshake->first = handshake->last = bpf_ntohl(s->timestamps[0]);
		if (!is_first)
			handshake->first -= HALF_TIMESTAMP_SPACE;
		handshake->recent = bpf_ntohl(s->timestamps[1]);
	}
	if (is_syncookie(skb, s)) {
		handshake->is_syncookie = true;
		bpf_map_delete_elem(&handshakes, &s->handshake_key);
		add_syncookie(s, handshake);
		return TC_ACT_UNSPEC;
	}
	if (bpf_map_update_elem(&handshakes, &s->handshake_key, handshake, BPF_NOEXIST)) {
		known = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
		if (known) {
			known->iss = handshake->iss;
			known->last = handshake->last;
			known->is_syncookie = false;
		}
	} else if (handshake->is_refused) {
		count(REFUSED_SIMULTANEOUS_OPEN);
	}
	/* an entry that was looked up is not the next to be evicted */
	if (!is_first && bpf_map_lookup_elem(&evicted_flows, &p->flow))
		bpf_map_lookup_elem(&handshakes, &s->handshake_key);
	if (handshake->is_refused)
		reject_simultaneous_open(skb, p);
	return TC_ACT_UNSPEC;
}

/* Raises the acknowledgement and SACK by `by`, and sets TSval to `timestamp`; 0: leave it. */
static __always_inline int raise_ack(struct __sk_buff *skb, struct scratch *s, __u32 isn, __u32 by, __u32 timestamp)
{
	struct packet *p = &s->packet;

	if (!(by || timestamp) || !(p->flags & ACK))
		return TC_ACT_UNSPEC;
	if (timestamp || !(has_no_sack(p) || hide_dsack_in_place(skb, p, isn, by)))
		change_options(skb, s, by, timestamp);
	if (by)
		raise_ack_seq(skb, p, by);
	return TC_ACT_UNSPEC;
}

/* A FIN of the Pod. If it answers the peer's, its acknowledgement is the last packet of the connection. */
static __always_inline void note_fin(struct __sk_buff *skb, const struct packet *p, struct conn *conn)
{
	conn->local_end = p->seq + p->payload + 1;
	conn->is_last_ack = is_last_ack(skb);
}

/*
 * The kernel acknowledges segments that a request socket does not accept. Since Linux 6.15 it accepts in a handshake no
 * TSecr but the TSval of the SYN-ACK: such an acknowledgement must have that one. 0 once the connection is established.
 */
static __always_inline __u32 request_timestamp(struct __sk_buff *skb, struct conn *conn)
{
	if (conn->timestamp && !is_from_request_socket(skb))
		conn->timestamp = 0;
	return conn->timestamp;
}

/* An acknowledgement of the Pod in a handshake whose header is not whole yet. */
static __noinline int on_handshake_ack(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	struct handshake *handshake;
	struct partial_header *stored;
	__u32 isn = p->ack - 1, timestamp = 0, have = 0;

	s->handshake_key.flow = p->flow;
	s->handshake_key.isn = isn;
	handshake = bpf_map_lookup_elem(&handshakes, &s->handshake_key);
	if (handshake && handshake->has_timestamps)
		timestamp = handshake->last;
	stored = bpf_map_lookup_elem(&partial_headers, &p->flow);
	if (stored && stored->isn == isn)
		have = stored->parser.have;
	return raise_ack(skb, s, isn, have, timestamp);
}

SEC("tc")
int srcip_egress(struct __sk_buff *skb)
{
	struct scratch *s = get_scratch(EGRESS);
	struct packet *p;
	struct conn *conn;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->packet;
	if (read_egress(skb, s) != SEGMENT || !is_intercepted(p->flow.local_port))
		return TC_ACT_UNSPEC;
	if ((p->flags & (SYN | ACK)) == (SYN | ACK))
		return on_syn_ack(skb, s);
	conn = bpf_map_lookup_elem(&conns, &p->flow);
	if (p->flags & SYN) { /* the Pod opens a connection: an earlier one of the flow is over */
		if (conn) {
			keep_unreported(s, &p->flow, conn);
			bpf_map_delete_elem(&conns, &p->flow);
		}
		return TC_ACT_UNSPEC;
	}
	if (conn) {
		if (p->flags & RST) /* the kernel aborts it */
			keep_unreported(s, &p->flow, conn);
		if (p->flags & FIN)
			note_fin(skb, p, conn);
		return raise_ack(skb, s, conn->isn, conn->header_len, request_timestamp(skb, conn));
	}
	return p->payload || is_established(skb) ? TC_ACT_UNSPEC : on_handshake_ack(skb, s);
}

char _license[] SEC("license") = "GPL";
