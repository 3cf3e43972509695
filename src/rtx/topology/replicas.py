"""Replicas that may be read: where they are, and until when each is near enough to its primary."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from rtx.errors import ConnectFailed, RtxError
from rtx.topology.cluster import ClusterTopology
from rtx.topology.cluster_pool import ClusterCaller
from rtx.topology.sentinel import SentinelTopology
from rtx.topology.slots import key_slot
from rtx.topology.standing import Standing
from rtx.urls import Address
from rtx.wire.caller import Caller
from rtx.wire.connection import Connection


class Lag:
    """Until when each replica of one primary may be read.

    What the primary had written is known for moments of the last `max_lag` seconds. A replica that
    has applied all that it had written at one of them is good until `max_lag` after that moment:
    what it answers until then is no older. Without further word it so ceases to be good by itself.
    """

    def __init__(self, primary: Address, max_lag: float) -> None:
        self._primary = primary
        self._max_lag = max_lag
        self._written: deque[tuple[float, int]] = deque()
        self._good_until: dict[Address, float] = {}
        self._kept: Address | None = None

    def wrote(self, moment: float, offset: int) -> None:
        """The primary had written up to `offset` at a moment, or more."""
        self._written.append((moment, offset))
        while self._written[0][0] < moment - self._max_lag:
            self._written.popleft()

    def applied(self, replica: Address, standing: Standing) -> None:
        """A replica said this of itself by ROLE."""
        reached = [moment for moment, offset in self._written if offset <= standing.offset]
        if reached and standing.follows(self._primary):
            self._good_until[replica] = reached[-1] + self._max_lag
        else:
            self._good_until.pop(replica, None)

    def lose(self, replica: Address) -> None:
        """A replica does not answer, or its connection broke."""
        self._good_until.pop(replica, None)

    def good(self, now: float) -> Address | None:
        """A replica to read from; the same one for as long as it is good.

        Reads that went to one and the other would see the past after the present.
        """
        if self._good_until.get(self._kept or self._primary, 0.0) > now:
            return self._kept
        choice = [replica for replica, until in self._good_until.items() if until > now]
        self._kept = random.choice(choice) if choice else None
        return self._kept


class Family(Protocol):
    """The primaries of a role, and their replicas."""

    @property
    def one_slot(self) -> bool:
        """Whether all keys can be in one command, as they cannot in a cluster."""

    @property
    def primaries(self) -> Collection[Address]:
        """All of them."""

    def primary_of(self, key: bytes) -> Address | None:
        """The primary that has a key."""

    def caller_of(self, primary: Address) -> Caller:
        """What a primary is asked with."""

    def replicas_of(self, primary: Address, standing: Standing) -> Collection[Address]:
        """The replicas of a primary that said this of itself by ROLE."""

    async def dial(
        self, replica: Address, on_close: Callable[[Connection], None], liveness: float
    ) -> Connection:
        """Open a connection to read from; raises `ConnectFailed` or `AccessDenied`."""

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` when there are other primaries."""


class SentinelFamily:
    """The replicas that sentinels name, and that the primary has attached."""

    one_slot = True

    def __init__(self, topology: SentinelTopology, caller: Caller, db: int) -> None:
        self._topology = topology
        self._caller = caller
        self._db = db

    @property
    def primaries(self) -> Collection[Address]:
        primary = self._topology.primary
        return () if primary is None else (primary,)

    def primary_of(self, key: bytes) -> Address | None:
        return self._topology.primary

    def caller_of(self, primary: Address) -> Caller:
        return self._caller

    def replicas_of(self, primary: Address, standing: Standing) -> Collection[Address]:
        return [replica for replica in self._topology.replicas if standing.lists(replica)]

    async def dial(
        self, replica: Address, on_close: Callable[[Connection], None], liveness: float
    ) -> Connection:
        return await self._topology.dial_replica(replica, self._db, on_close, liveness)

    def on_change(self, told: Callable[[], None]) -> None:
        self._topology.on_change(told)


class ClusterFamily:
    """The replicas that the slot map names for each primary, and that it has attached."""

    one_slot = False

    def __init__(self, topology: ClusterTopology, caller: ClusterCaller) -> None:
        self._topology = topology
        self._caller = caller

    @property
    def primaries(self) -> Collection[Address]:
        return self._topology.primaries

    def primary_of(self, key: bytes) -> Address | None:
        return self._topology.owners[key_slot(key)]

    def caller_of(self, primary: Address) -> Caller:
        return self._caller.pool_at(primary)

    def replicas_of(self, primary: Address, standing: Standing) -> Collection[Address]:
        named = self._topology.replicas_of(primary)
        return [replica for replica in named if standing.lists(replica)]

    async def dial(
        self, replica: Address, on_close: Callable[[Connection], None], liveness: float
    ) -> Connection:
        connection = await self._topology.dial_node(replica, on_close, liveness=liveness)
        try:
            await connection.call("READONLY")
        except BaseException as error:
            refused = ConnectFailed(f"{replica} did not take READONLY: {error}")
            connection.abort(refused)
            if isinstance(error, RtxError):
                raise refused from None
            raise
        return connection

    def on_change(self, told: Callable[[], None]) -> None:
        self._topology.on_change(told)
