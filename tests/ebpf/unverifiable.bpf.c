/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The programs beside one that no verifier takes. */
#include "../../proxy/bpf/srcip.bpf.c"

SEC("tc")
int refused(struct __sk_buff *skb)
{
	volatile __u32 *nowhere = bpf_map_lookup_elem(&settings_map, &skb->len);

	return *nowhere;
}
