/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * TCP packets: read, and changed in place.
 *
 * Checksums are changed by the difference, or kept true by another number, which holds for every state a packet can be in
 * (complete, partial for the card to finish, verified, or not). Only a packet that loses its payload gets a new one.
 */
#ifndef SRCIP_PACKET_H
#define SRCIP_PACKET_H

#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "state.h"

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10
#define URG 0x20
#define MASK (FIN | SYN | RST | ACK)

#define SEQ_AT offsetof(struct tcphdr, seq)
#define ACK_AT offsetof(struct tcphdr, ack_seq)
#define FLAGS_AT 12
#define CHECK_AT offsetof(struct tcphdr, check)
#define OPTIONS_AT sizeof(struct tcphdr)
#define OPTIONS_SIZE 40
#define TCP_AT_IPV4 (ETH_HLEN + sizeof(struct iphdr))
#define TCP_AT_IPV6 (ETH_HLEN + sizeof(struct ipv6hdr))
#define SHORTEST (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr)) /* as long as with an IPv6 header alone */

/*
 * Before Linux 6.6 (6.1.53) the verifier lets nobody without CAP_PERFMON compare pointers into a packet. For these kernels
 * the programs are compiled a second time, with copies.
 */
#ifdef SRCIP_COPIES
#define IN_PLACE 0
#else
#define IN_PLACE 1
#endif

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

/* A length from 1 to `most`, a power of two, for the verifier: the caller knows that it is, the compiler must not. */
static __always_inline __u64 length_of(__u64 length, __u64 most)
{
	asm volatile("" : "+r"(length));
	return ((length - 1) & (most - 1)) + 1;
}

#define MOST_EXTENSIONS 8
#define NOWHERE 0xffff /* where no packet has a TCP header */

enum reading { OTHER, WHOLE, FRAGMENT /* TCP, or what may be, that is not read: its ports are, or are 0 */ };

static __always_inline void set_ipv4(__be32 *to, __be32 address)
{
	to[0] = to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = address;
}

/* Where the TCP header begins and the packet ends, and the addresses. */
static __always_inline int read_ipv4(struct __sk_buff *skb, struct packet *p, const struct iphdr *ip, __u32 direction,
				     __u32 *end)
{
	if (ip->protocol != IPPROTO_TCP || ip->ihl < 5 || ip->version != 4)
		return OTHER;
	set_ipv4(p->flow.peer, direction == INWARD ? ip->saddr : ip->daddr);
	set_ipv4(p->flow.own, direction == INWARD ? ip->daddr : ip->saddr);
	p->tcp = ETH_HLEN + ip->ihl * 4;
	*end = ip->tot_len ? ETH_HLEN + bpf_ntohs(ip->tot_len) : skb->len; /* 0: more than 64 KiB (BIG TCP) */
	if (*end > skb->len)
		return OTHER; /* the kernel drops it, too */
	if (ip->frag_off & bpf_htons(0x1fff))
		return OTHER; /* without its first fragment, which is dropped, it comes to nothing */
	return ip->frag_off & bpf_htons(0x2000) || ip->ihl > 5 ? FRAGMENT : WHOLE; /* the kernel judges options later */
}

static __always_inline int is_extension(__u32 kind)
{
	return kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING || kind == IPPROTO_FRAGMENT || kind == IPPROTO_DSTOPTS ||
	       kind == IPPROTO_AH || kind == IPPROTO_MH || kind == 139 || kind == 140; /* HIP, Shim6 */
}

static __always_inline __u32 size_of_extension(__u32 kind, __u32 length)
{
	if (kind == IPPROTO_FRAGMENT)
		return 8;
	return kind == IPPROTO_AH ? (length + 2) * 4 : (length + 1) * 8;
}

/* Each in a slot of the stack of its own: without CAP_PERFMON the verifier lets nobody write to a part of one. */
struct chain {
	struct __sk_buff *skb;
	__u64 at, kind, is_lost;
};

static long pass_extension(__u32 index, void *context)
{
	struct chain *chain = context;
	__u8 extension[8];

	(void)index;
	if (!is_extension(chain->kind))
		return 1;
	if (bpf_skb_load_bytes(chain->skb, chain->at, extension, sizeof(extension))) {
		chain->is_lost = 1;
		return 1;
	}
	if (chain->kind == IPPROTO_FRAGMENT && (extension[2] || extension[3] & 0xf8)) {
		chain->kind = IPPROTO_NONE; /* without its first fragment, which is dropped, it comes to nothing */
		return 1;
	}
	chain->at += size_of_extension(chain->kind, extension[1]);
	chain->kind = extension[0];
	return 0;
}

/*
 * What is behind other headers, however many there are: what is not read to its end may be TCP. The verifier follows a
 * loop of the language through all its ways, that of bpf_loop() once.
 */
static __noinline int read_extensions(struct __sk_buff *skb, struct packet *p, __u32 kind)
{
	struct chain chain = { skb, p->tcp, kind, 0 };

	bpf_loop(MOST_EXTENSIONS, pass_extension, &chain, 0);
	if (chain.is_lost || is_extension(chain.kind)) {
		p->tcp = NOWHERE;
		return FRAGMENT;
	}
	p->tcp = chain.at;
	return chain.kind == IPPROTO_TCP ? FRAGMENT : OTHER;
}

static __always_inline int read_ipv6(struct __sk_buff *skb, struct packet *p, const struct ipv6hdr *ip, __u32 direction,
				     __u32 *end)
{
	__u32 next = ip->nexthdr;

	__builtin_memcpy(p->flow.peer, direction == INWARD ? &ip->saddr : &ip->daddr, 16);
	__builtin_memcpy(p->flow.own, direction == INWARD ? &ip->daddr : &ip->saddr, 16);
	p->tcp = ETH_HLEN + sizeof(*ip);
	*end = ip->payload_len ? p->tcp + bpf_ntohs(ip->payload_len) : skb->len;
	if (*end > skb->len || ip->version != 6)
		return OTHER; /* the kernel drops it, too */
	return next == IPPROTO_TCP ? WHOLE : read_extensions(skb, p, next);
}

/* Of a packet that is not read: the ports, where they are there. */
static __always_inline int read_ports(struct __sk_buff *skb, struct work *w, __u32 direction)
{
	struct tcphdr *tcp = (struct tcphdr *)w->tcp;
	struct packet *p = &w->packet;

	p->flow.peer_port = p->flow.own_port = 0;
	if (bpf_skb_load_bytes(skb, p->tcp, tcp, 4))
		return FRAGMENT;
	p->flow.peer_port = direction == INWARD ? tcp->source : tcp->dest;
	p->flow.own_port = direction == INWARD ? tcp->dest : tcp->source;
	return FRAGMENT;
}

static __always_inline int read_tcp(struct packet *p, const struct tcphdr *tcp, __u32 direction, __u32 end)
{
	p->option = 0;
	p->flow.peer_port = direction == INWARD ? tcp->source : tcp->dest;
	p->flow.own_port = direction == INWARD ? tcp->dest : tcp->source;
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->header = tcp->doff * 4;
	p->flags = bpf_ntohs(((const __be16 *)tcp)[FLAGS_AT / 2]);
	if (p->header < sizeof(*tcp) || p->tcp + p->header > end)
		return -1; /* the kernel drops it, too */
	p->payload = end - p->tcp - p->header;
	return 0;
}

/* The packet by copies. */
static __always_inline int read_copies(struct __sk_buff *skb, struct work *w, __u32 direction)
{
	struct tcphdr *tcp = (struct tcphdr *)w->tcp;
	struct packet *p = &w->packet;
	__u32 length = 0;
	int found = OTHER;

	p->is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, w->tcp, sizeof(struct iphdr)))
			return OTHER;
		found = read_ipv4(skb, p, (struct iphdr *)w->tcp, direction, &length);
	} else if (p->is_ipv6) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, w->tcp, sizeof(struct ipv6hdr)))
			return OTHER;
		found = read_ipv6(skb, p, (struct ipv6hdr *)w->tcp, direction, &length);
	}
	if (found == FRAGMENT)
		return read_ports(skb, w, direction);
	if (found == OTHER || bpf_skb_load_bytes(skb, p->tcp, tcp, sizeof(*tcp)) || read_tcp(p, tcp, direction, length))
		return OTHER;
	if (p->header >= OPTIONS_AT + 4)
		bpf_skb_load_bytes(skb, p->tcp + OPTIONS_AT, &p->option, sizeof(p->option));
	return found;
}

/* The usual packet is read where it lies: copies would cost more than the rest of a packet not ours. */
static __always_inline int read_packet(struct __sk_buff *skb, struct work *w, __u32 direction)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct packet *p = &w->packet;
	__u32 length = 0;
	int found = OTHER;

	if (!IN_PLACE || begin + SHORTEST + 4 > end)
		return read_copies(skb, w, direction);
	p->is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		found = read_ipv4(skb, p, begin + ETH_HLEN, direction, &length);
		if (found == WHOLE && p->tcp == TCP_AT_IPV4) {
			found = read_tcp(p, begin + TCP_AT_IPV4, direction, length) ? OTHER : WHOLE;
			p->option = *(__be32 *)(begin + TCP_AT_IPV4 + OPTIONS_AT);
			return found;
		}
	} else if (p->is_ipv6) {
		found = read_ipv6(skb, p, begin + ETH_HLEN, direction, &length);
		if (found == WHOLE && begin + TCP_AT_IPV6 + OPTIONS_AT + 4 <= end) {
			found = read_tcp(p, begin + TCP_AT_IPV6, direction, length) ? OTHER : WHOLE;
			p->option = *(__be32 *)(begin + TCP_AT_IPV6 + OPTIONS_AT);
			return found;
		}
	}
	return found == OTHER ? OTHER : read_copies(skb, w, direction);
}

/* One for each direction: the verifier refuses a pointer that is chosen by a condition. */
static __noinline int read_inward(struct __sk_buff *skb, struct work *w)
{
	return read_packet(skb, w, INWARD);
}

static __noinline int read_outward(struct __sk_buff *skb, struct work *w)
{
	return read_packet(skb, w, OUTWARD);
}

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * Whether the checksum is still to be made by the card, and so holds nothing but the addresses and the length. One that is
 * made already looks so once in 65,536; that packet is lost then. Only TIME_WAIT's and RST's are made here.
 */
static __always_inline int is_partial(const struct tcphdr *tcp, const struct packet *p)
{
	__u64 sum = bpf_htonl(IPPROTO_TCP + p->header + p->payload);

	for (int i = 0; i < 4; i++)
		sum += (__u64)p->flow.peer[i] + p->flow.own[i]; /* mapped addresses add nothing */
	return tcp->check == (__u16)~folded(sum);
}

/* The sum of the addresses and of what else TCP's checksum has beside a segment of `size` bytes (RFC 9293, 3.1). */
static __always_inline __u32 pseudo_sum(struct packet *p, __u32 size)
{
	return bpf_csum_diff(0, 0, p->flow.peer, 32, bpf_htonl(size + IPPROTO_TCP)); /* mapped addresses add nothing */
}

struct summing {
	struct __sk_buff *skb;
	struct work *work;
};

/* What it counts with is in the map: on the stack the verifier would follow each value of it through the loop. */
static long add_chunk(__u32 i, void *context)
{
	struct summing *summing = context;
	struct work *w = summing->work;
	__u32 left = w->left, size = left < CHUNK ? left : CHUNK;

	(void)i;
	if (!size)
		return 1;
	__builtin_memset(w->chunk, 0, sizeof(w->chunk));
	if (bpf_skb_load_bytes(summing->skb, w->place, w->chunk, length_of(size, CHUNK)))
		return 1;
	w->sum = bpf_csum_diff(0, 0, (__be32 *)w->chunk, sizeof(w->chunk), w->sum);
	w->place += size;
	w->left = left - size;
	return 0;
}

/* Whether the sum of `size` bytes at `at` and of `before` is that of a right checksum (RFC 1071). */
static __noinline int adds_up(struct __sk_buff *skb, struct work *w, __u32 at, __u32 size, __u32 before)
{
	struct summing summing = { skb, w };

	w->place = at;
	w->left = size;
	w->sum = before;
	bpf_loop(65536 / CHUNK, add_chunk, &summing, 0);
	return !w->left && !folded(w->sum);
}

/*
 * Whether the kernel believes the checksum without looking: it was verified before (CHECKSUM_UNNECESSARY, and what is
 * merged), or is yet to be made, as in a packet from this node (CHECKSUM_PARTIAL). No field tells which of the four states
 * of ip_summed a packet has (include/linux/skbuff.h), but the helpers act on one of them each: bpf_csum_update() on
 * CHECKSUM_COMPLETE alone, and BPF_CSUM_LEVEL_INC makes CHECKSUM_NONE, which nobody has verified, look verified. That is
 * taken back at once.
 */
static __always_inline int is_believed(struct __sk_buff *skb)
{
	if (skb->gso_size || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return 1;
	if (bpf_csum_update(skb, 0) >= 0)
		return 0;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
		return 1;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	return 0;
}

/*
 * Whether the kernel would take the packet for what it says, by its checksums. It looks later than these programs do. A
 * packet of which this is not true is to be dropped: it may have been cut.
 */
static __noinline int is_sound(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	__u32 size = p->header + p->payload;

	if (!p->is_ipv6 && !adds_up(skb, w, ETH_HLEN, sizeof(struct iphdr), 0))
		return 0;
	return is_believed(skb) || adds_up(skb, w, p->tcp, size, pseudo_sum(p, size));
}

/* Puts another number into the TCP header at `at`. */
static __always_inline void replace(struct __sk_buff *skb, struct packet *p, __u32 at, __u32 from, __u32 to)
{
	__be32 value = bpf_htonl(to);

	bpf_l4_csum_replace(skb, p->tcp + CHECK_AT, bpf_htonl(from), value, sizeof(value));
	bpf_skb_store_bytes(skb, p->tcp + at, &value, sizeof(value), 0);
}

static __always_inline void set_seq(struct __sk_buff *skb, struct packet *p, __u32 seq)
{
	replace(skb, p, SEQ_AT, p->seq, seq);
}

/*
 * A lower sequence number, and the same checksum: the urgent pointer, which has no meaning without URG, takes up the
 * difference. So nothing needs to be known of the state that the checksum is in.
 */
static __always_inline void lower(struct tcphdr *tcp, __u32 seq, __u32 by)
{
	__u32 less = ~(seq - by), sum = bpf_ntohs(tcp->urg_ptr);

	sum += (seq >> 16) + (seq & 0xffff) + (less >> 16) + (less & 0xffff); /* minus, in ones' complement */
	sum = (sum & 0xffff) + (sum >> 16);
	tcp->urg_ptr = bpf_htons((sum & 0xffff) + (sum >> 16));
	tcp->seq = bpf_htonl(seq - by);
}

/* Lowers the sequence number of a packet for this machine. The usual one is changed where it lies, as it is read. */
static __always_inline void lower_seq(struct __sk_buff *skb, struct packet *p, __u32 by)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!IN_PLACE || p->flags & URG)
		set_seq(skb, p, p->seq - by);
	else if (p->tcp == TCP_AT_IPV4 && begin + TCP_AT_IPV4 + sizeof(struct tcphdr) <= end)
		lower(begin + TCP_AT_IPV4, p->seq, by);
	else if (p->tcp == TCP_AT_IPV6 && begin + TCP_AT_IPV6 + sizeof(struct tcphdr) <= end)
		lower(begin + TCP_AT_IPV6, p->seq, by);
	else
		set_seq(skb, p, p->seq - by);
}

/* Raises the acknowledgement where it lies; 0: the checksum would have to follow. */
static __always_inline int raise_in_place(struct tcphdr *tcp, const struct packet *p, __u32 by)
{
	if (!is_partial(tcp, p))
		return 0;
	tcp->ack_seq = bpf_htonl(p->ack + by);
	return 1;
}

/* Raises the acknowledgement of a packet that leaves. The usual one is changed where it lies. */
static __always_inline void raise_number(struct __sk_buff *skb, struct packet *p, __u32 by)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	int is_done = 0;

	if (IN_PLACE && p->tcp == TCP_AT_IPV4 && begin + TCP_AT_IPV4 + sizeof(struct tcphdr) <= end)
		is_done = raise_in_place(begin + TCP_AT_IPV4, p, by);
	else if (IN_PLACE && p->tcp == TCP_AT_IPV6 && begin + TCP_AT_IPV6 + sizeof(struct tcphdr) <= end)
		is_done = raise_in_place(begin + TCP_AT_IPV6, p, by);
	if (is_done)
		return;
	replace(skb, p, ACK_AT, p->ack, p->ack + by);
}

static __always_inline void set_flags(struct __sk_buff *skb, struct packet *p, __u32 flags)
{
	__be16 value = bpf_htons((p->flags & 0xf000) | flags);

	bpf_l4_csum_replace(skb, p->tcp + CHECK_AT, bpf_htons(p->flags), value, sizeof(value));
	bpf_skb_store_bytes(skb, p->tcp + FLAGS_AT, &value, sizeof(value), 0);
}

/* The new length in the IP header, and the packet cut behind the TCP header. */
static __always_inline int cut_payload(struct __sk_buff *skb, struct packet *p)
{
	__be16 before = 0, after;

	if (p->is_ipv6) {
		after = bpf_htons(p->header);
		bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &after, 2, BPF_F_RECOMPUTE_CSUM);
	} else {
		after = bpf_htons(p->tcp - ETH_HLEN + p->header);
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, tot_len), &before, 2);
		bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), before, after, 2);
		bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, tot_len), &after, 2, 0);
	}
	return bpf_skb_change_tail(skb, p->tcp + p->header, 0);
}

/* Leaves a bare segment with this sequence number: nothing of the payload. It is for this machine, never forwarded. */
static __noinline int trim(struct __sk_buff *skb, struct work *w, __u32 seq)
{
	struct packet *p = &w->packet;
	__u32 size = p->header;
	__s64 sum;
	__u16 check;

	if (cut_payload(skb, p))
		return -1;
	__builtin_memset(w->tcp, 0, sizeof(w->tcp));
	if (bpf_skb_load_bytes(skb, p->tcp, w->tcp, length_of(size, sizeof(w->tcp))))
		return -1;
	((struct tcphdr *)w->tcp)->seq = bpf_htonl(seq);
	((struct tcphdr *)w->tcp)->check = 0;
	sum = bpf_csum_diff(0, 0, (__be32 *)w->tcp, sizeof(w->tcp), pseudo_sum(p, size));
	check = folded(sum);
	((struct tcphdr *)w->tcp)->check = check;
	return bpf_skb_store_bytes(skb, p->tcp, w->tcp, sizeof(struct tcphdr), BPF_F_RECOMPUTE_CSUM);
}

#endif
