"""What a server says of itself: the facts that the checks judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rtx import urls
from rtx.monitoring.doctor.checks import Checks
from rtx.monitoring.doctor.host import Host
from rtx.monitoring.doctor.sample import Sample
from rtx.topology import Role
from rtx.urls import Address


@dataclass(frozen=True, slots=True)
class Slow:
    """An entry of the slow log or of LATENCY LATEST: `what` took `ms`, `ago` seconds before."""

    what: str
    ms: float
    ago: float


@dataclass(frozen=True, slots=True)
class Node:
    """A line of CLUSTER NODES: a node as another one sees it."""

    id: str
    address: Address
    flags: frozenset[str]
    primary: str
    slots: int
    moving: int
    """Slots whose migration is open, as the node itself tells."""

    @property
    def here(self) -> bool:
        """Whether it has an address, and has been met."""
        return bool(self.address.host) and not self.flags & {"noaddr", "handshake"}

    @property
    def failing(self) -> bool:
        """Whether it is suspected or known to be down."""
        return bool(self.flags & {"fail", "fail?"})


@dataclass(frozen=True, slots=True)
class Server:
    """One server and the roles it plays, as it was when it was looked at.

    `info`, `config`, `cluster` (CLUSTER INFO) and `users` (rules by user, without secrets) are the
    server's own names and texts; what could not be read is empty and in `unseen`, with the reason.
    `error` says why nothing could be read, `denied` whether that is because the login was refused.
    `passwords` has a number for those of each user, and `calls` how often each command was called.
    `skew` is by how many seconds its clock is off ours at the least, positive when it is ahead.
    `certificate_left` is how many seconds its certificate is still valid, where one was verified.
    """

    url: str
    location: urls.Location
    roles: frozenset[Role]
    address: Address | None = None
    error: str = ""
    denied: bool = False
    alone: bool = True
    """Whether the URL names this server, rather than sentinels or a cluster."""
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passwords: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    slow: tuple[Slow, ...] = ()
    events: tuple[Slow, ...] = ()
    clock: float = 0.0
    skew: float = 0.0
    certificate_left: float | None = None
    sample: Sample = field(default_factory=Sample)
    host: Host = field(default_factory=Host)
    cluster: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.url

    def has(self, source: str) -> bool:
        return not self.error and source not in self.unseen

    @property
    def role_names(self) -> tuple[str, ...]:
        """Names of the roles, in their usual order."""
        return names_of(self.roles)

    @property
    def has_state(self) -> bool:
        """Whether it has what no other place has: logs of executions, or limits."""
        return bool(self.roles & {Role.PUBSUB, Role.LIMITS})

    @property
    def has_cache(self) -> bool:
        return Role.CACHE in self.roles

    @property
    def part(self) -> str:
        """`primary`, `replica`, or empty when it did not say."""
        return {"master": "primary", "slave": "replica"}.get(self.info.get("role", ""), "")

    @property
    def is_primary(self) -> bool:
        return self.part == "primary"

    @property
    def in_cluster(self) -> bool:
        return isinstance(self.location, urls.Cluster)

    @property
    def is_valkey(self) -> bool:
        return "valkey_version" in self.info

    @property
    def version(self) -> str:
        """The product and its version, such as `Valkey 9.1.2`."""
        if self.is_valkey:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info['redis_version']}" if "redis_version" in self.info else ""

    def number(self, name: str) -> int:
        """A whole number of INFO; 0 when it is not there."""
        text = self.info.get(name, "0")
        return int(text) if text.removeprefix("-").isdecimal() else 0

    def rate(self, name: str) -> float:
        """A number of INFO that may have a fraction; 0 when it is not there."""
        try:
            return float(self.info.get(name, "0"))
        except ValueError:
            return 0.0

    def size(self, name: str, default: int = 0) -> int:
        """A whole number of CONFIG GET."""
        text = self.config.get(name, "")
        return int(text) if text.removeprefix("-").isdecimal() else default

    def output_limit(self, kind: str) -> tuple[int, int, int] | None:
        """The hard and the soft limit in bytes, and the seconds, of a class of clients."""
        words = self.config.get("client-output-buffer-limit", "").split()
        if kind == "replica" and kind not in words:
            kind = "slave"
        if kind not in words:
            return None
        place = words.index(kind)
        hard, soft, seconds = (int(word) for word in words[place + 1 : place + 4])
        return hard, soft, seconds

    def replica_lines(self) -> list[Mapping[str, str]]:
        """The replicas as INFO of a primary lists them: ip, port, state, offset, lag."""
        lines = (self.info.get(f"slave{n}", "") for n in range(self.number("connected_slaves")))
        return [
            dict(item.partition("=")[::2] for item in line.split(",")) for line in lines if line
        ]

    @property
    def open_to_all(self) -> bool:
        """Whether the default user needs no password."""
        rules = self.users.get("default")
        if rules is not None:
            return "on" in rules and "nopass" in rules
        return not self.config.get("requirepass", "")

    @property
    def loopback_only(self) -> bool:
        """Whether only programs on its own machine can connect."""
        if self.config.get("port") == "0" and self.config.get("tls-port", "0") == "0":
            return True
        bound = [word.removeprefix("-") for word in self.config.get("bind", "").split()]
        return bool(bound) and all(is_loopback(word) for word in bound)


check: Checks[Server] = Checks()
"""Registers a check of one server."""


def names_of(roles: frozenset[Role]) -> tuple[str, ...]:
    """Names of roles, in their usual order."""
    return tuple(role.value for role in Role if role in roles)


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, leads to the own machine only."""
    return host in ("localhost", "::1") or host.startswith("127.")


def is_near(address: Address) -> bool:
    """Whether it is a unix socket, or a loopback address."""
    return address.path is not None or is_loopback(address.host)


def entries(location: urls.Location) -> tuple[Address, ...]:
    """The addresses in a URL."""
    match location:
        case urls.Standalone():
            return (location.address,)
        case urls.Sentinel():
            return location.sentinels
        case urls.Cluster():
            return location.nodes
    return ()


def is_remote(location: urls.Location) -> bool:
    """Whether the way to it may leave this machine."""
    return not all(is_near(each) for each in entries(location))
