"""The command line of `srcip-proxy outbound`: what it asks for, and every fault at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy.outbound.options import Command, UsageError, explain, parse, wants_help
from srcip_proxy.plan import RESERVED_PORTS, Plan, PortRange

HEADER = ["-H", "a:b"]


def faults(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    return caught.value.faults


def test_the_command_line_of_the_nginx_image_is_understood() -> None:
    """The one of its documentation, word for word."""
    words = "-P 80 -P 8080 -H tranproxy:true -H tranproxy2:true -N 114.114.114.114 -N 8.8.8.8"
    words += " --Set-Forwarded-For default --Set-Client-Hostname default -- tail -f /dev/null"
    plan = Plan(
        (),
        (),
        mode="redirect",
        outbound_ports=(PortRange(80, 80), PortRange(8080, 8080)),
        outbound_headers=(("tranproxy", "true"), ("tranproxy2", "true")),
        outbound_forwarded_for="default",
        outbound_client_hostname="default",
    )
    assert parse(words.split()) == Command(plan, ("tail", "-f", "/dev/null"), ("114.114.114.114", "8.8.8.8"))


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        ([], "80"),
        (["-P", "443", "-P", "80"], "80 443"),
        (["--port", "8000-8010", "-P8005-8020", "--port=80"], "80 8000-8020"),
    ],
)
def test_ports_are_merged_and_80_is_the_default(words: list[str], ports: str) -> None:
    assert " ".join(map(str, parse([*words, *HEADER]).plan.outbound_ports)) == ports


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("Name: value", ("Name", "value")),
        ("name:value", ("name", "value")),
        ("X-Gone:", ("X-Gone", "")),
        ("X-Url:  http://a:80/?b=%[src] $host \"'  ", ("X-Url", "http://a:80/?b=%[src] $host \"'")),
    ],
)
def test_a_header_is_split_at_its_first_colon_and_taken_literally(text: str, pair: tuple[str, str]) -> None:
    assert parse(["-H", text]).plan.outbound_headers == (pair,)
    assert parse(["--header", text]).plan.outbound_headers == (pair,)


def test_a_value_instead_of_default_is_used_as_it_is() -> None:
    plan = parse(["--Set-Forwarded-For", "2001:db8::1", "--Set-Client-Hostname=shop-1"]).plan
    assert (plan.outbound_forwarded_for, plan.outbound_client_hostname) == ("2001:db8::1", "shop-1")


def test_what_follows_the_first_double_dash_is_the_applications() -> None:
    command = parse([*HEADER, "--", "app", "--", "-P", "nonsense", "-h"])
    assert command.application == ("app", "--", "-P", "nonsense", "-h")
    assert not wants_help([*HEADER, "--", "app", "-h"])
    assert wants_help([*HEADER, "-h", "--", "app"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-P", "0", *HEADER], "-P 0: port range 0: allowed is 1 to 65535"),
        (["-P", "90-80", *HEADER], "-P 90-80: port range 90-80: allowed is 1 to 65535, first not above last"),
        (["-P", "http", *HEADER], "-P http: 'http' is not a port or a range of ports (80 or 8000-8010)"),
        (["-P", *HEADER], "-P: no value; expected is a port or a range of ports"),
        (["-P", "20000-24096", *HEADER], "-P: 4097 ports; at most 4096 are allowed"),
        (["-P", "15301", *HEADER], "-P 15301: the sidecar's own ports are not allowed: 15301"),
        (["-H", "novalue"], "-H 'novalue': expected is NAME:VALUE"),
        (["-H", "a: b  c"], "one blank at a time"),
        (["-H", ": value"], "-H ': value': expected is NAME:VALUE"),
        (["-H", "-a: b"], "-H '-a: b': '-a' is not a header's name"),
        (["-H", "a b:c"], "-H 'a b:c': 'a b' is not a header's name"),
        (["-H", "Host: evil"], "-H 'Host: evil': 'Host' can not be set"),
        (["-H", "a: b\nc: d"], "-H 'a: b\\nc: d': 'b\\nc: d' is not a header's value: printable ASCII"),
        (["-H", "a: é"], "-H 'a: é': 'é' is not a header's value: printable ASCII"),
        (["-H", "a: " + "x" * 1025], "at most 1024 characters"),
        (["-H", "X-A: 1", "-H", "x_a: 2"], "-H: 'x_a' is given twice"),
        (["-H"], "-H: expected is NAME:VALUE"),
        (["-N", "dns", *HEADER], "-N 'dns': expected is an IP address, such as 8.8.8.8"),
        (["-N", *HEADER], "-N: expected is an IP address"),
        (["--Set-Forwarded-For", "a\rb"], "--Set-Forwarded-For 'a\\rb': 'a\\rb' is not a header's value"),
        (["--Set-Forwarded-For"], "--Set-Forwarded-For: no value; expected is `default` or a value"),
        (["--Set-Client-Hostname", "--", "app"], "--Set-Client-Hostname: no value; expected is `default` or a value"),
        (["--Set-Client-Hostname", "a", "--Set-Client-Hostname", "b"], "given 2 times; give it once"),
        (["-H", "x-forwarded-for:a", "--Set-Forwarded-For", "b"], "--Set-Forwarded-For: -H sets X-Forwarded-For as"),
        (["--set-forwarded-for", "default"], "--set-forwarded-for: no such option"),
        (["--Set-Forwarded", "default"], "--Set-Forwarded: no such option"),
        ([*HEADER, "app"], "'app' belongs to no option; the application's command comes after --"),
        ([*HEADER, "--"], "--: no command follows; omit -- for a sidecar"),
        ([], "no header to set; expected is -H NAME:VALUE, --Set-Forwarded-For or --Set-Client-Hostname"),
    ],
)
def test_a_fault_names_the_option_its_value_and_what_is_allowed(words: list[str], said: str) -> None:
    assert any(said in fault for fault in faults(*words)), faults(*words)


@pytest.mark.parametrize("port", RESERVED_PORTS)
def test_no_range_may_hold_a_port_of_the_sidecar(port: int) -> None:
    assert str(port) in faults("-P", f"{port - 1}-{port + 1}", *HEADER)[0]


def test_all_faults_come_at_once() -> None:
    said = faults("-P", "0", "-P", "x", "-H", "a", "-N", "b", "--Set-Forwarded-For", "--what", "--")
    assert [fault.split()[0].strip(":'") for fault in said] == [
        "--what",
        "--",
        "-P",
        "-P",
        "-H",
        "--Set-Forwarded-For",
        "-N",
    ]


@given(st.lists(st.sampled_from(["-P", "-H", "-N", "--", "-h", "--Set-Forwarded-For", "-1"]) | st.text(max_size=9)))
def test_any_words_are_a_command_or_faults_and_nothing_else(words: list[str]) -> None:
    try:
        command = parse(words)
    except UsageError as error:
        assert error.faults
    else:
        assert command.plan.outbound_ports
        assert Plan.from_env(command.plan.to_env()) == command.plan


def test_what_is_said_at_the_start_holds_no_value_of_a_header() -> None:
    command = parse(["-P", "80", "-H", "X-Key: secret", "-N", "8.8.8.8", "--Set-Forwarded-For", "default"])
    assert list(explain(command)) == [
        "-N 8.8.8.8: not needed, as connections keep their destination address",
        "requests to port 80 get X-Key, X-Forwarded-For",
    ]
