/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A program of the name that the exporter looks for, whose map `counters` has values of 32 bits. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} counters SEC(".maps");

SEC("cgroup/getpeername4")
int srcip_peer4(struct bpf_sock_addr *ctx)
{
	__u32 first = 0;

	(void)ctx;
	(void)bpf_map_lookup_elem(&counters, &first);
	return 1; /* older kernels take no other answer */
}

char _license[] SEC("license") = "GPL";
