"""The three roles joined: a pool for each, and dials for subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from rtx import urls
from rtx.errors import SettingsError
from rtx.settings import Settings
from rtx.topology.base import DATABASES, Manner, Role, Topology
from rtx.topology.embedded import EmbeddedTopology
from rtx.topology.sentinel import SentinelTopology
from rtx.topology.standalone import StandaloneTopology
from rtx.wire.connection import Connection, Dial, OnPush
from rtx.wire.pool import Pool


class Roles:
    """Opens every topology that the settings name, once each, and one pool per role."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topologies: dict[urls.Location, Topology] = {}
        self._of: dict[Role, Topology] = {}
        self._pools: dict[Role, Pool] = {}
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
                raise SettingsError(
                    f"{location}: this version does not connect to clusters; name a single server "
                    "with redis://host:port or a service with redis+sentinel://"
                )

    async def open(self) -> None:
        """Start the topologies and dial.

        Raises `ConnectFailed`, `AccessDenied` or `SettingsError`.
        """
        try:
            for topology in self._topologies.values():
                self._stack.push_async_callback(topology.close)
                await topology.open()
            for role in Role:
                pool = Pool(self._dial(role), self._settings.pool)
                self._stack.push_async_callback(pool.close)
                await pool.open()
                self._of[role].on_change(pool.hurry)
                self._pools[role] = pool
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close pools, then topologies, even when this is cancelled meanwhile."""
        await asyncio.shield(asyncio.ensure_future(self._stack.aclose()))

    def pool(self, role: Role) -> Pool:
        """The pool of a role, with its database selected."""
        return self._pools[role]

    def share_server(self, one: Role, other: Role) -> bool:
        """Whether two roles live on one server, so that one pipeline can serve both."""
        return self._of[one] is self._of[other]

    def topology(self, role: Role) -> Topology:
        """The topology behind a role."""
        return self._of[role]

    async def dial_subscriber(
        self, role: Role, on_push: OnPush, on_close: Callable[[Connection], None]
    ) -> Connection:
        """A connection of its own for push messages, asked for life every `probe_interval`."""
        liveness = self._settings.channels.probe_interval
        return await self._of[role].dial(DATABASES[role], on_close, on_push, liveness)

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
