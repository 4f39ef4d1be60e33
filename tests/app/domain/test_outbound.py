"""Where a caller's address may lead: the Internet, and nowhere else (OWASP SSRF prevention; IANA's registries)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import BadRequest
from app.domain.outbound import is_public, networks, target

INSIDE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1",
    "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1",
    "2002:7f00:1::", "2002:a00:1::", "::127.0.0.1", "2001:db8::1",
]  # fmt: skip
OUTSIDE = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"]


@pytest.mark.parametrize("address", INSIDE)
def test_no_name_leads_inside(address: str) -> None:
    with pytest.raises(BadRequest, match="not public"):
        target("https://hook.example/", lookup=lambda *_: [address])
    with pytest.raises(BadRequest, match="not public"):  # one of several is enough
        target("https://hook.example/", lookup=lambda *_: ["1.1.1.1", address])


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_public_address_is_taken(address: str) -> None:
    found = target("https://hook.example:8443/a?b=c", lookup=lambda *_: [address])
    assert (found.host, found.ip, found.port, found.path) == ("hook.example", address, 8443, "/a?b=c")


@pytest.mark.parametrize(
    "url",
    [
        "http://hook.example/", "ftp://hook.example/", "file:///etc/passwd", "https://", "https:///path",
        "hook.example",
        "https://user:word@hook.example/", "https://hook.example/#part", "https://hook.example:22/",
        "https://hook.example:99999/", "https://hook.example\\@inside/", "https://hook.example/ a", "https://h\u00f6k/",
        "https://hook.example/\r\nHost: inside", "https://[::1", f"https://hook.example/{'a' * 2000}",
        "javascript:alert(1)", "//hook.example/",
    ],
)  # fmt: skip
def test_what_is_no_plain_https_address_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        target(url, lookup=lambda *_: ["1.1.1.1"])


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[::ffff:7f00:1]"])
def test_other_ways_to_write_this_machine_lead_nowhere(host: str) -> None:
    """As the resolver of this machine reads them."""
    with pytest.raises(BadRequest):
        target(f"https://{host}/")


def test_a_network_that_the_operator_allowed_may_be_reached_also_plainly() -> None:
    found = target("http://hook.internal:8080/", networks("10.1.0.0/16"), lambda *_: ["10.1.2.3"])
    assert (found.scheme, found.ip, found.port) == ("http", "10.1.2.3", 8080)
    for addresses in (["10.2.0.1"], ["10.1.2.3", "10.2.0.1"], ["1.1.1.1"]):
        with pytest.raises(BadRequest):
            target("http://hook.internal/", networks("10.1.0.0/16"), lambda *_, found=addresses: found)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_no_more_public_than_by_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for wrapped in (0xFFFF << 32 | number, (0x0064FF9B << 96) | number, (0x2002 << 112) | (number << 80)):
        assert not is_public(ipaddress.IPv6Address(wrapped)) or is_public(address)
