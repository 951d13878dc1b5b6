"""Why the data plane cannot be set up here, in plain words: for the init container, in full only after a failure."""

from __future__ import annotations

import subprocess

from srcip_proxy.plan import Plan

_CHAIN = "table inet srcip_preflight {{\nchain c {{\ntype {hook};\n{rule}\n}}\n}}\n"

_MANGLE = "filter hook prerouting priority mangle"
_SHARED = (
    ("nf_tables", _MANGLE, ""),
    ("nft_socket", "filter hook output priority raw", "socket transparent 1"),
    ("nft_reject_inet in prerouting (Linux 5.9)", _MANGLE, "tcp dport 1 reject with tcp reset"),
    ("nft_redir and nf_nat", "nat hook prerouting priority dstnat", "tcp dport 1 redirect to :2"),
)
_NEEDS = {
    "tproxy": (
        *_SHARED,
        ("nft_tproxy and nf_tproxy_ipv4", _MANGLE, "tcp dport 1 tproxy ip to :1"),
        ("nft_ct and nf_conntrack", "route hook output priority mangle", "ct state new"),
        ("nft_fib_inet", "filter hook output priority raw", "fib saddr type != local"),
    ),
    "redirect": (*_SHARED, ("nft_ct", "filter hook output priority raw", "notrack")),
    "outbound": (
        _SHARED[0],
        _SHARED[2],
        ("nft_fib_inet", "nat hook output priority -100", "fib daddr type local"),
        ("nft_redir and nf_nat", "nat hook output priority -100", "meta nfproto ipv4 tcp dport 1 redirect to :2"),
    ),
}
"""What the rules of each part of the data plane need of the kernel: (module, chain hook, a rule that uses it)."""
_IPV6_NEED = {
    "tproxy": ("nf_tproxy_ipv6", _MANGLE, "tcp dport 1 tproxy ip6 to :1"),
    "redirect": ("nf_nat for IPv6", "nat hook prerouting priority dstnat", "tcp dport 1 dnat ip6 to [fd00::1]:1"),
    "outbound": (
        "nf_nat for IPv6",
        "nat hook postrouting priority srcnat",
        "ip6 daddr fd00::1 tcp dport 1 snat ip6 to ct original ip6 daddr",
    ),
}
PRIVILEGED = ("setpriv", "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin", "--")
"""Runs a tool with CAP_NET_ADMIN. This process is not root and holds it by file capability only, which a child that is
executed does not inherit; an ambient capability it does (capabilities(7)). Besides, `ip` gives up any other."""


def parts(plan: Plan) -> tuple[str, ...]:
    """Which parts of the data plane this plan has."""
    return (*((plan.mode,) if plan.inbound_ports else ()), *(("outbound",) if plan.outbound_ports else ()))


def explain(error: subprocess.CalledProcessError, *having: str) -> list[str]:
    """The reasons behind a failed command: kernel modules that are missing, or else what the command said."""
    command = " ".join(error.cmd[len(PRIVILEGED) :])
    said = f"{command}: {error.stderr.strip() or f'exit code {error.returncode}'}"
    needs = dict.fromkeys(need for part in having for need in _NEEDS[part])
    missing = dict.fromkeys(module for module, hook, rule in needs if not _loads(hook, rule))
    reasons = [f"the node's kernel lacks {m}: load it on the node (modprobe) or choose another node" for m in missing]
    return [*reasons, said]


def only_ipv6_is_missing(*having: str) -> bool:
    """Whether interception works for IPv4 and fails for IPv6 only."""
    works6 = all(_loads(hook, rule) for _, hook, rule in (_IPV6_NEED[part] for part in having))
    return not works6 and all(_loads(hook, rule) for part in having for _, hook, rule in _NEEDS[part])


def _loads(hook: str, rule: str) -> bool:
    text = _CHAIN.format(hook=hook, rule=rule)
    command = [*PRIVILEGED, "nft", "-c", "-f", "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True, check=False).returncode == 0
