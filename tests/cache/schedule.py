"""Interleavings on a real server: every step of every actor waits for its turn, drawn by a seed.

Commands are two steps each, one before they leave and one before their reply is taken, so that
anything can happen between the two. What an actor does between its steps is done at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from rtx.errors import ConnectionLost, RtxError
from rtx.models import Versioned
from rtx.wire import Caller, PoolStats, Reply
from rtx.wire.options import Argument

_TURNS = 6  # of the loop, after which whatever a step has set off is waiting at another step


class Schedule:
    """Lets one of the waiting steps go on at a time, in an order that the seed decides."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.steps = 0
        self._waiting: list[tuple[bool, asyncio.Future[None]]] = []
        self._sent = 0
        self._answered = asyncio.Event()

    async def step(self, *, idle: bool = False) -> None:
        """Wait for the turn of this step; an `idle` one is drawn more rarely."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((idle, turn))
        await turn

    async def pause(self, _seconds: float) -> None:
        """In place of a sleep."""
        await self.step(idle=True)

    async def outside(self, call: Awaitable[Any]) -> Any:
        """Something that the loop does not do by itself; no step goes on meanwhile."""
        self._sent += 1
        try:
            return await call
        finally:
            self._sent -= 1
            self._answered.set()

    async def run(self, actors: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run the actors to their ends; raises what one of them raises."""
        tasks = [asyncio.ensure_future(actor) for actor in actors]
        try:
            while not all(task.done() for task in tasks):
                await self._quiet()
                if not self._go_on():
                    await asyncio.wait(tasks, timeout=0.001, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def settle(self) -> None:
        """Let go on what is still under way, until nothing is."""
        while True:
            await self._quiet()
            if not self._go_on():
                return

    async def _quiet(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            while self._sent:
                self._answered.clear()
                await self._answered.wait()

    def _go_on(self) -> bool:
        self._waiting = [item for item in self._waiting if not item[1].done()]
        if not self._waiting:
            return False
        busy = [item for item in self._waiting if not item[0]]
        item = self.chance.choice(busy if busy and self.chance.random() < 0.9 else self._waiting)
        self._waiting.remove(item)
        item[1].set_result(None)
        self.steps += 1
        return True


class SteppedCaller:
    """A `Caller` whose calls take their turns; `faults` is the part of them that is lost."""

    def __init__(self, caller: Caller, schedule: Schedule, faults: float = 0.0) -> None:
        self._caller = caller
        self._schedule = schedule
        self.faults = faults
        self._told: list[Callable[[], None]] = []

    def call(self, *args: Argument, timeout: float | None = None) -> Awaitable[Reply]:
        return self._stepped(lambda: self._caller.call(*args))

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> Awaitable[list[Reply]]:
        return self._stepped(lambda: self._caller.batch(commands))

    async def _stepped(self, send: Callable[[], Awaitable[Any]]) -> Any:
        schedule = self._schedule
        await schedule.step()
        lost = schedule.chance.random() < self.faults
        if lost and schedule.chance.random() < 0.5:
            raise self._lost(maybe_applied=False)
        reply = await schedule.outside(_awaited(send()))
        await schedule.step()
        if lost:
            raise self._lost(maybe_applied=True)
        return reply

    def _lost(self, *, maybe_applied: bool) -> ConnectionLost:
        for told in self._told:
            told()
        return ConnectionLost("drawn by lot", maybe_applied=maybe_applied)

    def on_loss(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    # What caches do not use.

    def batch_packed(self, commands: Sequence[bytes], *, patient: bool = True) -> Any:
        raise NotImplementedError

    async def execute(
        self, *args: Argument, idempotent: bool = False, timeout: float | None = None
    ) -> Reply:
        raise NotImplementedError

    @property
    def down(self) -> RtxError | None:
        return None

    @property
    def stats(self) -> PoolStats:
        return PoolStats()

    def hurry(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call


class SteppedRows:
    """A database of numbers, each with its own value as its version; a read takes two steps."""

    def __init__(self, schedule: Schedule, *, versions: bool) -> None:
        self._schedule = schedule
        self._versions = versions
        self.rows: dict[int, int] = {}
        self.loads = 0

    async def load(self, ids: Sequence[int]) -> Mapping[int, Versioned[int]]:
        self.loads += 1
        await self._schedule.step()
        found = {id: self.rows[id] for id in ids if id in self.rows}
        await self._schedule.step()
        return {id: Versioned(row, row if self._versions else 0) for id, row in found.items()}

    def commit(self, id: int) -> int:
        """Change a row; its new value."""
        self.rows[id] = self.rows.get(id, 0) + 1
        return self.rows[id]
