/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The same programs for kernels whose verifier lets nobody without CAP_PERFMON look into a packet: see packet.h. */
#define SRCIP_COPIES
#include "srcip.bpf.c"
