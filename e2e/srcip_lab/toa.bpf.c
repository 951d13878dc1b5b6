/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A balancer: the connections of its cgroup carry a TCP option, which their kernel writes (Linux 5.10). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum { ON_ACK = 1, ON_DATA = 2 };

struct wanted {
	__u32 places; /* ON_ACK, ON_DATA or both; 0: no option */
	__u32 size;   /* bytes of the option, at most 20 */
	__u8 option[20];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct wanted);
} option_map SEC(".maps");

SEC("sockops")
int toa_sender(struct bpf_sock_ops *ops)
{
	__u32 zero = 0;
	struct wanted *wanted = bpf_map_lookup_elem(&option_map, &zero);

	if (!wanted)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB: /* the SYN-ACK is here, its ACK not sent yet */
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB: /* for the size of segments it is asked without a packet */
		if (wanted->places & (ops->skb_len || ops->args[0] == BPF_WRITE_HDR_TCP_CURRENT_MSS ? ON_DATA : ON_ACK))
			bpf_reserve_hdr_opt(ops, wanted->size, 0);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		bpf_store_hdr_opt(ops, wanted->option, sizeof(wanted->option), 0);
		break;
	}
	return 1;
}

char _license[] SEC("license") = "GPL";
