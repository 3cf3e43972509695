"""The servers behind the roles, one by one, for whoever looks at each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rtx import urls
from rtx.settings import Settings
from rtx.topology.base import Manner, Role
from rtx.topology.cluster import ClusterTopology
from rtx.topology.embedded import EmbeddedTopology
from rtx.topology.roles import Roles
from rtx.topology.sentinel import SentinelTopology
from rtx.urls import Address
from rtx.wire.options import ConnectOptions

SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class Node:
    """One server or sentinel, and how to connect to it.

    `name` is its address for people. `group` is what it is used for: `cache`, `state` (pubsub or
    limits), `all`, or `sentinel`, whose `service` is the one that it is asked about.
    """

    name: str
    address: Address
    group: str
    options: ConnectOptions
    service: str = ""


class Nodes:
    """Knows the servers of the moment; `patience` (seconds) is each one's time to connect.

    It logs in as `metrics_login` where that is set. The replicas of a sentinel's service are those
    that `learn` was told.
    """

    def __init__(self, settings: Settings, roles: Roles, patience: float) -> None:
        self._roles = roles
        self._learned: dict[str, frozenset[Address]] = {}
        self._used: dict[urls.Location, tuple[Role, set[Role]]] = {}
        self._options: dict[urls.Location, ConnectOptions] = {}
        self._sentinel_options: dict[urls.Location, ConnectOptions] = {}
        login = settings.metrics_login.credentials
        for role in Role:
            location = settings.location(role.value)
            if location in self._used:
                self._used[location][1].add(role)
                continue
            self._used[location] = (role, {role})
            manner = Manner.of(settings, location)
            credentials = urls.NO_CREDENTIALS
            tls = False
            if not isinstance(location, urls.Embedded):
                tls = location.tls
                credentials = location.credentials
                if login != urls.NO_CREDENTIALS:
                    credentials = login
            for options, given in (
                (self._options, credentials),
                (self._sentinel_options, manner.sentinel_credentials),
            ):
                options[location] = replace(
                    manner.options(given, tls=tls), connect_timeout=patience, read_timeout=patience
                )

    def learn(self, service: str, replicas: frozenset[Address]) -> None:
        """A sentinel has named these as the replicas of its service."""
        self._learned[service] = replicas

    def now(self) -> list[Node]:
        """All that are known, each once."""
        found: dict[str, Node] = {}
        for location, (role, used_for) in self._used.items():
            group = _group(used_for)
            for name, address in self._servers(location, role):
                node = Node(name, address, group, self._options[location])
                known = found.get(name)
                if known is not None and known.group != group:
                    node = replace(known, group="all")
                found[name] = node
            if isinstance(location, urls.Sentinel):
                way = self._sentinel_options[location]
                for address in location.sentinels:
                    name = str(address)
                    found[name] = Node(name, address, SENTINEL, way, location.service)
        return list(found.values())

    def _servers(self, location: urls.Location, role: Role) -> Iterator[tuple[str, Address]]:
        topology = self._roles.topology(role)
        if isinstance(topology, EmbeddedTopology):
            yield f"127.0.0.1:{topology.process.port}", topology.process.local
            return
        addresses: list[Address] = []
        if isinstance(location, urls.Standalone):
            addresses = [location.address]
        elif isinstance(topology, SentinelTopology) and isinstance(location, urls.Sentinel):
            primary = topology.primary
            learned = self._learned.get(location.service, frozenset())
            addresses = [*([primary] if primary else []), *sorted(learned, key=str)]
        elif isinstance(topology, ClusterTopology):
            addresses = [*topology.primaries, *sorted(topology.replicas, key=str)]
        yield from ((str(address), address) for address in addresses)


def _group(roles: set[Role]) -> str:
    if Role.CACHE not in roles:
        return "state"
    return "cache" if roles == {Role.CACHE} else "all"
