"""The three roles joined: a pool for each, and dials for subscribers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from rtx import urls
from rtx.errors import SettingsError
from rtx.settings import Settings
from rtx.topology.base import DATABASES, Homes, Manner, Role, Topology
from rtx.topology.cluster import ClusterTopology, SlotHomes
from rtx.topology.cluster_pool import ClusterCaller
from rtx.topology.embedded import EmbeddedTopology
from rtx.topology.one_home import OneHome
from rtx.topology.reader import ReplicaReader
from rtx.topology.replicas import ClusterFamily, Family, SentinelFamily
from rtx.topology.sentinel import SentinelTopology
from rtx.topology.standalone import StandaloneTopology
from rtx.wire.caller import Caller
from rtx.wire.connection import Dial
from rtx.wire.pool import Pool


class Roles:
    """Opens every topology that the settings name, once each, and one pool per role."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topologies: dict[urls.Location, Topology] = {}
        self._of: dict[Role, Topology] = {}
        self._callers: dict[Role, Caller] = {}
        self._readers: dict[Role, Caller] = {}
        self._stack = AsyncExitStack()
        for role in Role:
            location = settings.location(role.value)
            if location not in self._topologies:
                self._topologies[location] = self._build(location)
            self._of[role] = self._topologies[location]

    def _build(self, location: urls.Location) -> Topology:
        manner = Manner.of(self._settings, location)
        match location:
            case urls.Embedded():
                return EmbeddedTopology(location, manner)
            case urls.Standalone():
                return StandaloneTopology(location, manner)
            case urls.Sentinel():
                return SentinelTopology(
                    location,
                    manner,
                    with_replicas=self._settings.reads.cache_from == "replica",
                )
            case urls.Cluster():
                return ClusterTopology(location, manner)

    async def open(self) -> None:
        """Start the topologies and dial.

        Raises `ConnectFailed`, `AccessDenied` or `SettingsError`.
        """
        try:
            for topology in self._topologies.values():
                self._stack.push_async_callback(topology.close)
                await topology.open()
            for role in Role:
                caller = self._caller(role)
                self._stack.push_async_callback(caller.close)
                await caller.open()
                self._of[role].on_change(caller.hurry)
                self._callers[role] = caller
            if self._settings.reads.cache_from == "replica":
                reader = self._replica_reader(Role.CACHE)
                self._stack.push_async_callback(reader.close)
                reader.start()
                self._readers[Role.CACHE] = reader
            if self._settings.telemetry.spans != "off" or self._settings.telemetry.metrics:
                self._observe()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close pools, then topologies, even when this is cancelled meanwhile."""
        await asyncio.shield(asyncio.ensure_future(self._stack.aclose()))

    def _caller(self, role: Role) -> Pool | ClusterCaller:
        topology = self._of[role]
        if isinstance(topology, ClusterTopology):
            return ClusterCaller(topology, self._settings.pool)
        return Pool(self._dial(role), self._settings.pool)

    def _observe(self) -> None:
        """Put telemetry around every caller, and import it only now."""
        from rtx.telemetry import ObservedCaller, Telemetry, server_attributes

        telemetry = Telemetry(self._settings.telemetry)
        for role, topology in self._of.items():
            own = topology.process.local if isinstance(topology, EmbeddedTopology) else None
            server = server_attributes(self._settings.location(role.value), DATABASES[role], own)
            for callers in (self._callers, self._readers):
                if role in callers:
                    callers[role] = ObservedCaller(callers[role], telemetry, role.value, server)

    def pool(self, role: Role) -> Caller:
        """What a role's commands are sent with: its pool, or its cluster's pools."""
        return self._callers[role]

    def reader(self, role: Role) -> Caller:
        """What a role's plain reads are called with, where an answer may lag a little.

        With `reads.cache_from = "replica"` a `ReplicaReader` for the caches; else the role's pool.
        Never for what must be as of now, such as sessions, limits, logs and whatever is checked
        before a write.
        """
        return self._readers.get(role) or self._callers[role]

    def _replica_reader(self, role: Role) -> ReplicaReader:
        topology, caller = self._of[role], self._callers[role]
        family: Family
        if isinstance(topology, ClusterTopology) and isinstance(caller, ClusterCaller):
            family = ClusterFamily(topology, caller)
        elif isinstance(topology, SentinelTopology):
            family = SentinelFamily(topology, caller, DATABASES[role])
        else:
            raise SettingsError("only a primary that has replicas lets others read from them")
        return ReplicaReader(caller, family, self._settings.pool, self._settings.reads.max_lag)

    def share_server(self, one: Role, other: Role) -> bool:
        """Whether two roles live on one server, so that one pipeline can serve both."""
        topology = self._of[one]
        return topology is self._of[other] and not isinstance(topology, ClusterTopology)

    def topology(self, role: Role) -> Topology:
        """The topology behind a role."""
        return self._of[role]

    def switches(self, role: Role) -> int:
        """Times that the servers of a role have changed: failovers, and moves of slots."""
        topology = self._of[role]
        if isinstance(topology, SentinelTopology):
            return topology.switches
        return topology.changes if isinstance(topology, ClusterTopology) else 0

    def homes(self, role: Role) -> Homes:
        """Where the channels of a role are; a silent connection is asked every `probe_interval`."""
        topology, liveness = self._of[role], self._settings.channels.probe_interval
        if isinstance(topology, ClusterTopology):
            return SlotHomes(topology, liveness)
        return OneHome(topology, DATABASES[role], liveness)

    @property
    def embedded(self) -> EmbeddedTopology | None:
        """The embedded server, if a role uses one."""
        for topology in self._topologies.values():
            if isinstance(topology, EmbeddedTopology):
                return topology
        return None

    def _dial(self, role: Role) -> Dial:
        topology, db = self._of[role], DATABASES[role]
        return lambda on_close: topology.dial(db, on_close)
