/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The same programs without direct packet access, for kernels that refuse it without CAP_PERFMON: see packet.h. */
#define SRCIP_COPIES
#include "srcip.bpf.c"
