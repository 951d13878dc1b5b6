/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Runs the parser inside the kernel on bytes that user space wrote into the map. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../../proxy/bpf/header.h"

struct question {
	struct srcip_limits limits;
	__u32 usable; /* the answer of srcip_usable */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct srcip_parser);
} parsers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

SEC("tc")
int parse(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct srcip_parser *parser = bpf_map_lookup_elem(&parsers, &zero);
	struct question *question = bpf_map_lookup_elem(&questions, &zero);
	int verdict;

	(void)skb;
	if (!parser || !question)
		return -1;
	verdict = srcip_parse(parser, &question->limits);
	if (verdict == SRCIP_ACCEPT)
		question->usable = srcip_usable(&parser->claim);
	return verdict;
}

char _license[] SEC("license") = "GPL";
