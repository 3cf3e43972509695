"""Whose address a request has, and that nobody can choose it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtx.errors import SettingsError
from rtx.web import by_address, client_address, counted_address

PROXIES = ("10.0.0.0/8", "fd00::/8", "192.0.2.7")


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode()) for line in forwarded)]
    return {"client": (peer, 4711) if peer is not None else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # the peer is no proxy: whatever it writes is its own invention
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        # one proxy: the address that it saw, not those to the left of it
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["junk, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        # several proxies
        ("10.0.0.1", ["198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6,198.51.100.1 , 192.0.2.7,10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        # a client inside that claims to be a proxy's client: it is told by its proxy
        ("10.0.0.1", ["6.6.6.6, 10.3.3.3, 198.51.100.1"], "198.51.100.1"),
        # IPv6, with brackets, ports and zones
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("fd00::1", ["[2001:db8::5]:443"], "2001:db8::5"),
        ("fd00::1", ["[2001:db8::5]"], "2001:db8::5"),
        ("fd00::1", ["fe80::1%eth0"], "fe80::1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1:5050"], "198.51.100.1"),
        # what is no address: the peer is all that is known
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, 999.1.1.1"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.1:99999999"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1\t;x"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, 010.0.0.1"], "10.0.0.1"),
        # no peer, or none with an address
        (None, ["198.51.100.1"], "unknown"),
        ("", ["198.51.100.1"], "unknown"),
        ("testclient", ["198.51.100.1"], "testclient"),
    ],
)
def test_the_client_is_who_the_outermost_trusted_proxy_saw(
    peer: str | None, forwarded: list[str], client: str
) -> None:
    assert client_address(scope(peer, *forwarded), PROXIES) == client


@pytest.mark.parametrize("peer", [None, ""])
def test_a_proxy_on_a_unix_socket_is_trusted_by_name(peer: str | None) -> None:
    found = scope(peer, "6.6.6.6, 198.51.100.1")
    assert client_address(found, ["unix", "10.0.0.0/8"]) == "198.51.100.1"
    assert client_address(found, ["10.0.0.0/8"]) == "unknown"


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
outside = addresses.filter(
    lambda text: client_address(scope(text, "6.6.6.6"), PROXIES) != "6.6.6.6"
)
inside = st.sampled_from(["10.0.0.1", "10.255.0.3", "192.0.2.7", "fd00::9", "::ffff:10.0.0.2"])
# A header's bytes: printable, as servers take no others.
junk = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(
    peer=inside,
    written=st.lists(junk, max_size=3),
    client=outside,
    behind=st.lists(inside, max_size=4),
)
def test_nothing_that_a_client_writes_changes_its_address(
    peer: str, written: list[str], client: str, behind: list[str]
) -> None:
    appended = ", ".join([client, *behind])
    with_header = scope(peer, *written, appended)
    joined = scope(peer, ", ".join([*written, appended]))
    expected = client_address(scope(client))
    assert client_address(with_header, PROXIES) == expected
    assert client_address(joined, PROXIES) == expected


@given(peer=outside, written=st.lists(junk, max_size=3))
def test_who_is_no_proxy_is_itself(peer: str, written: list[str]) -> None:
    assert client_address(scope(peer, *written), PROXIES) == client_address(scope(peer))


@given(written=st.binary(max_size=80), peer=inside)
def test_any_bytes_give_an_address(written: bytes, peer: str) -> None:
    found = client_address(
        {"client": (peer, 1), "headers": [(b"x-forwarded-for", written)]}, PROXIES
    )
    ipaddress.ip_address(found)


def test_a_proxy_must_be_an_address_or_a_network() -> None:
    with pytest.raises(SettingsError, match=r"'proxy\.local' is no address"):
        by_address(["proxy.local"])


def test_a_key_counts_an_ipv6_network_as_one() -> None:
    key = by_address(["10.0.0.0/8"])
    assert key(scope("10.0.0.1", "2001:db8:1:2:3::4")) == "2001:db8:1:2::"
    assert key(scope("10.0.0.1", "2001:db8:1:2:ffff::5")) == "2001:db8:1:2::"
    assert key(scope("203.0.113.9", "6.6.6.6")) == "203.0.113.9"
    assert counted_address("testclient") == "testclient"
