"""Several servers seen together: families, the sentinels of a service, a cluster, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

from rtx import urls
from rtx.monitoring.doctor.checks import Checks
from rtx.monitoring.doctor.server import Server, is_loopback, names_of
from rtx.settings import Settings
from rtx.topology import Role
from rtx.urls import Address


@dataclass(frozen=True, slots=True)
class Family:
    """A primary and its replicas, all of which answered."""

    primary: Server
    replicas: tuple[Server, ...]

    @property
    def name(self) -> str:
        return self.primary.name

    def has(self, source: str) -> bool:
        return source not in self.unseen

    @property
    def role_names(self) -> tuple[str, ...]:
        return self.primary.role_names

    @property
    def unseen(self) -> Mapping[str, str]:
        """What any of them did not show."""
        found: dict[str, str] = {}
        for server in (*self.replicas, self.primary):
            found.update(server.unseen)
        return found


@dataclass(frozen=True, slots=True)
class Sentinel:
    """One sentinel and what it says of the service; `error` says why it says nothing.

    `primary` are its fields of SENTINEL MASTER, `replicas` and `others` those of SENTINEL REPLICAS
    and SENTINELS; `quorum` is the error of SENTINEL CKQUORUM, empty when there is none.
    """

    address: Address
    error: str = ""
    denied: bool = False
    id: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    primary: Mapping[str, str] = field(default_factory=dict)
    replicas: tuple[Mapping[str, str], ...] = ()
    others: tuple[Mapping[str, str], ...] = ()
    quorum: str = ""
    unseen: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A whole number of SENTINEL MASTER; 0 when it is not there."""
        text = self.primary.get(name, "")
        return int(text) if text.isdecimal() else 0

    @property
    def named(self) -> Address | None:
        """The primary that it names."""
        return address_of(self.primary)


@dataclass(frozen=True, slots=True)
class Service:
    """The sentinels of a service, and the servers that any of them names."""

    location: urls.Sentinel
    roles: frozenset[Role]
    sentinels: tuple[Sentinel, ...]
    servers: tuple[Server, ...]

    @property
    def name(self) -> str:
        return str(self.location)

    def has(self, source: str) -> bool:
        return source not in self.unseen

    @property
    def role_names(self) -> tuple[str, ...]:
        return names_of(self.roles)

    @property
    def unseen(self) -> Mapping[str, str]:
        """What no sentinel that answered has shown."""
        awake = self.awake
        common = set(awake[0].unseen) if awake else set()
        for sentinel in awake:
            common &= set(sentinel.unseen)
        return {name: awake[0].unseen[name] for name in sorted(common)}

    @property
    def awake(self) -> list[Sentinel]:
        """The sentinels that answered."""
        return [sentinel for sentinel in self.sentinels if not sentinel.error]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a cluster, each with its own view of it."""

    location: urls.Cluster
    servers: tuple[Server, ...]

    @property
    def name(self) -> str:
        return str(self.location)

    def has(self, source: str) -> bool:
        return source not in self.unseen

    @property
    def role_names(self) -> tuple[str, ...]:
        return names_of(frozenset(role for server in self.servers for role in server.roles))

    @property
    def unseen(self) -> Mapping[str, str]:
        """What no node that answered has shown."""
        awake = self.awake
        common = set(awake[0].unseen) if awake else set()
        for server in awake:
            common &= set(server.unseen)
        return {name: awake[0].unseen[name] for name in sorted(common)}

    @property
    def awake(self) -> list[Server]:
        """The nodes that answered."""
        return [server for server in self.servers if not server.error]


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings, and the servers that they lead to."""

    settings: Settings
    servers: tuple[Server, ...]

    @property
    def name(self) -> str:
        return "the settings"

    def has(self, source: str) -> bool:
        return source not in self.unseen

    @property
    def role_names(self) -> tuple[str, ...]:
        return ()

    @property
    def unseen(self) -> Mapping[str, str]:
        """Nothing: each check looks at the servers that it can see."""
        return {}


family: Checks[Family] = Checks()
"""Registers a check of a primary and its replicas."""

service: Checks[Service] = Checks()
"""Registers a check of the sentinels of a service."""

nodes: Checks[Nodes] = Checks()
"""Registers a check of a cluster."""

setup: Checks[Setup] = Checks()
"""Registers a check of the settings."""


def address_of(fields: Mapping[str, str]) -> Address | None:
    """The address in an entry of a sentinel."""
    host, port = fields.get("ip", ""), fields.get("port", "")
    return Address(host, int(port)) if host and port.isdecimal() and port != "0" else None


def families_of(servers: tuple[Server, ...]) -> list[Family]:
    """The primaries of one service or cluster that answered, each with its replicas.

    In a cluster the nodes tell whose replicas they are; sentinels have one primary for all.
    """
    awake = [server for server in servers if not server.error]
    return [
        Family(primary, tuple(one for one in awake if _follows(one, primary)))
        for primary in awake
        if primary.is_primary
    ]


def _follows(replica: Server, primary: Server) -> bool:
    if replica.part != "replica":
        return False
    own, other = (
        next((node for node in server.nodes if "myself" in node.flags), None)
        for server in (replica, primary)
    )
    return own is None or other is None or own.primary == other.id


def crowded(addresses: list[Address]) -> str:
    """A host that several of these addresses share, which is not this machine's loopback."""
    for one, other in combinations(addresses, 2):
        if one.host == other.host and not is_loopback(one.host):
            return one.host
    return ""
