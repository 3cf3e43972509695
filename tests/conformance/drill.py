"""A writer, a publisher and a subscriber that go through an outage and remember everything."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import rtx
from rtx.errors import NotWritable, ServerBusy, Unavailable
from rtx.models import Execution, Tick
from rtx.topology import Role
from tests.conformance.samples import fill, quote
from tests.conftest import eventually

_AWAY = (Unavailable, NotWritable, ServerBusy)


class Drill:
    """Counts a key up, and publishes ticks of a symbol and executions of an account."""

    def __init__(
        self, layer: rtx.DataLayer, other: rtx.DataLayer, *, key: str, symbol: str, account: int
    ) -> None:
        self.key, self.symbol, self.account = key, symbol, account
        self.layer, self.other = layer, other
        self.counted: list[tuple[float, float]] = []
        """When each acknowledged INCR was sent and answered."""
        self.ticked: set[int] = set()
        """Numbers of the ticks whose publishing was acknowledged."""
        self.errors: Counter[str] = Counter()
        self.ticks: list[Tick | rtx.Gap] = []
        self.fills: list[Execution | rtx.Gap] = []
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The load, from when everything works until the end of the context."""
        async with (
            self.layer.market_data.subscribe(self.symbol, snapshot=False) as ticks,
            self.layer.executions.subscribe(self.account) as fills,
        ):
            await ticks.ready()
            await fills.ready()
            listeners = [
                asyncio.create_task(_collect(ticks, self.ticks)),
                asyncio.create_task(_collect(fills, self.fills)),
            ]
            try:
                async with asyncio.TaskGroup() as group:
                    for work in (self._count(), self._tick(), self._fill()):
                        group.create_task(work)
                    try:
                        await eventually(
                            lambda: min(map(len, (self.counted, self.ticks, self.fills))) > 5
                        )
                        yield
                    finally:
                        self._ending.set()
            finally:
                for listener in listeners:
                    listener.cancel()
                await asyncio.gather(*listeners, return_exceptions=True)

    async def recovered(self, struck: float) -> float:
        """Wait until all goes on after a fault; seconds from it to the first new write."""
        await eventually(
            lambda: (
                self._sent_since(struck) > 20
                and _goes_on(self.ticks)
                and _goes_on(self.fills)
                and not self.layer.hub.down
            ),
            within=30,
        )
        return min(done for sent, done in self.counted if sent > struck and done > struck) - struck

    def _sent_since(self, moment: float) -> int:
        return sum(1 for sent, _ in self.counted if sent > moment)

    async def _try(self, call: Awaitable[object]) -> bool:
        try:
            await call
        except _AWAY as error:
            self.errors[type(error).__name__] += 1
            await asyncio.sleep(0.01)
            return False
        return True

    async def _count(self) -> None:
        caller = self.other._roles.pool(Role.CACHE)
        while not self._ending.is_set():
            sent = time.monotonic()
            if await self._try(caller.call("INCR", self.key)):
                self.counted.append((sent, time.monotonic()))
            await asyncio.sleep(0.002)

    async def _tick(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            if await self._try(self.other.market_data.publish(quote(self.symbol, number))):
                self.ticked.add(number)
            await asyncio.sleep(0.01)

    async def _fill(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            await self._try(self.other.executions.publish(self.account, fill(number)))
            await asyncio.sleep(0.01)

    # --- what must be true of all that --------------------------------------------------------

    async def lost(self) -> int:
        """Acknowledged increments that the servers do not have any more."""
        counter = await self.other._roles.pool(Role.CACHE).call("GET", self.key)
        assert isinstance(counter, bytes)
        return max(0, len(self.counted) - int(counter))

    def check_heard(self) -> None:
        """Nothing acknowledged is missing and nothing comes twice, unless a gap is told first."""
        last = 0
        for item in self.ticks:
            if isinstance(item, rtx.Gap):
                last = 0
                continue
            number = round(item.bid)
            if last:
                assert number > last
                missed = [each for each in range(last + 1, number) if each in self.ticked]
                assert not missed, f"ticks {missed} were lost without a word"
            last = number
        before: Execution | None = None
        for entry in self.fills:
            if isinstance(entry, rtx.Gap):
                before = before if entry.recovered else None
                continue
            if before is not None:
                assert entry.seq == before.seq + 1  # in whatever epoch the primary has begun
            before = entry

    @property
    def gaps(self) -> list[str]:
        """The causes that the subscribers were told."""
        return [item.cause for item in [*self.ticks, *self.fills] if isinstance(item, rtx.Gap)]


async def _collect(subscription: rtx.Subscription, into: list) -> None:  # type: ignore[type-arg]
    async for item in subscription:
        into.append(item)  # noqa: PERF401 others look at it meanwhile


def _goes_on(heard: list) -> bool:  # type: ignore[type-arg]
    """Whether messages have come after a gap."""
    places = [place for place, item in enumerate(heard) if isinstance(item, rtx.Gap)]
    return bool(places) and len(heard) > places[-1] + 5
