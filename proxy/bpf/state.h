/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The maps: settings, connections, counters. Every attach has its own, so Pods share none. */
#ifndef SRCIP_STATE_H
#define SRCIP_STATE_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "header.h"

/* Policies of a network: values of srcip.io/proxy-protocol, and OFF where it is in no trusted network. */
enum { OFF, REQUIRED, OPTIONAL };

/* Order and names are those of COUNTERS in srcip_proxy/ebpf/counters.py. */
enum counter {
	ACCEPTED_PROXY, /* handed to the application with a client's address */
	ACCEPTED_LOCAL, /* without: LOCAL, UNKNOWN */
	ACCEPTED_NONE,  /* no header or option, where the policy allows it */
	ACCEPTED_TOA,   /* like ACCEPTED_PROXY, by the TCP option */
	FALLBACK_FAMILY,
	REFUSED_CHECKSUM,
	REFUSED_EMPTY, /* ended before its first byte: a health check that only connects */
	REFUSED_FAMILY,
	REFUSED_HEADER_CLOSED,
	REFUSED_HEADER_TIMEOUT,
	REFUSED_MALFORMED,
	REFUSED_NO_HEADER,
	REFUSED_NO_OPTION,
	REFUSED_NO_ROOM,
	REFUSED_SIMULTANEOUS_OPEN,
	REFUSED_TOO_LONG,
	REFUSED_UNUSABLE_ADDRESS,
	REFUSED_VERSION,
	DROPPED_FRAGMENT, /* packets, from here on */
	DROPPED_EARLY,    /* behind a header that is not whole yet: it comes again */
	DROPPED_CHECKSUM, /* TCP or IPv4 would drop it for its checksum */
	DROPPED_TIMESTAMP, /* TCP would drop it for its timestamp */
	FALLBACK_RESET,   /* over before accept(), and nobody can tell whose it was */
	COUNTER_COUNT,
};

/* Both ends of a connection as the Pod sees them, network order; IPv4 as ::ffff:a.b.c.d. */
struct flow {
	__be32 remote[4];
	__be32 local[4];
	__be16 remote_port;
	__be16 local_port;
};

/* Key of a handshake. With the sequence number, a forged SYN is a handshake of its own and harms no other. */
struct handshake_key {
	struct flow flow;
	__u32 isn; /* the remote initial sequence number */
};

#define ANY_ISN 0

struct handshake {
	__u64 since; /* of the first SYN-ACK, in ns */
	__u32 iss;   /* the local initial sequence number */
	__u8 policy;
	bool has_partial_header; /* in `partial_headers` */
	bool is_refused;
	bool is_syncookie;   /* the kernel has no request socket for it */
	bool has_timestamps; /* TCP timestamps (RFC 7323) are in use, and these are known: */
	__u32 recent;        /* TS.Recent when the SYN-ACK was sent */
	__u32 first, last;   /* TSval of the first and of the last SYN-ACK */
};

/* The part of a header that has arrived, where it came in several segments. */
struct partial_header {
	__u32 isn;
	__u64 since;
	struct srcip_parser parser;
};

/* A connection whose client is known. */
struct conn {
	__be32 client[4];
	__u32 isn;        /* the remote initial sequence number */
	__u32 header_len; /* bytes of the PROXY header */
	__be16 port;      /* of the client */
	__u8 family;      /* of the client: 4, 6; 0: the remote address of the connection counts */
	bool is_last_ack; /* state LAST_ACK (RFC 9293): after the next acknowledgement the connection is closed */
	__u32 local_end;  /* the sequence number behind the local FIN */
	__u32 iss;        /* the local initial sequence number */
	__u32 timestamp;  /* TSval of the SYN-ACK, while the kernel has no more than a request socket; else 0 */
	bool is_reported;    /* accept() or getpeername() has returned the client */
	bool has_reset_copy; /* in `reset_conns` */
	__u8 ambiguous;      /* in `reset_conns`: connections of this key that were not accepted yet, if more than one */
	__u8 reserved;
};

struct network {
	__u32 length;
	__be32 address[4];
};

struct settings {
	__u64 netns_cookie; /* of the network namespace that the programs are attached in */
	struct srcip_limits limits;
	__u32 timeout_ms;
	__u32 fingerprint; /* never 0; the settings are written last, and until then no program does anything */
	bool is_exact; /* refuse a client that the application cannot be shown; else it is shown the balancer */
	bool is_toa;   /* the TCP option TOA states the client, and there are no headers */
	__u16 reserved;
};

struct packet {
	struct flow flow;
	__u32 seq, ack;
	__u32 payload;        /* bytes */
	__u32 tcp_offset;     /* of the TCP header */
	__u32 tcp_header_len; /* bytes */
	__be32 first_option;  /* the first four bytes of its options, where they can be read at once; else 0 */
	__u16 flags;          /* with the data offset, as they stand in the packet, host order */
	bool is_ipv6;
	__u8 reserved;
};

/* The option TOA from its port on: of `address` an IPv4 address takes the first four bytes. */
struct toa {
	__u16 reserved;
	__be16 port;
	__be32 address[4];
};

#define CHECKSUM_CHUNK 256

/*
 * Of one CPU and one direction: what would lie on the stack, if the verifier did not follow each value there. Loops keep
 * their state here for the same reason.
 */
struct scratch {
	struct packet packet;
	struct handshake_key handshake_key, syncookie_key;
	struct conn conn;
	__u32 option_at, option_len; /* in a walk through the options */
	__u32 masked;                /* an index that the verifier must not know more of than its mask */
	__u32 raise_by, timestamp;   /* change_option() */
	__u32 nops_left;             /* strip_syn_option() */
	__u32 timestamps_at;         /* find_timestamps() */
	__u32 toa_len;               /* find_toa() */
	__be32 timestamps[2];        /* TSval and TSecr */
	__u32 checksum_at, checksum_left, checksum; /* sum_chunk() */
	bool is_truncated; /* there is more payload than a header can have */
	__u32 counter;     /* of the connection, once it is established */
	__u64 last_sweep;  /* when dead entries were last looked for */
	struct flow lookup_flow;
	struct bpf_sock_tuple tuple;
	struct network network_key;
	struct handshake handshake;
	struct toa toa;
	__u8 ip[sizeof(struct ipv6hdr)];
	__u8 tcp[64];
	__u8 options[64], options_before[64];
	__u8 checksum_chunk[CHECKSUM_CHUNK];
};

enum { INGRESS, EGRESS, DIRECTIONS };

#define MAP(name, kind, entries, key_type, value_type, flags) \
	struct {                                              \
		__uint(type, BPF_MAP_TYPE_##kind);            \
		__uint(max_entries, entries);                 \
		__type(key, key_type);                        \
		__type(value, value_type);                    \
		__uint(map_flags, flags);                     \
	} name SEC(".maps")

MAP(settings_map, ARRAY, 1, __u32, struct settings, 0);
MAP(ports, ARRAY, 1024, __u32, __u64, 0); /* a bit per port */
MAP(networks, LPM_TRIE, 1024, struct network, __u32, BPF_F_NO_PREALLOC);
MAP(counters, ARRAY, COUNTER_COUNT, __u32, __u64, 0);
/*
 * The part of a header that is in the segment being read, as a value of the size of those in `partial_headers`: without
 * CAP_PERFMON the verifier allows additions to map pointers at one instruction only if the values are of one size.
 */
MAP(segment_header, PERCPU_ARRAY, 1, __u32, struct partial_header, 0);
MAP(scratch, PERCPU_ARRAY, DIRECTIONS, __u32, struct scratch, 0);
/* May be evicted: then the next SYN-ACK brings the entry back, or the connection is refused. */
MAP(handshakes, LRU_HASH, 8192, struct handshake_key, struct handshake, 0);
/*
 * Handshakes that the kernel answered by a SYN cookie, so that it has no request socket: each as it would be in
 * `handshakes`, and once more with ANY_ISN, for packets that do not begin a header. Of an evicted one the cookie tells
 * (matches_syncookie).
 */
MAP(syncookies, LRU_HASH, 8192, struct handshake_key, struct handshake, 0);
/*
 * Half-open connections that sent something after their entry of `handshakes` was evicted: it must not be evicted again.
 */
MAP(evicted_flows, LRU_HASH, 1024, struct flow, __u8, 0);
MAP(partial_headers, HASH, 256, struct flow, struct partial_header, BPF_F_NO_PREALLOC);
/* Never evicted while the kernel has the connection. The size is max-connections (attach.py). */
MAP(conns, HASH, 16384, struct flow, struct conn, 0);
/* Connections closed before accept() or getpeername(), with local port 0: the socket has given its port back. */
MAP(reset_conns, LRU_HASH, 4096, struct flow, struct conn, 0);

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings_map, &zero);
}

static __always_inline struct partial_header *get_segment_header(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&segment_header, &zero);
}

/* Whether the port is one of the plan's inbound ports; none is until the settings are written. */
static __always_inline bool is_intercepted(__be16 port)
{
	struct settings *settings = get_settings();
	__u32 number = bpf_ntohs(port), index = number >> 6;
	__u64 *bits = bpf_map_lookup_elem(&ports, &index);

	return bits && settings && settings->fingerprint && (*bits >> (number & 63) & 1);
}

/* The policy of the network that the remote address is in. */
static __always_inline __u32 policy_of(struct scratch *s)
{
	__u32 *policy;

	s->network_key.length = 128;
	__builtin_memcpy(s->network_key.address, s->packet.flow.remote, sizeof(s->network_key.address));
	policy = bpf_map_lookup_elem(&networks, &s->network_key);
	return policy ? *policy : OFF;
}

#endif
