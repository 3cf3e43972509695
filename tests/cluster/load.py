"""Writers that know what every reply must be."""

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


async def check_nothing_lost(caller: Caller, ledgers: Sequence[Ledger]) -> None:
    """Every acknowledged increment is there, once; uncertain ones may be."""
    values = await caller.call("MGET", *(ledger.key for ledger in ledgers))
    assert isinstance(values, list)
    for ledger, value in zip(ledgers, values, strict=True):
        assert isinstance(value, bytes)
        assert ledger.acknowledged <= int(value) <= ledger.acknowledged + ledger.uncertain, ledger
        assert not ledger.wrong
