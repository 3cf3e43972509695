"""Writers and a subscriber that remember everything, so that afterwards it can be checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import redis.asyncio as redis_py

import rtx
from rtx.errors import NotWritable, Unavailable
from rtx.topology import Role
from rtx.topology.local import SERVICE, LocalSentinels
from rtx.topology.process import ServerProcess
from rtx.topology.sentinel import SentinelTopology
from rtx.wire import Pool
from tests.conftest import eventually

T = TypeVar("T")

SLACK = 3.0
"""A loaded machine of two cores may take this many times what an idle one is allowed."""

AFTER_THE_PROMOTION = 0.3
WHOLE_OUTAGE = {1.0: 3.0, 5.0: 7.5}
"""Seconds without a write or message, by the sentinels' down-after."""
PLANNED_OUTAGE = 1.5
SYMBOL = "EURUSD"


def pool_of(layer: rtx.DataLayer, role: Role = Role.CACHE) -> Pool:
    return layer._roles.pool(role)


def topology_of(layer: rtx.DataLayer, role: Role = Role.CACHE) -> SentinelTopology:
    topology = layer._roles.topology(role)
    assert isinstance(topology, SentinelTopology)
    return topology


def client_of(server: ServerProcess, db: int = 0) -> redis_py.Redis:
    """redis-py on one server, as an independent program; use it as an async context."""
    return redis_py.Redis(port=server.port, db=db, decode_responses=True)


async def clients_on(server: ServerProcess) -> list[dict[str, str]]:
    """RTX's connections that a server has."""
    async with client_of(server) as witness:
        return [client for client in await witness.client_list() if client["name"] == "rtx"]


async def primary_by_all(group: LocalSentinels, *, but: ServerProcess) -> ServerProcess:
    """The new primary, once every sentinel that answers names the same one."""
    alive = [sentinel for sentinel in group.sentinels if sentinel.pid is not None]

    async def agreed() -> ServerProcess | None:
        ports = set()
        for sentinel in alive:
            async with redis_py.Redis(port=sentinel.port, decode_responses=True) as witness:
                found = await witness.execute_command(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE
                )
                ports.add(int(found[1]))
        if len(ports) > 1 or but.port in ports:
            return None
        return next(server for server in group.servers if server.port in ports)

    found = await eventually(agreed, within=20)
    assert isinstance(found, ServerProcess)
    return found


@dataclass
class Outcomes:
    """What became of the calls of one kind, by the key or number that only this call used."""

    sent: dict[str, float] = field(default_factory=dict)
    acked: dict[str, float] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Certainly not carried out, says the error."""
    unknown: set[str] = field(default_factory=set)
    """Perhaps carried out, says the error."""

    @property
    def settled(self) -> bool:
        """Every call ended in exactly one way."""
        ends = [self.acked.keys(), self.refused, self.unknown]
        return sum(map(len, ends)) == len(self.sent) and set().union(*ends) == self.sent.keys()


class Load:
    """Writers with keys and counters of their own, and a publisher with one subscriber."""

    def __init__(self, layer: rtx.DataLayer, *, writers: int = 12) -> None:
        self.layer = layer
        self.sets = Outcomes()
        self.counts = [Outcomes() for _ in range(writers)]
        self.ticks = Outcomes()
        self.values: dict[str, str] = {}
        self.errors: Counter[str] = Counter()
        self.heard: list[rtx.Tick | rtx.Gap] = []
        self.heard_at: list[float] = []
        self.switched: list[float] = []
        self.slowest = 0.0
        self._writers = writers
        self._ending = asyncio.Event()
        topology_of(layer).on_change(lambda: self.switched.append(time.monotonic()))

    @asynccontextmanager
    async def running(self, role: Role = Role.CACHE) -> AsyncIterator[None]:
        """Load from the first acknowledgement of every writer until the end of the context."""
        async with self.layer.market_data.subscribe(SYMBOL) as ticks:
            await ticks.ready()
            listening = asyncio.create_task(self._listen(ticks))
            async with asyncio.TaskGroup() as group:
                for name in range(self._writers):
                    group.create_task(self._write(name, pool_of(self.layer, role)))
                group.create_task(self._publish())
                try:
                    await eventually(lambda: len(self.sets.acked) > 500 and len(self.heard) > 5)
                    yield
                finally:
                    self._ending.set()
            last = list(self.ticks.acked)[-1]
            await eventually(
                lambda: isinstance(self.heard[-1], rtx.Tick) and self.heard[-1].time >= int(last)
            )
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _end(self, outcomes: Outcomes, key: str, call: Awaitable[T]) -> T | None:
        started = outcomes.sent[key] = time.monotonic()
        try:
            reply = await call
        except Unavailable as error:
            (outcomes.unknown if error.maybe_applied else outcomes.refused).add(key)
            self.errors[f"{type(error).__name__}, maybe_applied={error.maybe_applied}"] += 1
            return None
        except NotWritable as error:
            outcomes.refused.add(key)
            self.errors[type(error).__name__] += 1
            return None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - started)
        outcomes.acked[key] = time.monotonic()
        return reply

    async def _write(self, name: int, pool: Pool) -> None:
        number = 0
        counts = self.counts[name]
        while not self._ending.is_set():
            number += 1
            key = f"{name}:{number}"
            self.values[key] = value = f"{key}:{random.getrandbits(64):x}"
            token = f"echo {value}"
            stored, counted, echoed = await asyncio.gather(
                self._end(self.sets, key, pool.call("SET", key, value)),
                self._end(counts, key, pool.call("INCR", f"count:{name}")),
                self._end(Outcomes(), key, pool.call("ECHO", token)),
            )
            assert stored in (b"OK", None), f"SET got the reply of another: {stored!r}"
            assert echoed in (token.encode(), None), f"ECHO got the reply of another: {echoed!r}"
            if counted is not None:
                assert isinstance(counted, int), f"INCR got the reply of another: {counted!r}"
                assert 1 <= counted <= number
            await asyncio.sleep(0.002)

    async def _publish(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            tick = rtx.Tick(SYMBOL, time=number, bid=1.0, ask=1.1)
            await self._end(self.ticks, str(number), self.layer.market_data.publish(tick))
            await asyncio.sleep(0.005)

    async def _listen(self, ticks: rtx.Subscription[rtx.Tick]) -> None:
        async for item in ticks:
            self.heard.append(item)
            self.heard_at.append(time.monotonic())

    # --- what must be true of all that --------------------------------------------------------

    @property
    def outage(self) -> float:
        """The longest time without an acknowledgement, in seconds."""
        return longest(list(self.sets.acked.values()))

    def acked_since(self, moment: float) -> int:
        return sum(1 for when in self.sets.acked.values() if when > moment)

    def heard_since(self, moment: float) -> int:
        return sum(1 for when in self.heard_at if when > moment)

    def first_after(self, moment: float) -> float:
        """Seconds from a moment to the first write that was acknowledged after it."""
        return min(acked for acked in self.sets.acked.values() if acked > moment) - moment

    def silence(self, moment: float) -> float:
        """The longest time from a moment on in which the subscriber got nothing, in seconds."""
        return longest([when for when in self.heard_at if when > moment])

    async def check(self, primary: ServerProcess, *, db: int = 0) -> tuple[int, int]:
        """Read everything back from a primary; how many acknowledged writes are lost: SET, INCR."""
        assert self.sets.settled
        assert self.ticks.settled
        assert all(counts.settled for counts in self.counts)
        async with client_of(primary, db) as witness:
            stored = {key async for key in witness.scan_iter("[0-9]*:*", count=1000)}
            values = dict(zip(stored, await witness.mget(stored), strict=True))
            counters = [
                int(await witness.get(f"count:{name}") or 0) for name in range(len(self.counts))
            ]
        assert stored <= self.sets.sent.keys()
        for key, value in values.items():
            assert value == self.values[key]
        assert not stored & self.sets.refused, "a write that was said not to be applied was"
        lost_counts = 0
        for counter, counts in zip(counters, self.counts, strict=True):
            assert counter <= len(counts.sent) - len(counts.refused)
            lost_counts += max(0, len(counts.acked) - counter)
        self.check_heard()
        return len(self.sets.acked.keys() - stored), lost_counts

    def check_heard(self) -> None:
        """No acknowledged tick is missing, and none comes twice, without a gap before the next."""
        last: int | None = None
        for item in self.heard:
            if isinstance(item, rtx.Gap):
                assert item.duration >= 0
                last = None
                continue
            if last is not None:
                assert item.time > last
                missed = [n for n in range(last + 1, item.time) if str(n) in self.ticks.acked]
                assert not missed, f"ticks {missed} were lost without a word"
            last = item.time

    @property
    def gaps(self) -> list[rtx.Gap]:
        return [item for item in self.heard if isinstance(item, rtx.Gap)]


def longest(times: list[float]) -> float:
    ordered = sorted(times)
    return max((later - earlier for earlier, later in pairwise(ordered)), default=0.0)
