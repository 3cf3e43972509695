"""What a feed is, and the pump that carries its ticks to a publisher.

A feed yields batches of ticks in the order of its source. It never filters quotes by their prices:
a bad quote is refused, and counted, by the publisher alone. What never became a tick (a broken
line, a price without a bid) the feed counts itself, so that nothing is counted twice and

    ticks + what the feed refused  =  everything the source sent
    published + what the publisher refused + what an outage cost  =  ticks
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from rtx.errors import RtxError, Unavailable
from rtx.models import Tick
from rtx.tick_meter import TickMeter

OUTAGE_PAUSE = 0.1
"""Seconds after a refused write, so that a replay at full speed outlives a short outage."""

Sleep = Callable[[float], Awaitable[object]]
Clock = Callable[[], float]


class FeedStats(msgspec.Struct, kw_only=True):
    """Counters of a feed since it was made; they move while it runs.

    `ticks` were handed over; `refused` counts, by reason, what never became a tick;
    `first_malformed` is the place and text of the first broken message; `steps_back` counts ticks
    older than the one before of their symbol; `reconnects` counts lost connections.
    """

    ticks: int = 0
    refused: dict[str, int] = {}
    first_malformed: str = ""
    steps_back: int = 0
    reconnects: int = 0

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count messages that became no tick."""
        self.refused[reason] = self.refused.get(reason, 0) + count

    def malformed(self, where: str, text: str) -> None:
        """Count a broken message, and keep the place and the start of the first."""
        self.refuse("malformed")
        if not self.first_malformed:
            self.first_malformed = f"{where}: {text[:200]!r}"


class Feed(Protocol):
    """A source of ticks. `batches` may be closed at any time and gives back what it holds."""

    @property
    def name(self) -> str:
        """A word for logs and progress bars."""
        ...

    @property
    def stats(self) -> FeedStats:
        """Counters that move while the feed runs."""
        ...

    def batches(self) -> AsyncIterator[Sequence[Tick]]:
        """Yield ticks as they come, at most a few hundred at once.

        Raises `FeedError` when the source cannot be read at all.
        """
        ...


class PublishResult(Protocol):
    """What a publisher says of one batch."""

    @property
    def count(self) -> int: ...

    @property
    def refused(self) -> Mapping[str, int]: ...


Publish = Callable[[Sequence[Tick]], Awaitable[PublishResult]]


class FeedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a feed's ticks; `seconds` is the time the pump ran.

    `refused` joins what the feed refused (such as `malformed`), what the publisher refused (such as
    `crossed`) and what could not be delivered (`unavailable`, or `cancelled` for the batch whose
    write was in flight when the pump was cancelled).
    """

    published: int
    refused: dict[str, int]
    seconds: float
    first_malformed: str = ""
    steps_back: int = 0
    reconnects: int = 0


class Pump:
    """Carries a feed to a publisher, and can be looked at while it runs.

        pump = Pump(feed, layer.market_data.publish_many)
        task = asyncio.create_task(pump.run())
        print(pump.report.published)

    `meter` (`layer.feeds`) is told of all ticks that come in, which puts them into the metrics. An
    outage costs the batches that fall into it and no more. The report stays readable after
    a cancel. Run a pump once.
    """

    def __init__(self, feed: Feed, publish: Publish, meter: TickMeter | None = None) -> None:
        self.feed = feed
        self._publish = publish
        self._meter = meter
        self._published = 0
        self._refused: dict[str, int] = {}
        self._started: float | None = None
        self._ended: float | None = None

    @property
    def report(self) -> FeedReport:
        """What has become of the feed's ticks so far."""
        stats = self.feed.stats
        refused = dict(self._refused)
        for reason, count in stats.refused.items():
            refused[reason] = refused.get(reason, 0) + count
        end = time.monotonic() if self._ended is None else self._ended
        return FeedReport(
            published=self._published,
            refused=refused,
            seconds=0.0 if self._started is None else end - self._started,
            first_malformed=stats.first_malformed,
            steps_back=stats.steps_back,
            reconnects=stats.reconnects,
        )

    async def run(self) -> FeedReport:
        """Publish until the feed ends; raises `FeedError`, and errors that no retry can heal."""
        self._started = time.monotonic()
        batches = self.feed.batches()
        try:
            async for batch in batches:
                await self._deliver(batch)
        finally:
            self._ended = time.monotonic()
            close = getattr(batches, "aclose", None)
            if close is not None:
                await close()
        return self.report

    async def _deliver(self, batch: Sequence[Tick]) -> None:
        if self._meter is not None:
            self._meter.came(batch)
        try:
            result = await self._publish(batch)
        except RtxError as error:
            if not error.retryable:
                raise
            reason = "unavailable" if isinstance(error, Unavailable) else error.code
            self._refuse(reason, len(batch))
            await asyncio.sleep(OUTAGE_PAUSE)
            return
        except asyncio.CancelledError:
            self._refuse("cancelled", len(batch))
            raise
        self._published += result.count
        for reason, count in result.refused.items():
            self._refuse(reason, count)

    def _refuse(self, reason: str, count: int) -> None:
        self._refused[reason] = self._refused.get(reason, 0) + count


async def pump(feed: Feed, publish: Publish) -> FeedReport:
    """Carry a feed to a publisher until it ends; see `Pump` to look on meanwhile."""
    return await Pump(feed, publish).run()


_MARKS = re.compile(r"[/_\-. ]")


def plain_symbol(text: str) -> str:
    """The symbol without its marks: `EUR/USD`, `BTC-USD` and `eur_usd` give `EURUSD`, `BTCUSD`…

    Raises `ValueError` when nothing is left.
    """
    symbol = _MARKS.sub("", text).upper()
    if not symbol:
        raise ValueError(f"no symbol in {text!r}")
    return symbol
