/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Connections: what the kernel says of them, and the table of those whose client is known. */
#ifndef SRCIP_CONNECTIONS_H
#define SRCIP_CONNECTIONS_H

#include <linux/errno.h>

#include "packet.h"

/* Of the kernel (include/net/tcp_states.h), the same numbers since there is a helper that tells them. */
enum {
	NOTHING = 0,
	TCP_ESTABLISHED = 1,
	TCP_SYN_RECV = 3,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_NEW_SYN_RECV = 12
};
enum { INET = 2, INET6 = 10 };

/* What the kernel has for a packet of a flow: a state, NOTHING when there is none, and above it a family. */
static __always_inline __u32 told(struct bpf_sock *socket)
{
	__u32 found;

	if (!socket)
		return NOTHING;
	found = socket->state | socket->family << 8;
	bpf_sk_release(socket);
	return found;
}

static __always_inline struct bpf_sock *socket_ipv4(struct __sk_buff *skb, const struct flow *flow)
{
	__u32 zero = 0;
	struct bpf_sock_tuple *tuple = bpf_map_lookup_elem(&tuples, &zero);

	if (!tuple)
		return 0;
	tuple->ipv4.saddr = flow->peer[3];
	tuple->ipv4.daddr = flow->own[3];
	tuple->ipv4.sport = flow->peer_port;
	tuple->ipv4.dport = flow->own_port;
	return bpf_skc_lookup_tcp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
}

static __always_inline struct bpf_sock *socket_ipv6(struct __sk_buff *skb, const struct flow *flow)
{
	__u32 zero = 0;
	struct bpf_sock_tuple *tuple = bpf_map_lookup_elem(&tuples, &zero);

	if (!tuple)
		return 0;
	__builtin_memcpy(tuple->ipv6.saddr, flow->peer, 16);
	__builtin_memcpy(tuple->ipv6.daddr, flow->own, 16);
	tuple->ipv6.sport = flow->peer_port;
	tuple->ipv6.dport = flow->own_port;
	return bpf_skc_lookup_tcp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0);
}

static __noinline __u32 find_ipv4(struct __sk_buff *skb, const struct flow *flow)
{
	return told(socket_ipv4(skb, flow));
}

static __noinline __u32 find_ipv6(struct __sk_buff *skb, const struct flow *flow)
{
	return told(socket_ipv6(skb, flow));
}

static __always_inline __u32 find_socket(struct __sk_buff *skb, const struct flow *flow)
{
	if (flow->peer[2] == bpf_htonl(0xffff) && !flow->peer[0] && !flow->peer[1])
		return find_ipv4(skb, flow);
	return find_ipv6(skb, flow);
}

static __always_inline __u32 state_of(struct __sk_buff *skb, const struct flow *flow)
{
	return find_socket(skb, flow) & 0xff;
}

/* Whether a SYN-ACK is a SYN cookie: the kernel has no request then that the packet could belong to. */
static __always_inline int is_cookie(struct __sk_buff *skb, const struct flow *flow)
{
	return !skb->sk && state_of(skb, flow) == TCP_LISTEN;
}

static __noinline int answers_cookie_ipv4(struct __sk_buff *skb, struct work *w)
{
	struct bpf_sock *listener;
	int failure;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, w->chunk, sizeof(struct iphdr)))
		return 0;
	listener = socket_ipv4(skb, &w->packet.flow);
	if (!listener)
		return 0;
	failure = bpf_tcp_check_syncookie(listener, w->chunk, sizeof(struct iphdr), (struct tcphdr *)w->tcp,
					  sizeof(struct tcphdr));
	bpf_sk_release(listener);
	return !failure;
}

static __noinline int answers_cookie_ipv6(struct __sk_buff *skb, struct work *w)
{
	struct bpf_sock *listener;
	int failure;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, w->chunk, sizeof(struct ipv6hdr)))
		return 0;
	listener = socket_ipv6(skb, &w->packet.flow);
	if (!listener)
		return 0;
	failure = bpf_tcp_check_syncookie(listener, w->chunk, sizeof(struct ipv6hdr), (struct tcphdr *)w->tcp,
					  sizeof(struct tcphdr));
	bpf_sk_release(listener);
	return !failure;
}

/*
 * Whether the packet's numbers are those of a SYN cookie of the listener's: the kernel knows without remembering one, so
 * that no flood of SYNs makes it forget. They are those of the first segment behind the SYN, or of a bare ACK.
 */
static __always_inline int answers_cookie(struct __sk_buff *skb, struct work *w)
{
	if (bpf_skb_load_bytes(skb, w->packet.tcp, w->tcp, sizeof(struct tcphdr)))
		return 0;
	return w->packet.is_ipv6 ? answers_cookie_ipv6(skb, w) : answers_cookie_ipv4(skb, w);
}

/* What is known of the flow's SYN cookie, if it has one. */
static __always_inline struct pending *find_cookie(struct work *w, __u32 isn)
{
	w->cookie.flow = w->packet.flow;
	w->cookie.isn = isn;
	return bpf_map_lookup_elem(&cookies, &w->cookie);
}

static __always_inline void note_cookie(struct work *w, const struct pending *pending)
{
	w->cookie = w->attempt;
	bpf_map_update_elem(&cookies, &w->cookie, pending, BPF_ANY);
	w->cookie.isn = ANY_ISN;
	bpf_map_update_elem(&cookies, &w->cookie, pending, BPF_ANY);
}

static __always_inline void forget_cookie(struct work *w)
{
	w->cookie = w->attempt;
	bpf_map_delete_elem(&cookies, &w->cookie);
	w->cookie.isn = ANY_ISN;
	bpf_map_delete_elem(&cookies, &w->cookie);
}

/* Whether a SYN-ACK answers a SYN that crossed one of the Pod's own (RFC 9293, 3.5: simultaneous open). */
static __always_inline int is_crossing(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return socket && socket->state == TCP_SYN_RECV;
}

/* Whether a packet of the Pod is that of an established connection. */
static __always_inline int is_established(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return socket && socket->state == TCP_ESTABLISHED;
}

/*
 * Whether a packet of the Pod that is no SYN-ACK is that of a half-open connection: the kernel's own socket sends it, since
 * Linux 6.13 in the name of the listener.
 */
static __always_inline int is_of_request(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return !socket || socket->state == TCP_CLOSE || socket->state == TCP_LISTEN;
}

/* Whether the Pod's FIN leaves a connection that the peer has ended before. */
static __always_inline int is_last(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	return socket && socket->state == TCP_LAST_ACK;
}

/* Whether the application that listens for `flow` can be shown an IPv6 client. */
static __always_inline int can_show_ipv6(struct __sk_buff *skb, struct work *w)
{
	w->nobody = w->packet.flow;
	w->nobody.peer_port = 0; /* no connection has it, so that the listener is found */
	return find_socket(skb, &w->nobody) >> 8 != INET;
}

/*
 * A socket that is over gives its port back, and can still be accepted: the client is kept in `resets` for whoever asks
 * then. `flow` has 0 for the port. Two connections that differ in that port alone, or in nothing, are told apart by nobody:
 * then no address is kept, for sockets of either family.
 */
static __noinline void keep_reset(const void *flow, struct live *live)
{
	struct live *known = bpf_map_lookup_elem(&resets, flow);

	live->is_reset = 1;
	if (known && (known->isn != live->isn || known->iss != live->iss)) {
		__builtin_memset(known->client, 0, sizeof(known->client));
		known->port = 0;
		known->family = 4;
		known->unsure += known->unsure ? known->unsure < 255 : 2;
		return;
	}
	bpf_map_update_elem(&resets, flow, live, BPF_ANY);
}

/* The same of an entry that is about to go, or whose connection is, where nobody has asked for the client yet. */
static __always_inline void keep_untold(struct work *w, const struct flow *flow, struct live *live)
{
	if (live->is_told || live->is_reset)
		return;
	w->nobody = *flow;
	w->nobody.own_port = 0;
	keep_reset(&w->nobody, live);
}

#define SWEEP_EVERY 100000000 /* ns */

struct sweep {
	struct __sk_buff *skb;
	struct work *work;
	__u64 is_second;
};

static long forget_dead(void *map, const void *key, void *value, void *context)
{
	struct sweep *sweep = context;
	__u32 state = state_of(sweep->skb, key);

	if (state == NOTHING || state == TCP_LISTEN || (sweep->is_second && state == TCP_TIME_WAIT)) {
		keep_untold(sweep->work, key, value);
		bpf_map_delete_elem(map, key);
	}
	return 0;
}

/*
 * Adds w->live. When the table is full, the entries of connections that the kernel no longer has make room, then those of
 * connections in TIME_WAIT: all that they can still need is to acknowledge a FIN once more. Nothing else removes an
 * entry but the last packet of its connection (on_live), and a new connection of the same flow.
 */
static __noinline int add_live(struct __sk_buff *skb, struct work *w)
{
	struct sweep sweep = { skb, w, 0 };
	__u64 now;

	if (!bpf_map_update_elem(&lives, &w->packet.flow, &w->live, BPF_ANY))
		return 0;
	now = bpf_ktime_get_ns();
	if (now - w->swept < SWEEP_EVERY)
		return -1;
	w->swept = now;
	bpf_for_each_map_elem(&lives, forget_dead, &sweep, 0);
	if (!bpf_map_update_elem(&lives, &w->packet.flow, &w->live, BPF_ANY))
		return 0;
	sweep.is_second = 1;
	bpf_for_each_map_elem(&lives, forget_dead, &sweep, 0);
	return bpf_map_update_elem(&lives, &w->packet.flow, &w->live, BPF_ANY);
}

static long forget_old(void *map, const void *key, void *value, void *context)
{
	if (((struct held *)value)->since < *(__u64 *)context)
		bpf_map_delete_elem(map, key);
	return 0;
}

/* Keeps the first part of a header. Room is made of those that nobody went on with in time. */
static __noinline int add_held(struct work *w, struct held *held)
{
	struct settings *settings = get_settings();
	__u64 oldest;
	int failure;

	if (!settings)
		return -1;
	failure = bpf_map_update_elem(&headers, &w->packet.flow, held, BPF_ANY);
	if (failure != -E2BIG)
		return failure;
	oldest = bpf_ktime_get_coarse_ns() - settings->timeout_ms * 1000000ULL;
	bpf_for_each_map_elem(&headers, forget_old, &oldest, 0);
	return bpf_map_update_elem(&headers, &w->packet.flow, held, BPF_ANY);
}

#endif
