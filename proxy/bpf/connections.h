/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Sockets of the kernel that belong to a packet, and the maps of connections, SYN cookies and partial headers. */
#ifndef SRCIP_CONNECTIONS_H
#define SRCIP_CONNECTIONS_H

#include <linux/errno.h>

#include "packet.h"

/*
 * include/net/tcp_states.h, which is no part of the kernel's user space headers; the numbers are BPF_TCP_* of
 * linux/bpf.h.
 */
enum {
	NO_SOCKET = 0, /* no state of the kernel */
	TCP_ESTABLISHED = 1,
	TCP_SYN_RECV = 3,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_NEW_SYN_RECV = 12
};
#define AF_INET 2

/*
 * The socket that the kernel would give a packet of this flow to; the caller releases it. One call for both families: a null
 * that two branches test is tested twice for the verifier (docs/kernels.md).
 */
static __always_inline struct bpf_sock *lookup_socket(struct __sk_buff *skb, struct scratch *s, const struct flow *flow)
{
	struct bpf_sock_tuple *tuple = &s->tuple;
	__u32 size = sizeof(tuple->ipv6);

	if (flow->remote[2] == bpf_htonl(0xffff) && !flow->remote[0] && !flow->remote[1]) {
		tuple->ipv4.saddr = flow->remote[3];
		tuple->ipv4.daddr = flow->local[3];
		tuple->ipv4.sport = flow->remote_port;
		tuple->ipv4.dport = flow->local_port;
		size = sizeof(tuple->ipv4);
	} else {
		__builtin_memcpy(tuple->ipv6.saddr, flow->remote, 16);
		__builtin_memcpy(tuple->ipv6.daddr, flow->local, 16);
		tuple->ipv6.sport = flow->remote_port;
		tuple->ipv6.dport = flow->local_port;
		/* else clang 19 stores the ports of both families at a chosen offset, which the verifier refuses without PERFMON */
		asm volatile("" ::: "memory");
	}
	return bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
}

/* State and family << 8 of that socket; NO_SOCKET where there is none. */
static __noinline __u32 state_and_family(struct __sk_buff *skb, struct scratch *s, const struct flow *flow)
{
	struct bpf_sock *socket = lookup_socket(skb, s, flow);
	__u32 state;

	if (!socket)
		return NO_SOCKET;
	state = socket->state | socket->family << 8;
	bpf_sk_release(socket);
	return state;
}

static __always_inline __u32 socket_state(struct __sk_buff *skb, struct scratch *s, const struct flow *flow)
{
	return state_and_family(skb, s, flow) & 0xff;
}

/* Whether a SYN-ACK is a SYN cookie: then the kernel has no request socket for it. */
static __always_inline bool is_syncookie(struct __sk_buff *skb, struct scratch *s)
{
	return !skb->sk && socket_state(skb, s, &s->packet.flow) == TCP_LISTEN;
}

/*
 * Whether the packet acknowledges a SYN cookie of the listener, as the first segment behind the SYN or as a bare ACK
 * does. The kernel checks it without memory, so no flood of SYNs makes it forget one.
 */
static __noinline bool matches_syncookie(struct __sk_buff *skb, struct scratch *s)
{
	__u32 size = s->packet.is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct bpf_sock *listener;
	long failure;

	if (bpf_skb_load_bytes(skb, s->packet.tcp_offset, s->tcp, sizeof(struct tcphdr)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, s->ip, size))
		return false;
	listener = lookup_socket(skb, s, &s->packet.flow);
	if (!listener)
		return false;
	failure = bpf_tcp_check_syncookie(listener, s->ip, size, (struct tcphdr *)s->tcp, sizeof(struct tcphdr));
	bpf_sk_release(listener);
	return !failure;
}

/* The handshake of the flow that was answered by a SYN cookie; null where there is none. */
static __always_inline struct handshake *find_syncookie(struct scratch *s, __u32 isn)
{
	s->syncookie_key.flow = s->packet.flow;
	s->syncookie_key.isn = isn;
	return bpf_map_lookup_elem(&syncookies, &s->syncookie_key);
}

static __always_inline void add_syncookie(struct scratch *s, const struct handshake *handshake)
{
	s->syncookie_key = s->handshake_key;
	bpf_map_update_elem(&syncookies, &s->syncookie_key, handshake, BPF_ANY);
	s->syncookie_key.isn = ANY_ISN;
	bpf_map_update_elem(&syncookies, &s->syncookie_key, handshake, BPF_ANY);
}

static __always_inline void delete_syncookie(struct scratch *s)
{
	s->syncookie_key = s->handshake_key;
	bpf_map_delete_elem(&syncookies, &s->syncookie_key);
	s->syncookie_key.isn = ANY_ISN;
	bpf_map_delete_elem(&syncookies, &s->syncookie_key);
}

/* Whether a SYN-ACK of the Pod belongs to a simultaneous open (RFC 9293, 3.5): both ends sent a SYN. */
static __always_inline bool is_simultaneous_open(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return socket && socket->state == TCP_SYN_RECV;
}

/* Whether a packet of the Pod is from an established connection. */
static __always_inline bool is_established(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return socket && socket->state == TCP_ESTABLISHED;
}

/*
 * Whether a packet of the Pod, no SYN-ACK, is from a half-open connection: the kernel's control socket sends it, since
 * Linux 6.13 with the listener as its socket.
 */
static __always_inline bool is_from_request_socket(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return !socket || socket->state == TCP_CLOSE || socket->state == TCP_LISTEN;
}

/* Whether the Pod's FIN answers the peer's. */
static __always_inline bool is_last_ack(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return socket && socket->state == TCP_LAST_ACK;
}

/* Whether the listener is an AF_INET6 socket, which alone can show an IPv6 client. */
static __always_inline bool listener_is_ipv6(struct __sk_buff *skb, struct scratch *s)
{
	s->lookup_flow = s->packet.flow;
	s->lookup_flow.remote_port = 0; /* of no connection, so that the listener is found */
	return state_and_family(skb, s, &s->lookup_flow) >> 8 != AF_INET;
}

/*
 * A closed socket has given its port back and can still be accepted: the client is kept in `reset_conns` for that
 * accept(). The local port of `flow` is 0. Connections that differ in that port alone, or in nothing, cannot be told
 * apart then: the entry keeps 0.0.0.0 port 0, which sockets of both families can show.
 */
static __noinline void keep_after_reset(const void *flow, struct conn *conn)
{
	struct conn *known = bpf_map_lookup_elem(&reset_conns, flow);

	conn->has_reset_copy = true;
	if (known && (known->isn != conn->isn || known->iss != conn->iss)) {
		__builtin_memset(known->client, 0, sizeof(known->client));
		known->port = 0;
		known->family = 4;
		known->ambiguous += known->ambiguous ? known->ambiguous < 255 : 2;
		return;
	}
	bpf_map_update_elem(&reset_conns, flow, conn, BPF_ANY);
}

/* The same for an entry that is about to be deleted, or whose connection ends, if its client was not reported yet. */
static __always_inline void keep_unreported(struct scratch *s, const struct flow *flow, struct conn *conn)
{
	if (conn->is_reported || conn->has_reset_copy)
		return;
	s->lookup_flow = *flow;
	s->lookup_flow.local_port = 0;
	keep_after_reset(&s->lookup_flow, conn);
}

#define SWEEP_INTERVAL 100000000 /* ns */

struct sweep {
	struct __sk_buff *skb;
	struct scratch *scratch;
	__u64 is_second;
};

static long delete_dead_conn(void *map, const void *key, void *value, void *context)
{
	struct sweep *sweep = context;
	__u32 state = socket_state(sweep->skb, sweep->scratch, key);

	if (state == NO_SOCKET || state == TCP_LISTEN || (sweep->is_second && state == TCP_TIME_WAIT)) {
		keep_unreported(sweep->scratch, key, value);
		bpf_map_delete_elem(map, key);
	}
	return 0;
}

/*
 * Adds s->conn. When the map is full, entries of connections that the kernel no longer has are deleted, then those in
 * TIME_WAIT, which need theirs only to acknowledge a FIN again. Else an entry is deleted only with the last packet of its
 * connection (on_conn) and by a new connection of the same flow.
 */
static __noinline int add_conn(struct __sk_buff *skb, struct scratch *s)
{
	struct sweep sweep = { skb, s, 0 };
	__u64 now;

	if (!bpf_map_update_elem(&conns, &s->packet.flow, &s->conn, BPF_ANY))
		return 0;
	now = bpf_ktime_get_ns();
	if (now - s->last_sweep < SWEEP_INTERVAL)
		return -1;
	s->last_sweep = now;
	bpf_for_each_map_elem(&conns, delete_dead_conn, &sweep, 0);
	if (!bpf_map_update_elem(&conns, &s->packet.flow, &s->conn, BPF_ANY))
		return 0;
	sweep.is_second = 1;
	bpf_for_each_map_elem(&conns, delete_dead_conn, &sweep, 0);
	return bpf_map_update_elem(&conns, &s->packet.flow, &s->conn, BPF_ANY);
}

static long delete_expired_header(void *map, const void *key, void *value, void *context)
{
	if (((struct partial_header *)value)->since < *(__u64 *)context)
		bpf_map_delete_elem(map, key);
	return 0;
}

/* Stores the first part of a header. When the map is full, entries that have timed out are deleted. */
static __noinline int add_partial_header(struct scratch *s, struct partial_header *partial)
{
	struct settings *settings = get_settings();
	__u64 oldest;
	int failure;

	if (!settings)
		return -1;
	failure = bpf_map_update_elem(&partial_headers, &s->packet.flow, partial, BPF_ANY);
	if (failure != -E2BIG)
		return failure;
	oldest = bpf_ktime_get_coarse_ns() - settings->timeout_ms * 1000000ULL;
	bpf_for_each_map_elem(&partial_headers, delete_expired_header, &oldest, 0);
	return bpf_map_update_elem(&partial_headers, &s->packet.flow, partial, BPF_ANY);
}

#endif
