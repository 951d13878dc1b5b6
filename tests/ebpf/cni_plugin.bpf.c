/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Somebody else on the same hooks, as a CNI plugin is: counts what it sees, and changes nothing. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline void note(__u32 what)
{
	__u64 *value = bpf_map_lookup_elem(&seen, &what);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("tc")
int beside_packets(struct __sk_buff *skb)
{
	(void)skb;
	note(0);
	return -1; /* TC_ACT_UNSPEC */
}

SEC("cgroup/getpeername4")
int beside_peer4(struct bpf_sock_addr *ctx)
{
	(void)ctx;
	note(1);
	return 1;
}

char _license[] SEC("license") = "GPL";
