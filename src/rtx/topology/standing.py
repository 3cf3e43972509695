"""What a server says of itself by ROLE: a primary with its replicas, or a replica with its link."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from rtx.urls import Address
from rtx.wire.replies import Reply

PRIMARY = "master"
REPLICA = "slave"
CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class Standing:
    """The reply to ROLE. Offsets count the bytes of the replication stream.

    A primary has `offset` written, and lists the `replicas` that are in sync with it; a replica has
    `offset` applied, of the stream of `primary`, over a `link` that is `connected` when it is up.
    """

    role: str
    offset: int = -1
    replicas: tuple[Address, ...] = ()
    primary: Address | None = None
    link: str = ""

    @property
    def is_primary(self) -> bool:
        """Whether it says that it takes writes."""
        return self.role == PRIMARY

    def follows(self, primary: Address) -> bool:
        """Whether it is a replica of that server, and its link to it is up."""
        return (
            self.role == REPLICA
            and self.link == CONNECTED
            and self.primary is not None
            and may_be_same(self.primary, primary)
        )

    def lists(self, replica: Address) -> bool:
        """Whether that server is among its replicas."""
        return any(may_be_same(listed, replica) for listed in self.replicas)


def standing_of(reply: Reply) -> Standing:
    """Read the reply to ROLE; whatever is none has a role that is neither."""
    match reply:
        case [b"master", int(offset), [*listed]]:
            return Standing(PRIMARY, offset, tuple(filter(None, map(_replica, listed))))
        case [b"master", *_]:
            return Standing(PRIMARY)
        case [b"slave", bytes(host), int(port), bytes(link), int(offset), *_]:
            primary = Address(host.decode("utf-8", "replace"), port)
            return Standing(REPLICA, offset, (), primary, link.decode("utf-8", "replace"))
        case [bytes(role), *_]:
            return Standing(role.decode("utf-8", "replace"))
    return Standing(str(reply))


def may_be_same(one: Address, other: Address) -> bool:
    """Whether two addresses are one server's; where one is a name only the ports are compared.

    Servers know each other by IP address where clients know them by name.
    """
    if one.port != other.port:
        return False
    return one.host == other.host or not (_is_ip(one.host) and _is_ip(other.host))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _replica(item: Reply) -> Address | None:
    match item:
        case [bytes(host), bytes(port), *_] if port.isdigit():
            return Address(host.decode("utf-8", "replace"), int(port))
    return None
