/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * TCP packets: read, and changed in place.
 *
 * Checksums are updated by the difference, or another field makes up for it. Both are right in every state of ip_summed
 * (CHECKSUM_NONE, UNNECESSARY, COMPLETE, PARTIAL). Only a packet that loses its payload gets a new checksum.
 */
#ifndef SRCIP_PACKET_H
#define SRCIP_PACKET_H

#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include "state.h"

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10
#define URG 0x20
#define FLAG_MASK (FIN | SYN | RST | ACK)

#define SEQ_AT offsetof(struct tcphdr, seq)
#define ACK_AT offsetof(struct tcphdr, ack_seq)
#define FLAGS_AT 12
#define CHECK_AT offsetof(struct tcphdr, check)
#define OPTIONS_AT sizeof(struct tcphdr)
#define OPTIONS_SIZE 40
#define TCP_AT_IPV4 (ETH_HLEN + sizeof(struct iphdr))
#define TCP_AT_IPV6 (ETH_HLEN + sizeof(struct ipv6hdr))
#define MIN_PACKET (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr)) /* as long as with an IPv6 header alone */

/*
 * Direct packet access compares pointers into the packet, which the verifier before Linux 6.6 (6.1.53) refuses without
 * CAP_PERFMON. For these kernels the programs are compiled a second time, and copy the headers by bpf_skb_load_bytes().
 */
#ifdef SRCIP_COPIES
#define DIRECT_ACCESS 0
#else
#define DIRECT_ACCESS 1
#endif

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

/*
 * The same length, which is from 1 to `most`, a power of two, with bounds that the verifier sees. The caller has checked
 * it; the barrier keeps the compiler from using that to leave the mask out.
 */
static __always_inline __u64 bounded_len(__u64 length, __u64 most)
{
	asm volatile("" : "+r"(length));
	return ((length - 1) & (most - 1)) + 1;
}

#define MAX_EXTENSION_HEADERS 8
#define NO_TCP_HEADER 0xffff /* an offset behind every packet */

enum packet_kind {
	OTHER,
	SEGMENT,  /* a TCP segment: all fields of struct packet are set */
	FRAGMENT, /* TCP, or what may be TCP, of which no more than the ports are read; 0 where they cannot be */
};

static __always_inline void set_ipv4(__be32 *to, __be32 address)
{
	to[0] = to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = address;
}

/* Sets the addresses, the offset of the TCP header, and `end`, the length of the packet without padding. */
static __always_inline int read_ipv4(struct __sk_buff *skb, struct packet *p, const struct iphdr *ip, __u32 direction,
				     __u32 *end)
{
	if (ip->protocol != IPPROTO_TCP || ip->ihl < 5 || ip->version != 4)
		return OTHER;
	set_ipv4(p->flow.remote, direction == INGRESS ? ip->saddr : ip->daddr);
	set_ipv4(p->flow.local, direction == INGRESS ? ip->daddr : ip->saddr);
	p->tcp_offset = ETH_HLEN + ip->ihl * 4;
	*end = ip->tot_len ? ETH_HLEN + bpf_ntohs(ip->tot_len) : skb->len; /* 0: more than 64 KiB (BIG TCP) */
	if (*end > skb->len)
		return OTHER; /* the kernel drops it, too */
	if (ip->frag_off & bpf_htons(0x1fff))
		return OTHER; /* its first fragment is dropped, so it is never reassembled */
	return ip->frag_off & bpf_htons(0x2000) || ip->ihl > 5 ? FRAGMENT : SEGMENT; /* the kernel checks options later */
}

static __always_inline bool is_extension(__u32 kind)
{
	return kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING || kind == IPPROTO_FRAGMENT || kind == IPPROTO_DSTOPTS ||
	       kind == IPPROTO_AH || kind == IPPROTO_MH || kind == 139 || kind == 140; /* HIP, Shim6 */
}

/* Bytes of an extension header whose length field is `length` (RFC 8200, RFC 4302). */
static __always_inline __u32 extension_len(__u32 kind, __u32 length)
{
	if (kind == IPPROTO_FRAGMENT)
		return 8;
	return kind == IPPROTO_AH ? (length + 2) * 4 : (length + 1) * 8;
}

/* Each field fills a stack slot: without CAP_PERFMON the verifier allows no write to a part of one. */
struct extension_walk {
	struct __sk_buff *skb;
	__u64 at, kind, is_truncated;
};

static long skip_extension(__u32 index, void *context)
{
	struct extension_walk *walk = context;
	__u8 extension[8];

	(void)index;
	if (!is_extension(walk->kind))
		return 1;
	if (bpf_skb_load_bytes(walk->skb, walk->at, extension, sizeof(extension))) {
		walk->is_truncated = true;
		return 1;
	}
	if (walk->kind == IPPROTO_FRAGMENT && (extension[2] || extension[3] & 0xf8)) {
		walk->kind = IPPROTO_NONE; /* its first fragment is dropped, so it is never reassembled */
		return 1;
	}
	walk->at += extension_len(walk->kind, extension[1]);
	walk->kind = extension[0];
	return 0;
}

/*
 * Walks through IPv6 extension headers. A chain that is longer, or cut, may be TCP. The verifier unrolls a loop of the
 * language, and checks the body of bpf_loop() once.
 */
static __noinline int read_extensions(struct __sk_buff *skb, struct packet *p, __u32 kind)
{
	struct extension_walk walk = { skb, p->tcp_offset, kind, 0 };

	bpf_loop(MAX_EXTENSION_HEADERS, skip_extension, &walk, 0);
	if (walk.is_truncated || is_extension(walk.kind)) {
		p->tcp_offset = NO_TCP_HEADER;
		return FRAGMENT;
	}
	p->tcp_offset = walk.at;
	return walk.kind == IPPROTO_TCP ? FRAGMENT : OTHER;
}

static __always_inline int read_ipv6(struct __sk_buff *skb, struct packet *p, const struct ipv6hdr *ip, __u32 direction,
				     __u32 *end)
{
	__u32 next = ip->nexthdr;

	__builtin_memcpy(p->flow.remote, direction == INGRESS ? &ip->saddr : &ip->daddr, 16);
	__builtin_memcpy(p->flow.local, direction == INGRESS ? &ip->daddr : &ip->saddr, 16);
	p->tcp_offset = ETH_HLEN + sizeof(*ip);
	*end = ip->payload_len ? p->tcp_offset + bpf_ntohs(ip->payload_len) : skb->len;
	if (*end > skb->len || ip->version != 6)
		return OTHER; /* the kernel drops it, too */
	return next == IPPROTO_TCP ? SEGMENT : read_extensions(skb, p, next);
}

/* Of a fragment: the ports, where they are in it. */
static __always_inline int read_ports(struct __sk_buff *skb, struct scratch *s, __u32 direction)
{
	struct tcphdr *tcp = (struct tcphdr *)s->tcp;
	struct packet *p = &s->packet;

	p->flow.remote_port = p->flow.local_port = 0;
	if (bpf_skb_load_bytes(skb, p->tcp_offset, tcp, 4))
		return FRAGMENT;
	p->flow.remote_port = direction == INGRESS ? tcp->source : tcp->dest;
	p->flow.local_port = direction == INGRESS ? tcp->dest : tcp->source;
	return FRAGMENT;
}

static __always_inline int read_tcp(struct packet *p, const struct tcphdr *tcp, __u32 direction, __u32 end)
{
	p->first_option = 0;
	p->flow.remote_port = direction == INGRESS ? tcp->source : tcp->dest;
	p->flow.local_port = direction == INGRESS ? tcp->dest : tcp->source;
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->tcp_header_len = tcp->doff * 4;
	p->flags = bpf_ntohs(((const __be16 *)tcp)[FLAGS_AT / 2]);
	if (p->tcp_header_len < sizeof(*tcp) || p->tcp_offset + p->tcp_header_len > end)
		return -1; /* the kernel drops it, too */
	p->payload = end - p->tcp_offset - p->tcp_header_len;
	return 0;
}

/* Reads the packet by bpf_skb_load_bytes(). */
static __always_inline int read_copies(struct __sk_buff *skb, struct scratch *s, __u32 direction)
{
	struct tcphdr *tcp = (struct tcphdr *)s->tcp;
	struct packet *p = &s->packet;
	__u32 length = 0;
	int found = OTHER;

	p->is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, s->tcp, sizeof(struct iphdr)))
			return OTHER;
		found = read_ipv4(skb, p, (struct iphdr *)s->tcp, direction, &length);
	} else if (p->is_ipv6) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, s->tcp, sizeof(struct ipv6hdr)))
			return OTHER;
		found = read_ipv6(skb, p, (struct ipv6hdr *)s->tcp, direction, &length);
	}
	if (found == FRAGMENT)
		return read_ports(skb, s, direction);
	if (found == OTHER || bpf_skb_load_bytes(skb, p->tcp_offset, tcp, sizeof(*tcp)) ||
	    read_tcp(p, tcp, direction, length))
		return OTHER;
	if (p->tcp_header_len >= OPTIONS_AT + 4)
		bpf_skb_load_bytes(skb, p->tcp_offset + OPTIONS_AT, &p->first_option, sizeof(p->first_option));
	return found;
}

/* Reads most packets by direct access: for packets that are not intercepted, copies would cost more than all the rest. */
static __always_inline int read_packet(struct __sk_buff *skb, struct scratch *s, __u32 direction)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct packet *p = &s->packet;
	__u32 length = 0;
	int found = OTHER;

	if (!DIRECT_ACCESS || begin + MIN_PACKET + 4 > end)
		return read_copies(skb, s, direction);
	p->is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		found = read_ipv4(skb, p, begin + ETH_HLEN, direction, &length);
		if (found == SEGMENT && p->tcp_offset == TCP_AT_IPV4) {
			found = read_tcp(p, begin + TCP_AT_IPV4, direction, length) ? OTHER : SEGMENT;
			p->first_option = *(__be32 *)(begin + TCP_AT_IPV4 + OPTIONS_AT);
			return found;
		}
	} else if (p->is_ipv6) {
		found = read_ipv6(skb, p, begin + ETH_HLEN, direction, &length);
		if (found == SEGMENT && begin + TCP_AT_IPV6 + OPTIONS_AT + 4 <= end) {
			found = read_tcp(p, begin + TCP_AT_IPV6, direction, length) ? OTHER : SEGMENT;
			p->first_option = *(__be32 *)(begin + TCP_AT_IPV6 + OPTIONS_AT);
			return found;
		}
	}
	return found == OTHER ? OTHER : read_copies(skb, s, direction);
}

/* A function for each direction: without CAP_PERFMON the verifier refuses a pointer that is chosen by a condition. */
static __noinline int read_ingress(struct __sk_buff *skb, struct scratch *s)
{
	return read_packet(skb, s, INGRESS);
}

static __noinline int read_egress(struct __sk_buff *skb, struct scratch *s)
{
	return read_packet(skb, s, EGRESS);
}

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * Whether the checksum is CHECKSUM_PARTIAL: it holds the pseudo header alone, and the card is to complete it. One in
 * 65,536 complete checksums looks the same; that packet is lost then. On egress only TIME_WAIT and RST are complete.
 */
static __always_inline bool is_partial(const struct tcphdr *tcp, const struct packet *p)
{
	__u64 sum = bpf_htonl(IPPROTO_TCP + p->tcp_header_len + p->payload);

	for (int i = 0; i < 4; i++)
		sum += (__u64)p->flow.remote[i] + p->flow.local[i]; /* mapped addresses add nothing */
	return tcp->check == (__u16)~csum_fold(sum);
}

/* The sum of the pseudo header of a segment of `size` bytes (RFC 9293, 3.1). */
static __always_inline __u32 pseudo_header_sum(struct packet *p, __u32 size)
{
	return bpf_csum_diff(0, 0, p->flow.remote, 32, bpf_htonl(size + IPPROTO_TCP)); /* mapped addresses add nothing */
}

struct checksum_walk {
	struct __sk_buff *skb;
	struct scratch *scratch;
};

/* The state of the loop lies in a map: on the stack the verifier would follow each of its values through the loop. */
static long sum_chunk(__u32 i, void *context)
{
	struct checksum_walk *walk = context;
	struct scratch *s = walk->scratch;
	__u32 left = s->checksum_left, size = left < CHECKSUM_CHUNK ? left : CHECKSUM_CHUNK;

	(void)i;
	if (!size)
		return 1;
	__builtin_memset(s->checksum_chunk, 0, sizeof(s->checksum_chunk));
	if (bpf_skb_load_bytes(walk->skb, s->checksum_at, s->checksum_chunk, bounded_len(size, CHECKSUM_CHUNK)))
		return 1;
	s->checksum = bpf_csum_diff(0, 0, (__be32 *)s->checksum_chunk, sizeof(s->checksum_chunk), s->checksum);
	s->checksum_at += size;
	s->checksum_left = left - size;
	return 0;
}

/* Whether the checksum over `size` bytes at `at`, and over what `before` is the sum of, is valid (RFC 1071). */
static __noinline bool checksum_is_valid(struct __sk_buff *skb, struct scratch *s, __u32 at, __u32 size, __u32 before)
{
	struct checksum_walk walk = { skb, s };

	s->checksum_at = at;
	s->checksum_left = size;
	s->checksum = before;
	bpf_loop(65536 / CHECKSUM_CHUNK, sum_chunk, &walk, 0);
	return !s->checksum_left && !csum_fold(s->checksum);
}

/*
 * Whether the kernel does not verify the checksum: it was verified before (CHECKSUM_UNNECESSARY, and packets merged by
 * GRO), or is not complete yet, as in a packet from this node (CHECKSUM_PARTIAL). No field tells which of the four states
 * of ip_summed a packet has (include/linux/skbuff.h), but the helpers act on one of them each: bpf_csum_update() on
 * CHECKSUM_COMPLETE alone, and BPF_CSUM_LEVEL_INC makes CHECKSUM_NONE, which nobody has verified, look verified. That is
 * taken back at once.
 */
static __always_inline bool kernel_skips_checksum(struct __sk_buff *skb)
{
	if (skb->gso_size || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return true;
	if (bpf_csum_update(skb, 0) >= 0)
		return false;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
		return true;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	return false;
}

/*
 * Whether the kernel would accept the checksums of IPv4 and TCP; it verifies them after these programs have run. A packet
 * for which this is false must be dropped: it may be truncated, too.
 */
static __noinline bool has_valid_checksums(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	__u32 size = p->tcp_header_len + p->payload;

	if (!p->is_ipv6 && !checksum_is_valid(skb, s, ETH_HLEN, sizeof(struct iphdr), 0))
		return false;
	return kernel_skips_checksum(skb) || checksum_is_valid(skb, s, p->tcp_offset, size, pseudo_header_sum(p, size));
}

/* Replaces a 32-bit field of the TCP header. */
static __always_inline void set_word(struct __sk_buff *skb, struct packet *p, __u32 at, __u32 from, __u32 to)
{
	__be32 value = bpf_htonl(to);

	bpf_l4_csum_replace(skb, p->tcp_offset + CHECK_AT, bpf_htonl(from), value, sizeof(value));
	bpf_skb_store_bytes(skb, p->tcp_offset + at, &value, sizeof(value), 0);
}

static __always_inline void set_seq(struct __sk_buff *skb, struct packet *p, __u32 seq)
{
	set_word(skb, p, SEQ_AT, p->seq, seq);
}

/*
 * Lowers the sequence number and leaves the checksum: the urgent pointer, which has no meaning without URG, makes up for
 * the difference. So it is right in every state of ip_summed.
 */
static __always_inline void lower_in_place(struct tcphdr *tcp, __u32 seq, __u32 by)
{
	__u32 less = ~(seq - by), sum = bpf_ntohs(tcp->urg_ptr);

	sum += (seq >> 16) + (seq & 0xffff) + (less >> 16) + (less & 0xffff); /* minus, in ones' complement */
	sum = (sum & 0xffff) + (sum >> 16);
	tcp->urg_ptr = bpf_htons((sum & 0xffff) + (sum >> 16));
	tcp->seq = bpf_htonl(seq - by);
}

/* Lowers the sequence number of a packet on ingress, of most by direct access. */
static __always_inline void lower_seq(struct __sk_buff *skb, struct packet *p, __u32 by)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!DIRECT_ACCESS || p->flags & URG)
		set_seq(skb, p, p->seq - by);
	else if (p->tcp_offset == TCP_AT_IPV4 && begin + TCP_AT_IPV4 + sizeof(struct tcphdr) <= end)
		lower_in_place(begin + TCP_AT_IPV4, p->seq, by);
	else if (p->tcp_offset == TCP_AT_IPV6 && begin + TCP_AT_IPV6 + sizeof(struct tcphdr) <= end)
		lower_in_place(begin + TCP_AT_IPV6, p->seq, by);
	else
		set_seq(skb, p, p->seq - by);
}

/* Raises the acknowledgement by direct access. False: the checksum would have to be updated. */
static __always_inline bool raise_ack_in_place(struct tcphdr *tcp, const struct packet *p, __u32 by)
{
	if (!is_partial(tcp, p))
		return false;
	tcp->ack_seq = bpf_htonl(p->ack + by);
	return true;
}

/* Raises the acknowledgement of a packet on egress, of most by direct access. */
static __always_inline void raise_ack_seq(struct __sk_buff *skb, struct packet *p, __u32 by)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	bool is_done = false;

	if (DIRECT_ACCESS && p->tcp_offset == TCP_AT_IPV4 && begin + TCP_AT_IPV4 + sizeof(struct tcphdr) <= end)
		is_done = raise_ack_in_place(begin + TCP_AT_IPV4, p, by);
	else if (DIRECT_ACCESS && p->tcp_offset == TCP_AT_IPV6 && begin + TCP_AT_IPV6 + sizeof(struct tcphdr) <= end)
		is_done = raise_ack_in_place(begin + TCP_AT_IPV6, p, by);
	if (is_done)
		return;
	set_word(skb, p, ACK_AT, p->ack, p->ack + by);
}

static __always_inline void set_flags(struct __sk_buff *skb, struct packet *p, __u32 flags)
{
	__be16 value = bpf_htons((p->flags & 0xf000) | flags);

	bpf_l4_csum_replace(skb, p->tcp_offset + CHECK_AT, bpf_htons(p->flags), value, sizeof(value));
	bpf_skb_store_bytes(skb, p->tcp_offset + FLAGS_AT, &value, sizeof(value), 0);
}

/* Cuts the packet behind the TCP header and corrects the length in the IP header. */
static __always_inline int truncate_payload(struct __sk_buff *skb, struct packet *p)
{
	__be16 before = 0, after;

	if (p->is_ipv6) {
		after = bpf_htons(p->tcp_header_len);
		bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &after, 2, BPF_F_RECOMPUTE_CSUM);
	} else {
		after = bpf_htons(p->tcp_offset - ETH_HLEN + p->tcp_header_len);
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, tot_len), &before, 2);
		bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), before, after, 2);
		bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, tot_len), &after, 2, 0);
	}
	return bpf_skb_change_tail(skb, p->tcp_offset + p->tcp_header_len, 0);
}

/* Leaves a bare segment with this sequence number. The checksum is new, so it must have been valid before. */
static __noinline int strip_payload(struct __sk_buff *skb, struct scratch *s, __u32 seq)
{
	struct packet *p = &s->packet;
	__u32 size = p->tcp_header_len;
	__s64 sum;
	__u16 check;

	if (truncate_payload(skb, p))
		return -1;
	__builtin_memset(s->tcp, 0, sizeof(s->tcp));
	if (bpf_skb_load_bytes(skb, p->tcp_offset, s->tcp, bounded_len(size, sizeof(s->tcp))))
		return -1;
	((struct tcphdr *)s->tcp)->seq = bpf_htonl(seq);
	((struct tcphdr *)s->tcp)->check = 0;
	sum = bpf_csum_diff(0, 0, (__be32 *)s->tcp, sizeof(s->tcp), pseudo_header_sum(p, size));
	check = csum_fold(sum);
	((struct tcphdr *)s->tcp)->check = check;
	return bpf_skb_store_bytes(skb, p->tcp_offset, s->tcp, sizeof(struct tcphdr), BPF_F_RECOMPUTE_CSUM);
}

#endif
