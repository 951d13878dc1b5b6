/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Stands for a CNI plugin on the same hooks: counts packets and calls of getpeername(), and changes nothing. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &what);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("tc")
int cni_ingress(struct __sk_buff *skb)
{
	(void)skb;
	count(0);
	return TC_ACT_UNSPEC;
}

SEC("cgroup/getpeername4")
int cni_getpeername4(struct bpf_sock_addr *ctx)
{
	(void)ctx;
	count(1);
	return 1;
}

char _license[] SEC("license") = "GPL";
