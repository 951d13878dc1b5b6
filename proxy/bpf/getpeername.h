/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The hooks that accept() and getpeername() ask: they say the client, and the counters. */
#ifndef SRCIP_GETPEERNAME_H
#define SRCIP_GETPEERNAME_H

#include "connections.h"

/* Asked by `srcip-proxy ebpf stats`: the peer of a UDP socket that is connected here is a counter. */
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
 * The flow is written in words of 64 bits: without CAP_PERFMON no number on the stack may be written over in part. The two
 * families are functions of their own, or the compiler adds to the pointer to the socket, which is not allowed at all.
 */
static __always_inline __u64 ports_of(struct bpf_sock *socket)
{
	__u32 peer_port = (__u16)socket->dst_port, own_port = bpf_htons(socket->src_port);

	return (__u64)peer_port | (__u64)own_port << 16;
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

static __always_inline int is_mapped(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *socket = ctx->sk;

	return socket && !socket->dst_ip6[0] && !socket->dst_ip6[1] && socket->dst_ip6[2] == bpf_htonl(0xffff);
}

/* Whether connections from the flow's peer have entries at all. */
static __noinline int is_trusted(const __u64 *flow)
{
	__u64 key[3] = { PAIR(128, FIRST(flow[0])), PAIR(SECOND(flow[0]), FIRST(flow[1])), SECOND(flow[1]) };
	__u32 *policy = bpf_map_lookup_elem(&networks, key);

	return policy && *policy != OFF;
}

static long keep_given_up(void *map, const void *key, void *value, void *context)
{
	const __u32 *known = key;
	const __u64 *flow = context;
	struct live *live = value;

	(void)map;
	if (PAIR(known[0], known[1]) == flow[0] && PAIR(known[2], known[3]) == flow[1] &&
	    PAIR(known[4], known[5]) == flow[2] && PAIR(known[6], known[7]) == flow[3] &&
	    ((const struct flow *)key)->peer_port == (__u16)flow[4] && !live->is_told && !live->is_reset)
		keep_reset(flow, live);
	return 0;
}

/*
 * What is known of a socket. One that is over has given its port back: what is known of it was kept when its RST was seen.
 * Of one that the kernel gave up no packet need tell (no way leads to the peer, a firewall, an administrator): it is looked
 * for among those that nobody has asked for. That is seldom, as the socket of a stranger has no entry.
 */
static __noinline struct live *live_of(__u64 *flow)
{
	struct live *live;

	if (flow[4] >> 16)
		return bpf_map_lookup_elem(&lives, flow);
	live = bpf_map_lookup_elem(&resets, flow);
	if (live)
		return live;
	if (is_trusted(flow))
		bpf_for_each_map_elem(&lives, keep_given_up, flow, 0);
	return bpf_map_lookup_elem(&resets, flow);
}

/*
 * Whether `flow` still has the entry of the handshake `isn`, which is told then. An entry can be given to another connection
 * while it is read; then it is this flow's no more. Once somebody has been told, nobody needs what is kept for a reset: when
 * the connection is reset, only accept() asks, and it asks once.
 */
static __noinline int tell(__u64 *flow, __u32 isn)
{
	struct live *live = live_of(flow);

	if (!live || *(volatile __u32 *)&live->isn != isn)
		return 0;
	if (live->unsure) {
		count(FALLBACK_RESET);
		if (!--live->unsure)
			bpf_map_delete_elem(&resets, flow);
	} else if (!live->is_told) {
		live->is_told = 1;
		if (live->is_reset) {
			flow[4] &= 0xffff;
			bpf_map_delete_elem(&resets, flow);
		}
	}
	return 1;
}

/* 48 bits of a counter as an address and a port. */
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
 * A Pod whose sandbox died gets another network and keeps its cgroup, and with it the hooks of the network that is gone.
 * They can't be taken away without SYS_ADMIN, so they are silent where their network is not.
 */
static __always_inline int is_elsewhere(struct bpf_sock_addr *ctx)
{
	struct settings *settings = get_settings();

	return !settings || bpf_get_netns_cookie(ctx) != settings->network;
}

SEC("cgroup/getpeername4")
int srcip_peer4(struct bpf_sock_addr *ctx)
{
	__u64 flow[FLOW_WORDS] = {};
	struct live *live;
	__u32 isn, client, port;

	if (is_elsewhere(ctx))
		return 1;
	if (ctx->protocol == IPPROTO_UDP && ctx->user_ip4 == bpf_htonl(STATS_ADDRESS))
		return answer_stats(ctx);
	if (ctx->protocol != IPPROTO_TCP)
		return 1;
	flow_ipv4(ctx, flow);
	live = live_of(flow);
	if (!live || live->family != 4)
		return 1;
	isn = *(volatile __u32 *)&live->isn;
	client = live->client[3];
	port = live->port;
	if (!tell(flow, isn))
		return 1;
	ctx->user_ip4 = client;
	ctx->user_port = port;
	return 1;
}

SEC("cgroup/getpeername6")
int srcip_peer6(struct bpf_sock_addr *ctx)
{
	__u64 flow[FLOW_WORDS] = {}, client[2];
	struct live *live;
	__u32 isn, port;

	if (ctx->protocol != IPPROTO_TCP || is_elsewhere(ctx))
		return 1;
	if (is_mapped(ctx))
		flow_ipv4(ctx, flow);
	else
		flow_ipv6(ctx, flow);
	live = live_of(flow);
	if (!live || !live->family)
		return 1;
	isn = *(volatile __u32 *)&live->isn;
	client[0] = PAIR(live->client[0], live->client[1]);
	client[1] = PAIR(live->client[2], live->client[3]);
	port = live->port;
	if (!tell(flow, isn))
		return 1;
	ctx->user_ip6[0] = FIRST(client[0]);
	ctx->user_ip6[1] = SECOND(client[0]);
	ctx->user_ip6[2] = FIRST(client[1]);
	ctx->user_ip6[3] = SECOND(client[1]);
	ctx->user_port = port;
	return 1;
}

#endif
