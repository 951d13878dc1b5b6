/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the programs know: the settings, the connections, the counters. Every attach has its own maps, so Pods share none. */
#ifndef SRCIP_STATE_H
#define SRCIP_STATE_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "header.h"

/* Policies of a network, in the words of srcip.io/proxy-protocol. 0: off. */
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
	COUNTER_SETS,
};

/* Both ends of a connection as the Pod sees them, network order; IPv4 as ::ffff:a.b.c.d. */
struct flow {
	__be32 peer[4];
	__be32 own[4];
	__be16 peer_port;
	__be16 own_port;
};

/* A handshake. With the sequence number, a forged SYN is another attempt, and harms none. */
struct attempt {
	struct flow flow;
	__u32 isn; /* the peer's initial sequence number */
};

#define ANY_ISN 0

struct pending {
	__u64 since; /* of the first SYN-ACK, in ns */
	__u32 iss;   /* our initial sequence number */
	__u8 policy;
	__u8 is_held; /* a part of the header lies in `headers` */
	__u8 is_refused;
	__u8 is_cookie; /* the kernel has no request for it */
	__u8 has_times; /* the option timestamp is in use, and these are known (RFC 7323): */
	__u32 recent;   /* what the peer said last before our SYN-ACK */
	__u32 first, last; /* of our SYN-ACKs */
};

/* The part of a header that has arrived, where it came in several segments. */
struct held {
	__u32 isn;
	__u64 since;
	struct srcip_scratch scratch;
};

/* A connection whose client is known. */
struct live {
	__be32 client[4];
	__u32 isn;
	__u32 shift; /* bytes of the header */
	__be16 port;
	__u8 family;     /* 4, 6; 0: the connection's own address counts */
	__u8 is_ending;  /* both have sent FIN, and the Pod has acknowledged the peer's: LAST_ACK, in RFC 9293's words */
	__u32 own_end;   /* behind the Pod's FIN */
	__u32 iss;       /* of the Pod */
	__u32 timestamp; /* of its SYN-ACK, while the kernel has no more than a request; else 0 */
	__u8 is_told;    /* somebody has asked for the client */
	__u8 is_reset;   /* there is a copy in `resets` */
	__u8 unsure;     /* of `resets`: so many that nobody can tell apart, and that were not accepted yet */
	__u8 reserved;
};

struct network {
	__u32 length;
	__be32 address[4];
};

struct settings {
	__u64 network; /* cookie of the network namespace that this is about */
	struct srcip_limits limits;
	__u32 timeout_ms;
	__u32 fingerprint; /* never 0; the settings are written last, and until then no program does anything */
	__u8 is_exact; /* refuse, rather than show the balancer */
	__u8 is_toa; /* the TCP option TOA states the client, and there are no headers */
	__u16 reserved;
};

struct packet {
	struct flow flow;
	__u32 seq, ack;
	__u32 payload; /* bytes */
	__u32 tcp;     /* where the TCP header begins */
	__u32 header;  /* bytes of the TCP header */
	__be32 option; /* the first four bytes of its options, where they are at hand; else 0 */
	__u16 flags;   /* with the header's length, as they stand in the packet, host order */
	__u8 is_ipv6;
	__u8 reserved;
};

/* The rest of the option of this name, of which an IPv4 address takes the first four bytes. */
struct toa {
	__u16 reserved;
	__be16 port;
	__be32 address[4];
};

#define CHUNK 256

/* Of one CPU and one direction: what would be on the stack, were the verifier to follow it there. */
struct work {
	struct packet packet;
	struct attempt attempt, cookie;
	struct live live;
	__u32 at, place, size; /* in options */
	__u32 left, sum;       /* of a checksum, from `place` on */
	__u32 shift, timestamp;
	__be32 times[2]; /* the option timestamp: value and echo */
	__u32 is_cut;  /* there is more of the payload than a header can have */
	__u32 counter; /* how the connection is counted once it is known */
	__u64 swept; /* when the dead were last looked for */
	struct flow nobody;
	struct network key;
	struct pending pending;
	struct toa toa;
	__u8 tcp[64];
	__u8 options[64], before[64];
	__u8 chunk[CHUNK];
};

enum { INWARD, OUTWARD, DIRECTIONS };

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
MAP(counters, ARRAY, COUNTER_SETS, __u32, __u64, 0);
/* A header that comes in one segment, as a value of the size of those in `headers`: without CAP_PERFMON the verifier
 * takes additions to pointers at one place only if the values are of one size. */
MAP(fresh, PERCPU_ARRAY, 1, __u32, struct held, 0);
MAP(tuples, PERCPU_ARRAY, 1, __u32, struct bpf_sock_tuple, 0);
MAP(works, PERCPU_ARRAY, DIRECTIONS, __u32, struct work, 0);
/* Not answered yet: may be forgotten, then the next SYN-ACK brings it back, or the connection is refused. */
MAP(attempts, LRU_HASH, 8192, struct attempt, struct pending, 0);
/*
 * Those that the kernel has answered by a SYN cookie, and so knows nothing of: each as it would be in `attempts`, and once
 * more with ANY_ISN, for what does not begin a header. Forgotten they are known by the cookie alone (answers_cookie).
 */
MAP(cookies, LRU_HASH, 8192, struct attempt, struct pending, 0);
/* Half-open connections that said something while they were forgotten: they are not to be forgotten again. */
MAP(heard, LRU_HASH, 1024, struct flow, __u8, 0);
MAP(headers, HASH, 256, struct flow, struct held, BPF_F_NO_PREALLOC);
/* Never forgotten while the kernel has the connection. */
MAP(lives, HASH, 16384, struct flow, struct live, 0);
/* Those that were over before somebody asked for the client, with 0 for the own port: the socket has given it back. */
MAP(resets, LRU_HASH, 4096, struct flow, struct live, 0);

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

static __always_inline struct held *get_fresh(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fresh, &zero);
}

/* Whether the port is one of those asked for; none is, until the settings are there. */
static __always_inline int is_intercepted(__be16 port)
{
	struct settings *settings = get_settings();
	__u32 number = bpf_ntohs(port), index = number >> 6;
	__u64 *bits = bpf_map_lookup_elem(&ports, &index);

	return bits && settings && settings->fingerprint && (*bits >> (number & 63) & 1);
}

/* What is asked of this peer. */
static __always_inline __u32 policy_of(struct work *w)
{
	__u32 *policy;

	w->key.length = 128;
	__builtin_memcpy(w->key.address, w->packet.flow.peer, sizeof(w->key.address));
	policy = bpf_map_lookup_elem(&networks, &w->key);
	return policy ? *policy : OFF;
}

#endif
