"""One interleaving: two processes read, write and invalidate a row in an order that a seed draws.

Each has caches of its own. What a read may give is known: nothing older than a write that had
returned before it began.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from rtx.cache import Breaker, Cache, trip
from rtx.errors import Unavailable
from rtx.keys import Keys
from rtx.setting_groups import CacheSettings
from rtx.wire import Caller
from tests.cache.schedule import Schedule, SteppedCaller, SteppedRows

ID = 1


class Stale(AssertionError):
    """A read gave an older value than one whose write had returned before it began."""


@dataclass
class Process:
    """A cache of its own on the shared server, and how old a value its readers may get."""

    cache: Cache[int, int]
    caller: SteppedCaller
    floor: int = 0


@dataclass
class World:
    """One interleaving: two processes, a database, and what has happened."""

    schedule: Schedule
    rows: SteppedRows
    processes: list[Process]
    versions: bool
    told: list[str] = field(default_factory=list)

    async def read(self, process: Process, kind: str) -> None:
        floor = process.floor
        if kind == "many":
            value = (await process.cache.get_many([ID, ID + 1])).get(ID)
        elif kind == "look":
            looked = await process.cache.lookup(ID)
            value = None if looked is None else looked.value
        elif kind == "given":
            value = await process.cache.get_or_load(ID, self._given)
        else:
            value = await process.cache.get(ID)
        self.told.append(f"{kind} gave {value}, at least {floor}")
        if (value or 0) < floor:
            raise Stale("; ".join(self.told[-20:]))

    async def _given(self, id: int) -> int | None:
        found = (await self.rows.load([id])).get(id)
        return None if found is None else found.value

    async def write(self, process: Process, kind: str) -> None:
        await self.schedule.step()
        value = self.rows.commit(ID)
        self.told.append(f"committed {value}")
        version = value if self.versions else 0
        everyone = True
        if kind == "put" and self.versions:
            try:
                await process.cache._put([(ID, value, version)])
            except Unavailable:  # an invalidation is owed in its place
                everyone = False
        else:
            everyone = await process.cache.invalidate(ID, version=version)
        self.told.append(f"{kind} of {value} returned")
        for other in self.processes if everyone else [process]:
            other.floor = max(other.floor, value)

    async def expire(self, server: Caller, key: str) -> None:
        """What time and eviction do: the value, or its lease, is gone."""
        await self.schedule.step()
        name = self.schedule.chance.choice([key, Keys.lease(key)])
        await self.schedule.outside(server.call("DEL", name))
        self.told.append(f"{name} expired")

    async def give_up(self, process: Process) -> None:
        """A reader that is cancelled on its way."""
        reading = asyncio.ensure_future(self.read(process, "one"))
        for _ in range(self.schedule.chance.randrange(6)):
            await self.schedule.step()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def interleave(
    server: Caller,
    namespace: str,
    seeds: range,
    monkeypatch: pytest.MonkeyPatch,
    *,
    faults: float = 0.0,
) -> int:
    """Run one interleaving for each seed; how many steps they took."""
    steps = 0
    for seed in seeds:
        schedule = Schedule(random.Random(seed))
        monkeypatch.setattr(trip, "pause", schedule.pause)
        try:
            async with asyncio.timeout(20):
                await one(schedule, server, f"{namespace}:{seed}", faults)
        except BaseException:
            print(f"interleaving {seed}, faults {faults}")
            raise
        steps += schedule.steps
    return steps


async def one(schedule: Schedule, server: Caller, name: str, faults: float) -> None:
    chance = schedule.chance
    versions = chance.random() < 0.5
    rows = SteppedRows(schedule, versions=versions)
    if chance.random() < 0.8:
        rows.commit(ID)
    world = World(schedule, rows, [], versions)
    for _ in range(2):
        caller = SteppedCaller(server, schedule, faults)
        # No step of the schedule is late, however long the machine takes for it.
        settings = CacheSettings(read_timeout=30.0, lease=30.0)
        cache: Cache[int, int] = Cache(
            caller,
            lambda id: f"{name}:{id}",
            30.0,
            msgspec.json.Encoder().encode,
            msgspec.json.Decoder(int).decode,
            rows.load,
            settings=settings,
            breaker=Breaker(caller, 30.0),
        )
        world.processes.append(Process(cache, caller))
    if chance.random() < 0.1:
        await server.call("SET", f"{name}:{ID}", "no number")
    actors: list[Coroutine[Any, Any, None]] = []
    kinds = ["one", "one", "many", "look", "given"]
    for process in world.processes:
        actors += [
            several(world.read, process, chance.choices(kinds, k=2))
            for _ in range(chance.randrange(1, 4))
        ]
        if chance.random() < 0.2:
            actors.append(world.give_up(process))
    for _ in range(chance.randrange(1, 4)):
        process = chance.choice(world.processes)
        writes = chance.choices(["invalidate", "put"], k=chance.randrange(1, 3))
        actors.append(several(world.write, process, writes))
    if chance.random() < 0.5:
        actors.append(world.expire(server, f"{name}:{ID}"))
    try:
        await schedule.run(actors)
        for process in world.processes:
            process.caller.faults = 0.0
        if not faults:
            await schedule.run([world.read(process, "one") for process in world.processes])
    finally:
        await schedule.settle()
        for process in world.processes:
            closing = asyncio.ensure_future(process.cache.close())
            breaking = asyncio.ensure_future(process.cache._breaker.close())
            await schedule.run([_end(closing), _end(breaking)])


async def several(act: Any, process: Process, kinds: list[str]) -> None:
    for kind in kinds:
        await act(process, kind)


async def _end(task: asyncio.Future[None]) -> None:
    await task


def chosen(count: int) -> range:
    """The seeds of a run; RTXTEST_SEED has the run begin there."""
    first = int(os.environ.get("RTXTEST_SEED", "0"))
    return range(first, first + count)
