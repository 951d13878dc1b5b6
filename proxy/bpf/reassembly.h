/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Reads a header from one segment or from several: its parts are parsed, and stored until it is whole. */
#ifndef SRCIP_REASSEMBLY_H
#define SRCIP_REASSEMBLY_H

#include "verdict.h"

static long append_byte(__u32 i, void *context)
{
	struct {
		struct srcip_parser *to, *from;
	} *both = context;
	__u32 at = both->to->have;

	if (i >= both->from->have)
		return 1;
	both->to->bytes[srcip_masked(&both->to->reading, at, SRCIP_MAX_HEADER)] =
		both->from->bytes[srcip_masked(&both->from->reading, i, SRCIP_MAX_HEADER)];
	both->to->have = at + 1;
	return 0;
}

/* Reads `size` bytes of the payload, from `skip` on. */
static __noinline int read_header(struct __sk_buff *skb, struct scratch *s, struct partial_header *to, __u32 skip,
				  __u32 size)
{
	struct packet *p = &s->packet;

	if (!size || size > SRCIP_MAX_HEADER)
		return -1;
	to->parser.have = size;
	return bpf_skb_load_bytes(skb, p->tcp_offset + p->tcp_header_len + skip, to->parser.bytes,
				  bounded_len(size, SRCIP_MAX_HEADER));
}

static long copy_word(__u32 i, void *context)
{
	struct {
		struct srcip_parser *to, *from;
	} *both = context;
	__u32 at = srcip_masked(&both->from->reading, i * 8, SRCIP_MAX_HEADER) & ~7;

	if (i * 8 >= both->from->have)
		return 1;
	*(__u64 *)&both->to->bytes[at] = *(__u64 *)&both->from->bytes[at];
	return 0;
}

/* Appends `part` to `stored`, and copies the result back to `part`, which is parsed. */
static __noinline void reassemble(struct partial_header *part, struct partial_header *stored)
{
	struct {
		struct srcip_parser *to, *from;
	} more = { &stored->parser, &part->parser }, all = { &part->parser, &stored->parser };

	bpf_loop(SRCIP_MAX_HEADER, append_byte, &more, 0);
	bpf_loop(SRCIP_MAX_HEADER / 8, copy_word, &all, 0);
	part->parser.have = stored->parser.have;
}

/* Reads the first part of a header. */
static __noinline int read_first_part(struct __sk_buff *skb, struct scratch *s)
{
	__u32 payload = s->packet.payload, size = payload;
	struct partial_header *part = get_segment_header();

	if (!part)
		return TC_ACT_SHOT;
	if (size > SRCIP_MAX_HEADER)
		size = SRCIP_MAX_HEADER;
	s->is_truncated = size < payload;
	return read_header(skb, s, part, 0, size) ? TC_ACT_SHOT : PARSE;
}

/* Reads another part: the payload from `skip` on is new. */
static __noinline int read_next_part(struct __sk_buff *skb, struct scratch *s, struct partial_header *stored,
				    __u32 skip)
{
	__u32 have = stored->parser.have, fresh = s->packet.payload - skip, size = fresh;
	struct partial_header *part = get_segment_header();

	if (!part || have > SRCIP_MAX_HEADER)
		return TC_ACT_SHOT;
	if (size > SRCIP_MAX_HEADER - have)
		size = SRCIP_MAX_HEADER - have;
	s->is_truncated = size < fresh;
	if (read_header(skb, s, part, skip, size))
		return TC_ACT_SHOT;
	reassemble(part, stored);
	return PARSE;
}

/* Parses the header as far as it has arrived. */
static __noinline int parse_header(struct scratch *s, struct handshake *handshake, struct partial_header *part)
{
	struct settings *settings = get_settings();
	int verdict;

	if (!settings)
		return TC_ACT_SHOT;
	verdict = srcip_parse(&part->parser, &settings->limits);
	if (verdict == SRCIP_ACCEPT)
		return APPLY_CLAIM;
	if (verdict == SRCIP_REJECT) {
		if (part->parser.reason == SRCIP_NO_HEADER && handshake->policy == OPTIONAL &&
		    !handshake->has_partial_header)
			return ACCEPT_WITHOUT_HEADER;
		return REJECT + counter_for(part->parser.reason);
	}
	if (s->packet.flags & FIN)
		return REJECT + REFUSED_HEADER_CLOSED;
	return s->is_truncated ? REJECT + REFUSED_TOO_LONG : HOLD;
}

/* Stores the first part of a header. 0, or the verdict on the packet. */
static __noinline int store_partial_header(struct scratch *s, struct handshake *handshake, struct partial_header *first)
{
	int failure;

	first->isn = s->handshake_key.isn;
	first->since = bpf_ktime_get_coarse_ns();
	failure = add_partial_header(s, first);
	if (failure == -ENOMEM) /* not for long: the peer retransmits */
		return TC_ACT_SHOT;
	if (failure)
		return REJECT + REFUSED_NO_ROOM;
	handshake->has_partial_header = true;
	return 0;
}

/* Stores the part and delivers it as old data, so that the kernel acknowledges it. */
static __noinline int hold_partial_header(struct __sk_buff *skb, struct scratch *s, struct handshake *handshake,
					  struct partial_header *part)
{
	struct packet *p = &s->packet;
	__u32 have = part->parser.have;
	int failure;

	if (!handshake->has_partial_header) {
		failure = store_partial_header(s, handshake, part);
		if (failure)
			return failure;
	}
	if (socket_state(skb, s, &p->flow) != TCP_NEW_SYN_RECV)
		return TC_ACT_SHOT; /* a SYN cookie: no request socket could acknowledge it */
	set_seq(skb, p, p->seq - have);
	return TC_ACT_UNSPEC;
}

#endif
