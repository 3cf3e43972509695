"""Channels that are all in one place: on whatever server takes the role's writes."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from rtx.errors import ServerError
from rtx.topology.base import Topology
from rtx.wire.connection import Connection, OnPush

_HERE = "here"


class OneHome:
    """`Homes` of a topology that has one server at a time."""

    sharded = False

    def __init__(self, topology: Topology, db: int, liveness: float) -> None:
        self._topology = topology
        self._db = db
        self._liveness = liveness

    def home(self, channel: bytes) -> Hashable:
        return _HERE

    async def dial(
        self, home: Hashable, on_push: OnPush, on_close: Callable[[Connection], None]
    ) -> Connection:
        return await self._topology.dial(self._db, on_close, on_push, self._liveness)

    def moved(self, channel: bytes, error: ServerError) -> None:
        pass

    def on_change(self, told: Callable[[], None]) -> None:
        self._topology.on_change(told)
