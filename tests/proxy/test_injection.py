"""No setting breaks out of the generated configuration: every field of a plan that holds text, and HAProxy itself."""

import json
import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_render import POD, changed

from srcip_lab import image
from srcip_proxy.haproxy import config
from srcip_proxy.netfilter import ruleset
from srcip_proxy.plan import Plan, PlanError, PortRange
from srcip_proxy.plan.headers import TLVS
from srcip_proxy.quoting import quoted
from support.rig import needs_root
from support.web import redirect

NASTY = (
    *("a\nb", "a\r\nX-Admin: yes", "a b", "a'b", 'a"b', "a\\", "%[src]", "%%", "%ci", "${HOME}", "$HOME", "a#b", "a;b"),
    *(
        "a{b}",
        "a]b",
        "a\0b",
        "\u00fc",
        "\u2028",
        "-m",
        "if",
        "a,b",
        "a|b",
        "a`b`",
        "",
        " ",
        ".*",
        "a:b",
        "global",
        "(a)",
        "a\t",
    ),
)
FIELDS = {
    "forwarded_for_header": lambda text: text,
    "http_headers": lambda text: [text],
    "tlv_headers": lambda text: [["alpn", text]],
    "remove_headers": lambda text: [text],
    "trusted_cidrs": lambda text: [text],
    "http_ports": lambda text: [text],
    "forwarded_for": lambda text: text,
    "http_other": lambda text: text,
    "emit_proxy_protocol": lambda text: text,
    "client_from": lambda text: text,
    "mode": lambda text: text,
    "deliver_to": lambda text: text,
    "proxy_protocol": lambda text: text,
}
"""Every field whose text comes near HAProxy's configuration, and how it stands in the plan's JSON."""
HARMLESS = {("forwarded_for_header", "if"), ("tlv_headers", "if"), ("forwarded_for_header", "global"),
            ("tlv_headers", "global"), ("remove_headers", "if"), ("remove_headers", "global")}  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("field", FIELDS)
def test_a_nasty_text_is_refused_by_the_plan(field: str, text: str) -> None:
    """Before anything is rendered; what is not refused is a name and nothing else."""
    raw = {**json.loads(redirect().to_env()), field: FIELDS[field](text)}
    if (field, text) in HARMLESS:
        found = f"|{text}|" if field == "remove_headers" else f"add-header {text} %["
        assert found in config.render(Plan.from_env(json.dumps(raw)), POD)
        return
    with pytest.raises(PlanError):
        Plan.from_env(json.dumps(raw))


names = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)


@given(names, names, st.sampled_from(TLVS))
def test_a_name_stands_in_its_own_lines_only(name: str, other: str, tlv: str) -> None:
    """The configuration of any names differs from that of harmless ones in these names alone."""
    base = {"mode": "redirect", "http_ports": (PortRange(8000, 8010),)}
    try:
        wanted = changed(**base, forwarded_for_header=name, tlv_headers=((tlv, other),))
    except PlanError:
        return
    plain = changed(**base, forwarded_for_header="X-One", tlv_headers=((tlv, "X-Two"),))
    lines, expected = (config.render(p, POD).splitlines() for p in (wanted, plain))
    assert len(lines) == len(expected)
    for line, other_line in zip(lines, expected, strict=True):
        assert line == other_line or len(line.split()) == len(other_line.split())
    assert ruleset.render(wanted, POD) == ruleset.render(plain, POD)


SCRIPT = """set -e
mount --rbind /dev {root}/dev
mount -t tmpfs tmpfs {root}/run
cat > {root}/run/haproxy.cfg
chroot {root} haproxy {options} -f /run/haproxy.cfg
{then}
"""


def haproxy_says(configuration: str, options: str, then: str = "") -> str:
    """The output of HAProxy of the image with this configuration, and of what follows."""
    script = SCRIPT.format(root=image.proxy_rootfs(), options=options, then=then)
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    done = subprocess.run(command, input=configuration, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.dataplane
@pytest.mark.parametrize("name", ["if", "global", "X-Forwarded_For-2", "0", "unless", "a"])
def test_haproxy_takes_any_name_without_a_word(name: str) -> None:
    needs_root()
    wanted = redirect(forwarded_for_header=name, tlv_headers=(("ssl-cn", f"{name}-x"),), forwarded_for="append")
    text = config.render(wanted, POD).replace(str(config.LUA), "/usr/lib/python3/dist-packages/srcip_proxy/haproxy/lua")
    assert haproxy_says(text, "-c -q") == ""


@pytest.mark.dataplane
def test_haproxy_reads_a_quoted_text_as_it_is() -> None:
    """Nothing expands in it, whatever it holds: it comes out in a header byte for byte."""
    needs_root()
    chance = random.Random(5)  # noqa: S311
    texts = ["".join(chance.choices("%[]{}()'\"\\$#abc ,;:src", k=20)).strip().replace("  ", "-") for _ in range(80)]
    texts += [text for text in NASTY if text.isprintable() and text.isascii() and text.strip()]
    answers = []
    for start in range(0, len(texts), 20):
        some = texts[start : start + 20]
        headers = "".join(f" hdr X-{number} {quoted(text)}" for number, text in enumerate(some))
        answer = f"frontend f\n  bind 127.0.0.1:80\n  http-request return status 204{headers}\n"
        text = f"global\n  zero-warning\ndefaults\n  mode http\n  timeout client 5s\n{answer}"
        out = haproxy_says(text, "-D", "ip link set lo up; curl -sS -D- --max-time 5 http://127.0.0.1/")
        answers += [line.partition(": ")[2] for line in out.splitlines() if line.startswith("x-")]
    assert answers == texts
