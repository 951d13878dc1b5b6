/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A bad network for the tests, on the links of the node: of a hundred packets 3 are lost, 3 doubled, 6 come late. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SEEN 0x57
#define DROP 2

SEC("tc")
int weather(struct __sk_buff *skb)
{
	__u32 dice = bpf_get_prandom_u32() % 100;

	if (skb->mark == SEEN) {
		skb->mark = 0;
		return 0;
	}
	if (dice < 3)
		return DROP;
	if (dice < 12) {
		skb->mark = SEEN;
		bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
		skb->mark = 0;
	}
	return dice < 6 || dice >= 12 ? 0 : DROP; /* late: only the copy goes on, behind what is already here */
}

char _license[] SEC("license") = "GPL";
