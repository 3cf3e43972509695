"""The pump: what is published, refused, lost to an outage, and told after a cancel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from rtx.errors import BadTick, ConnectionLost, NotFound, NotWritable
from rtx.feeds import FeedStats, Pump, pump
from rtx.models import Tick, check_quote


@dataclass
class Published:
    count: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class ListFeed:
    """Batches out of a list; tells whether it was closed."""

    name = "list"

    def __init__(self, batches: Sequence[Sequence[Tick]]) -> None:
        self.stats = FeedStats()
        self.closed = False
        self._batches = batches

    async def batches(self) -> AsyncIterator[Sequence[Tick]]:
        try:
            for batch in self._batches:
                self.stats.ticks += len(batch)
                yield batch
        finally:
            self.closed = True


def tick(bid: float = 1.1, ask: float = 1.2) -> Tick:
    return Tick("EURUSD", bid=bid, ask=ask)


async def publish(batch: Sequence[Tick]) -> Published:
    """Refuses as the market data publisher does."""
    result = Published()
    for item in batch:
        try:
            check_quote(item.symbol, item.bid, item.ask)
        except BadTick as error:
            result.refused[error.reason] = result.refused.get(error.reason, 0) + 1
        else:
            result.count += 1
    return result


def failing(*errors: Exception | None) -> Callable[[Sequence[Tick]], Awaitable[Published]]:
    """A publisher whose n-th call raises the n-th error."""
    left = list(errors)

    async def call(batch: Sequence[Tick]) -> Published:
        if left and (error := left.pop(0)) is not None:
            raise error
        return await publish(batch)

    return call


async def test_reports_what_was_published_and_refused_by_reason() -> None:
    feed = ListFeed([[tick(), tick(bid=1.3)], [tick(bid=float("nan")), tick(), tick(bid=0.0)]])
    report = await pump(feed, publish)
    assert report.published == 2
    assert report.refused == {"crossed": 1, "not_finite": 1, "not_positive": 1}
    assert report.seconds > 0
    assert feed.closed


async def test_joins_the_counters_of_the_feed() -> None:
    feed = ListFeed([[tick()]])
    feed.stats.malformed("a.csv line 7", "rubbish")
    feed.stats.malformed("a.csv line 9", "more")
    feed.stats.steps_back = 3
    report = await pump(feed, publish)
    assert report.refused == {"malformed": 2}
    assert report.first_malformed == "a.csv line 7: 'rubbish'"
    assert report.steps_back == 3


async def test_an_outage_costs_its_batches_and_no_more() -> None:
    feed = ListFeed([[tick()], [tick(), tick()], [tick(), tick(), tick()]])
    report = await pump(feed, failing(None, ConnectionLost("gone"), None))
    assert report.published == 4
    assert report.refused == {"unavailable": 2}


async def test_a_failover_counts_under_its_own_reason() -> None:
    report = await pump(ListFeed([[tick()], [tick()]]), failing(NotWritable("read only")))
    assert report.published == 1
    assert report.refused == {"not_writable": 1}


async def test_an_error_that_no_retry_heals_ends_the_pump_and_closes_the_feed() -> None:
    feed = ListFeed([[tick()], [tick()]])
    with pytest.raises(NotFound):
        await pump(feed, failing(NotFound("what?")))
    assert feed.closed


async def test_counters_can_be_read_while_it_runs_and_after_a_cancel() -> None:
    async def stuck_on_the_second(batch: Sequence[Tick]) -> Published:
        if len(batch) == 2:
            reached.set()
            await asyncio.Event().wait()
        return await publish(batch)

    reached = asyncio.Event()
    feed = ListFeed([[tick()], [tick(), tick()], [tick()]])
    running = Pump(feed, stuck_on_the_second)
    assert running.report.seconds == 0.0
    task = asyncio.create_task(running.run())
    await reached.wait()
    assert running.report.published == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert feed.closed
    report = running.report
    assert report.published == 1
    assert report.refused == {"cancelled": 2}
    assert report.published + sum(report.refused.values()) == feed.stats.ticks
    assert running.report.seconds == report.seconds
