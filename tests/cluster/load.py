"""Writers that know what every reply must be, and how late this machine was."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rtx.errors import RtxError, Unavailable
from rtx.wire import Caller


@dataclass
class Ledger:
    """What one writer, alone on its key, was told."""

    key: str
    last: int = 0
    acknowledged: int = 0
    uncertain: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    succeeded_at: list[float] = field(default_factory=list)

    def reply(self, value: object) -> None:
        """A counter goes up by one, and by one more for each call whose fate is unknown."""
        assert isinstance(value, int), value
        if not self.last < value <= self.last + 1 + self.uncertain:
            self.wrong.append(f"{value} after {self.last} with {self.uncertain} uncertain")
        self.last = value
        self.acknowledged += 1
        self.succeeded_at.append(time.monotonic())

    def failed(self, error: RtxError) -> None:
        assert isinstance(error, Unavailable), repr(error)
        self.errors[type(error).__name__] += 1
        self.uncertain += error.maybe_applied


@asynccontextmanager
async def incrementing(
    caller: Caller, keys: Sequence[str], *, batched: bool = False
) -> AsyncIterator[list[Ledger]]:
    """One writer for each key, or one for all that sends batches, until the context ends."""
    ledgers = [Ledger(key) for key in keys]
    stop = False

    async def one(ledger: Ledger) -> None:
        while not stop:
            try:
                ledger.reply(await caller.call("INCR", ledger.key))
            except RtxError as error:
                ledger.failed(error)
                await asyncio.sleep(0.01)

    async def batches() -> None:
        while not stop:
            try:
                replies = await caller.batch([("INCR", ledger.key) for ledger in ledgers])
            except RtxError as error:
                for ledger in ledgers:
                    ledger.failed(error)
                await asyncio.sleep(0.01)
            else:
                for ledger, reply in zip(ledgers, replies, strict=True):
                    ledger.reply(reply)

    work = [batches()] if batched else [one(ledger) for ledger in ledgers]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield ledgers
    finally:
        stop = True
        await asyncio.gather(*tasks)


@dataclass
class Echoes:
    """What callers were told who sent words that no other call has."""

    answered: int = 0
    sure: int = 0
    """Errors which say that the call was not carried out."""
    unsure: int = 0
    """Errors which say that it may have been."""


@asynccontextmanager
async def echoing(caller: Caller, keys: Sequence[str]) -> AsyncIterator[Echoes]:
    """One caller for each key, whose node must answer each call with the call's own word."""
    echoes = Echoes()
    stop = False

    async def one(key: str) -> None:
        number = 0
        while not stop:
            number += 1
            word = f"{key}:{number}"
            try:
                reply = await caller.call("EVAL", "return ARGV[1]", 1, key, word)
            except Unavailable as error:
                echoes.unsure += error.maybe_applied
                echoes.sure += not error.maybe_applied
                await asyncio.sleep(0.01)
            else:
                assert reply == word.encode(), f"{word} got the reply of another: {reply!r}"
                echoes.answered += 1

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(one(key))
        try:
            yield echoes
        finally:
            stop = True


class Lateness:
    """How long this process could not run, by a task that wants to run every 5 ms."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    def between(self, start: float, end: float) -> float:
        """Seconds of a stretch of `time.monotonic` in which the task was late."""
        return sum(late for at, late in self._late if start < at <= end + late)

    def stretched(self, limit: float, start: float, end: float) -> float:
        """A limit for what took from `start` to `end`, and for that on a machine as busy.

        Several servers have to act one after the other, each of them as late as this process.
        """
        return limit + 5 * self.between(start, end)

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            now = time.monotonic()
            if now - due > 0.005:
                self._late.append((now, now - due))


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Watch this process for the time of the context."""
    watched = Lateness()
    watcher = asyncio.create_task(watched._run())
    try:
        yield watched
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def check_nothing_doubled(caller: Caller, ledgers: Sequence[Ledger]) -> int:
    """No increment was carried out twice; how many acknowledged ones are lost.

    A replica that takes over may not have the last writes of the primary that died.
    """
    values = await caller.call("MGET", *(ledger.key for ledger in ledgers))
    assert isinstance(values, list)
    lost = 0
    for ledger, value in zip(ledgers, values, strict=True):
        assert isinstance(value, bytes)
        assert int(value) <= ledger.acknowledged + ledger.uncertain, ledger
        lost += max(0, ledger.acknowledged - int(value))
    return lost


async def check_nothing_lost(caller: Caller, ledgers: Sequence[Ledger]) -> None:
    """Every acknowledged increment is there, once; uncertain ones may be."""
    values = await caller.call("MGET", *(ledger.key for ledger in ledgers))
    assert isinstance(values, list)
    for ledger, value in zip(ledgers, values, strict=True):
        assert isinstance(value, bytes)
        assert ledger.acknowledged <= int(value) <= ledger.acknowledged + ledger.uncertain, ledger
        assert not ledger.wrong
