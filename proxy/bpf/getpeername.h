/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The hooks that accept() and getpeername() call: they return the client, and the counters. */
#ifndef SRCIP_GETPEERNAME_H
#define SRCIP_GETPEERNAME_H

#include "connections.h"

/* For `srcip-proxy ebpf stats`: the peer of a UDP socket that is connected to this address is a counter. */
#define STATS_ADDRESS 0x7f534950
#define FINGERPRINT_PORT 9999

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PAIR(first, second) ((__u64)(first) | (__u64)(second) << 32)
#define FIRST(pair) ((__u32)(pair))
#define SECOND(pair) ((__u32)((pair) >> 32))
#else
#define PAIR(first, second) ((__u64)(first) << 32 | (__u64)(second))
#define FIRST(pair) ((__u32)((pair) >> 32))
#define SECOND(pair) ((__u32)(pair))
#endif
#define FLOW_WORDS 5

/*
 * The flow is written in words of 64 bits: without CAP_PERFMON the verifier allows no write to a part of a stack slot.
 * Each family has a function of its own, or the compiler adds to the pointer to the socket, which the verifier never
 * allows.
 */
static __always_inline __u64 ports_of(struct bpf_sock *socket)
{
	__u32 remote_port = (__u16)socket->dst_port, local_port = bpf_htons(socket->src_port);

	return (__u64)remote_port | (__u64)local_port << 16;
}

static __noinline void flow_ipv6(struct bpf_sock_addr *ctx, __u64 *flow)
{
	struct bpf_sock *socket = ctx->sk;

	if (!socket)
		return;
	flow[0] = PAIR(socket->dst_ip6[0], socket->dst_ip6[1]);
	flow[1] = PAIR(socket->dst_ip6[2], socket->dst_ip6[3]);
	flow[2] = PAIR(socket->src_ip6[0], socket->src_ip6[1]);
	flow[3] = PAIR(socket->src_ip6[2], socket->src_ip6[3]);
	flow[4] = ports_of(socket);
}

static __noinline void flow_ipv4(struct bpf_sock_addr *ctx, __u64 *flow)
{
	struct bpf_sock *socket = ctx->sk;

	if (!socket)
		return;
	flow[1] = PAIR(bpf_htonl(0xffff), socket->dst_ip4);
	flow[3] = PAIR(bpf_htonl(0xffff), socket->src_ip4);
	flow[4] = ports_of(socket);
}

static __always_inline bool is_mapped(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *socket = ctx->sk;

	return socket && !socket->dst_ip6[0] && !socket->dst_ip6[1] && socket->dst_ip6[2] == bpf_htonl(0xffff);
}

/* Whether the remote address is in a trusted network, so that the flow may have an entry. */
static __noinline bool is_trusted(const __u64 *flow)
{
	__u64 key[3] = { PAIR(128, FIRST(flow[0])), PAIR(SECOND(flow[0]), FIRST(flow[1])), SECOND(flow[1]) };
	__u32 *policy = bpf_map_lookup_elem(&networks, key);

	return policy && *policy != OFF;
}

/* Copies an entry of this flow to `reset_conns`, whatever its local port, if its client was not reported yet. */
static long keep_aborted(void *map, const void *key, void *value, void *context)
{
	const __u32 *known = key;
	const __u64 *flow = context;
	struct conn *conn = value;

	(void)map;
	if (PAIR(known[0], known[1]) == flow[0] && PAIR(known[2], known[3]) == flow[1] &&
	    PAIR(known[4], known[5]) == flow[2] && PAIR(known[6], known[7]) == flow[3] &&
	    ((const struct flow *)key)->remote_port == (__u16)flow[4] && !conn->is_reported && !conn->has_reset_copy)
		keep_after_reset(flow, conn);
	return 0;
}

/*
 * The entry of a socket. A closed one has given its port back: its entry was copied when its RST was seen. If the kernel
 * aborted the connection, there may have been no packet (no route to the peer, a firewall, `ss -K`): then it is searched
 * among the entries that were not reported yet. That is rare, as sockets of untrusted peers have no entry.
 */
static __noinline struct conn *find_conn(__u64 *flow)
{
	struct conn *conn;

	if (flow[4] >> 16)
		return bpf_map_lookup_elem(&conns, flow);
	conn = bpf_map_lookup_elem(&reset_conns, flow);
	if (conn)
		return conn;
	if (is_trusted(flow))
		bpf_for_each_map_elem(&conns, keep_aborted, flow, 0);
	return bpf_map_lookup_elem(&reset_conns, flow);
}

/*
 * Marks the entry of `flow` as reported. False: it is no more that of the handshake `isn`, as the map gave its memory to
 * another connection while it was read. Once the client was reported, the copy in `reset_conns` is not needed: of a
 * connection that was reset only accept() asks, once.
 */
static __noinline bool mark_reported(__u64 *flow, __u32 isn)
{
	struct conn *conn = find_conn(flow);

	if (!conn || *(volatile __u32 *)&conn->isn != isn)
		return false;
	if (conn->ambiguous) {
		count(FALLBACK_RESET);
		if (!--conn->ambiguous)
			bpf_map_delete_elem(&reset_conns, flow);
	} else if (!conn->is_reported) {
		conn->is_reported = true;
		if (conn->has_reset_copy) {
			flow[4] &= 0xffff;
			bpf_map_delete_elem(&reset_conns, flow);
		}
	}
	return true;
}

/* Returns 48 bits of a counter as address and port. */
static __always_inline int answer_stats(struct bpf_sock_addr *ctx)
{
	__u32 index = bpf_ntohs(ctx->user_port) - 1; /* nothing connects to port 0 */
	struct settings *settings = get_settings();
	__u64 *value = bpf_map_lookup_elem(&counters, &index), answer;

	if (value)
		answer = *value;
	else if (settings && index + 1 == FINGERPRINT_PORT)
		answer = settings->fingerprint;
	else
		return 1;
	ctx->user_ip4 = bpf_htonl(answer);
	ctx->user_port = bpf_htons(answer >> 32);
	return 1;
}

/*
 * A Pod whose sandbox died gets a new network namespace and keeps its cgroup, with the programs of the old namespace
 * attached. They cannot be detached without SYS_ADMIN, so they do nothing in another namespace than theirs.
 */
static __always_inline bool is_other_netns(struct bpf_sock_addr *ctx)
{
	struct settings *settings = get_settings();

	return !settings || bpf_get_netns_cookie(ctx) != settings->netns_cookie;
}

SEC("cgroup/getpeername4")
int srcip_peer4(struct bpf_sock_addr *ctx)
{
	__u64 flow[FLOW_WORDS] = {};
	struct conn *conn;
	__u32 isn, client, port;

	if (is_other_netns(ctx))
		return 1;
	if (ctx->protocol == IPPROTO_UDP && ctx->user_ip4 == bpf_htonl(STATS_ADDRESS))
		return answer_stats(ctx);
	if (ctx->protocol != IPPROTO_TCP)
		return 1;
	flow_ipv4(ctx, flow);
	conn = find_conn(flow);
	if (!conn || conn->family != 4)
		return 1;
	isn = *(volatile __u32 *)&conn->isn;
	client = conn->client[3];
	port = conn->port;
	if (!mark_reported(flow, isn))
		return 1;
	ctx->user_ip4 = client;
	ctx->user_port = port;
	return 1;
}

SEC("cgroup/getpeername6")
int srcip_peer6(struct bpf_sock_addr *ctx)
{
	__u64 flow[FLOW_WORDS] = {}, client[2];
	struct conn *conn;
	__u32 isn, port;

	if (ctx->protocol != IPPROTO_TCP || is_other_netns(ctx))
		return 1;
	if (is_mapped(ctx))
		flow_ipv4(ctx, flow);
	else
		flow_ipv6(ctx, flow);
	conn = find_conn(flow);
	if (!conn || !conn->family)
		return 1;
	isn = *(volatile __u32 *)&conn->isn;
	client[0] = PAIR(conn->client[0], conn->client[1]);
	client[1] = PAIR(conn->client[2], conn->client[3]);
	port = conn->port;
	if (!mark_reported(flow, isn))
		return 1;
	ctx->user_ip6[0] = FIRST(client[0]);
	ctx->user_ip6[1] = SECOND(client[0]);
	ctx->user_ip6[2] = FIRST(client[1]);
	ctx->user_ip6[3] = SECOND(client[1]);
	ctx->user_port = port;
	return 1;
}

#endif
