"""`srcip-proxy outbound` before it touches the network: its help, its faults, and which users can run it."""

import subprocess
import sys

import pytest

from srcip_proxy.outbound.options import HELP
from srcip_proxy.outbound.run import haproxy_command, lacking

NET_ADMIN, KILL, SETGID, SETUID, SETPCAP = (1 << number for number in (12, 5, 6, 7, 8))
ALL = NET_ADMIN | KILL | SETGID | SETUID | SETPCAP


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_names_every_option(option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "srcip_proxy", "outbound", option], capture_output=True, text=True, check=True
    )
    assert done.stdout == HELP
    options = "-P --port -H --header -N --nameserver --Set-Forwarded-For --Set-Client-Hostname -h --help"
    assert all(word in HELP for word in options.split())


def test_a_wrong_command_line_ends_with_2_and_every_fault_on_standard_error() -> None:
    words = ["outbound", "-P", "0", "-N", "x"]
    done = subprocess.run([sys.executable, "-m", "srcip_proxy", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.partition("outbound: ")[2][:2] for line in done.stderr.splitlines()] == ["-P", "-N"]


@pytest.mark.parametrize(
    ("user", "effective", "with_application"),
    [(0, ALL, True), (0, ALL, False), (0, NET_ADMIN | SETGID | SETUID, False), (7363, 0, False), (1000, ALL, True)],
)
def test_who_may_run_haproxy_as_its_user_is_let_through(user: int, effective: int, with_application: bool) -> None:
    assert list(lacking(user, effective, with_application)) == []


@pytest.mark.parametrize(
    ("user", "effective", "with_application", "said"),
    [
        (7363, ALL, True, "the application would run as user 7363, whose connections are exempt from the headers"),
        (0, NET_ADMIN | SETGID, True, "root lacks the capabilities KILL, SETUID"),
        (0, NET_ADMIN, False, "root lacks the capabilities SETGID, SETUID"),
        (1000, 0, True, "user 1000 may not start it so: start the container as root (securityContext.runAsUser: 0)"),
        (1000, 0, False, "user 1000 may not start it so: start the container as user 7363"),
    ],
)
def test_others_are_told_what_to_do(user: int, effective: int, with_application: bool, said: str) -> None:
    (reason,) = lacking(user, effective, with_application)
    assert said in reason


@pytest.mark.parametrize(("user", "changes"), [(0, True), (7363, False)])
def test_haproxy_changes_its_user_only_where_it_must(user: int, changes: bool) -> None:
    words = haproxy_command(user, ALL)
    assert ("--reuid=7363" in words) is changes
    assert "--no-new-privs" in words
    assert "--bounding-set=-all" not in haproxy_command(user, ALL & ~SETPCAP)
