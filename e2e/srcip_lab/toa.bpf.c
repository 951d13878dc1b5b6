/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The lab's balancer: every segment after the SYN, in connections of its cgroup, has one more TCP option (Linux 5.10). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct option {
	__u32 size;
	__u8 bytes[20];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct option);
} option_map SEC(".maps");

SEC("sockops")
int lab_toa(struct bpf_sock_ops *ops)
{
	__u32 zero = 0;
	struct option *option = bpf_map_lookup_elem(&option_map, &zero);

	if (!option)
		return 1;
	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) /* before the last ACK of the handshake */
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	else if (ops->op == BPF_SOCK_OPS_HDR_OPT_LEN_CB)
		bpf_reserve_hdr_opt(ops, option->size, 0);
	else if (ops->op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB) /* the option itself says how much of this it is */
		bpf_store_hdr_opt(ops, option->bytes, sizeof(option->bytes), 0);
	return 1;
}

char _license[] SEC("license") = "GPL";
