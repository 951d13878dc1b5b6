/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The programs, and one that every verifier refuses: it reads behind a null pointer. */
#include "../../proxy/bpf/srcip.bpf.c"

SEC("tc")
int unverifiable(struct __sk_buff *skb)
{
	volatile __u32 *null = bpf_map_lookup_elem(&settings_map, &skb->len);

	return *null;
}
