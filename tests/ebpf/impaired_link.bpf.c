/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* An impaired link: 3 % of packets are lost, 3 % duplicated, 6 % reordered. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define CLONE_MARK 0x57

SEC("tc")
int impaired_link(struct __sk_buff *skb)
{
	__u32 dice = bpf_get_prandom_u32() % 100;

	if (skb->mark == CLONE_MARK) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	if (dice < 3)
		return TC_ACT_SHOT;
	if (dice < 12) {
		skb->mark = CLONE_MARK;
		bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
		skb->mark = 0;
	}
	return dice < 6 || dice >= 12 ? TC_ACT_OK : TC_ACT_SHOT; /* reordered: only the clone goes on */
}

char _license[] SEC("license") = "GPL";
