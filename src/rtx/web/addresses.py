"""Who sends a request, when proxies stand in between.

`X-Forwarded-For` is a list that each proxy appends its own peer to, so only its right end can be
trusted, and only as far as the proxies are ours. Whatever a client writes there itself stands to
the left of the address that our proxy saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias, cast

from rtx.errors import SettingsError

Network: TypeAlias = IPv4Network | IPv6Network
Trusted: TypeAlias = "Iterable[str | Network]"
"""Addresses and networks of proxies, such as `10.0.0.0/8`; `unix` for peers on a Unix socket."""

UNKNOWN = "unknown"
"""Whom a request is counted for whose peer has no address: all of them together."""

_UNIX = "unix"
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|([^:]*):\d{1,5}", re.ASCII)


def client_address(scope: Mapping[str, object], trusted: Trusted = ()) -> str:
    """The address of the client of an ASGI connection.

    It is the peer, unless that is a `trusted` proxy; then the rightmost address of
    `X-Forwarded-For` that is not one. If all are, it is the leftmost. If one of them is no address,
    the peer is all that is known. Ports and zones are left out, and an IPv4 address in an IPv6 one
    is an IPv4 address. Raises `SettingsError` for a `trusted` that is no network.
    """
    client = cast("tuple[str, int] | None", scope.get("client"))
    peer = _address(client[0]) if client else None
    shown = str(peer) if peer is not None else (client[0] if client else "") or UNKNOWN
    named = tuple(trusted)
    if not named or not _is_trusted(peer, named):
        return shown
    found = peer
    for entry in reversed(_forwarded(scope)):
        found = _address(entry)
        if found is None:
            return shown
        if not _is_trusted(found, named):
            break
    return str(found) if found is not None else shown


def counted_address(host: str) -> str:
    """Whom to count: the address itself; of IPv6 its network of 64 bits, which one client has."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False).network_address)
    return host if address is None else str(address)


def by_address(trusted: Trusted = ()) -> Callable[[Mapping[str, object]], str]:
    """A key for limits: `client_address`, as `counted_address` counts it."""
    proxies = tuple(map(network, trusted))

    def key(scope: Mapping[str, object]) -> str:
        return counted_address(client_address(scope, proxies))

    return key


@lru_cache(maxsize=1024)
def network(named: str | Network) -> str | Network:
    """A network by its name, and `unix` as it is. Raises `SettingsError`."""
    if named == _UNIX or not isinstance(named, str):
        return named
    try:
        return ip_network(named, strict=False)
    except ValueError:
        raise SettingsError(
            f"{named!r} is no address and no network of a proxy; write 10.0.0.7, 10.0.0.0/8 or "
            "fd00::/8"
        ) from None


def _is_trusted(
    address: IPv4Address | IPv6Address | None, named: tuple[str | Network, ...]
) -> bool:
    if address is None:
        return _UNIX in named
    return any(not isinstance(found, str) and address in found for found in map(network, named))


def _forwarded(scope: Mapping[str, object]) -> list[str]:
    headers = cast("Iterable[tuple[bytes, bytes]]", scope.get("headers", ()))
    lines = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return [entry.strip() for entry in ",".join(lines).split(",")] if lines else []


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in an entry, with or without a port; None when it is none."""
    with_port = _WITH_PORT.fullmatch(text)
    if with_port:
        text = with_port[1] if with_port[1] is not None else with_port[2]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
