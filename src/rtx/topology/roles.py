"""The three roles joined: a pool for each, and dials for subscribers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from rtx import urls
from rtx.settings import Settings
from rtx.topology.base import DATABASES, Homes, Manner, Role, Topology
from rtx.topology.cluster import ClusterTopology, SlotHomes
from rtx.topology.cluster_pool import ClusterCaller
from rtx.topology.embedded import EmbeddedTopology
from rtx.topology.one_home import OneHome
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
        self._stack = AsyncExitStack()
        for role in Role:
            location = settings.location(role.value)
            if location not in self._topologies:
                self._topologies[location] = self._build(location)
            self._of[role] = self._topologies[location]

    def _build(self, location: urls.Location) -> Topology:
        settings = self._settings
        manner = Manner(
            settings.pool,
            settings.client_name,
            None if isinstance(location, urls.Embedded) else settings.tls.context(),
            settings.sentinel_login.credentials,
        )
        match location:
            case urls.Embedded():
                return EmbeddedTopology(location, manner)
            case urls.Standalone():
                return StandaloneTopology(location, manner)
            case urls.Sentinel():
                return SentinelTopology(location, manner)
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

    def pool(self, role: Role) -> Caller:
        """What a role's commands are sent with: its pool, or its cluster's pools."""
        return self._callers[role]

    def share_server(self, one: Role, other: Role) -> bool:
        """Whether two roles live on one server, so that one pipeline can serve both."""
        topology = self._of[one]
        return topology is self._of[other] and not isinstance(topology, ClusterTopology)

    def topology(self, role: Role) -> Topology:
        """The topology behind a role."""
        return self._of[role]

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
