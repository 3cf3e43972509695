"""Subscribers and publishers that remember everything: each is told of a hole before what follows.

Ticks and log messages carry consecutive numbers. What is wrong: a number that was acknowledged and
never came although no gap was told, one that came twice, one that was said not to be published.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import rtx
from rtx.errors import ServerError, Unavailable
from rtx.pubsub import Offset, Subscription
from tests.conftest import eventually

LP = "LP"
PAUSE = 0.005
"""Seconds between two publishes of one publisher."""


@dataclass
class Outcomes:
    """What the publisher of one channel, or of several at once, was told about each number."""

    sent: int = 0
    acked: dict[int, object] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)

    async def publish(self, publishing: Awaitable[object]) -> None:
        """Publish the next number; every error must be typed and say whether it may be there."""
        self.sent += 1
        number = self.sent
        try:
            self.acked[number] = await publishing
        except Unavailable as error:
            self.errors[f"{type(error).__name__}, maybe_applied={error.maybe_applied}"] += 1
            (self.unsure if error.maybe_applied else self.refused).add(number)
        except ServerError as error:
            # In a pipeline of several commands the others may have been carried out.
            self.errors[error.prefix] += 1
            self.unsure.add(number)


class Ticks:
    """One subscription to market data, and the check of what it brought."""

    def __init__(self, subscription: Subscription[rtx.Tick], published: Outcomes) -> None:
        self.subscription = subscription
        self.published = published
        self.items: list[rtx.Tick | rtx.Gap] = []
        self.newest: dict[str, int] = {}

    async def follow(self) -> None:
        async for item in self.subscription:
            self.items.append(item)
            if isinstance(item, rtx.Tick):
                self.newest[item.symbol] = max(item.time, self.newest.get(item.symbol, 0))

    def heard(self, number: int, symbols: Sequence[str]) -> bool:
        return all(self.newest.get(symbol, 0) > number for symbol in symbols)

    @property
    def gaps(self) -> list[rtx.Gap]:
        return [item for item in self.items if isinstance(item, rtx.Gap)]

    def check(self, *, stored: bool, ordered: bool) -> None:
        """`stored`: every tick's price was stored, so that a snapshot has all that came before it.

        In a cluster the price may be at a node that is away: the snapshot is then an older one.
        There a tick may be late as well (not `ordered`): a former primary still takes it, and
        passes it on to the new one, which may have later ticks by then.
        """
        last: dict[str, int] = {}
        told: set[str] = set()  # of whom a gap was told since their last tick
        heard: set[tuple[str, int]] = set()
        for item in self.items:
            if isinstance(item, rtx.Gap):
                assert item.duration >= 0
                told = set(last)
                continue
            snapshot = not item.lp
            exact = not snapshot or (stored and item.time not in self.published.unsure)
            if not snapshot:
                assert item.time not in self.published.refused, f"{item} was not to be published"
                assert (item.symbol, item.time) not in heard, f"{item} came twice"
                heard.add((item.symbol, item.time))
                may_be_late = not ordered or item.time in self.published.unsure
                if may_be_late and item.time < last.get(item.symbol, 0):
                    continue  # what timed out may be carried out after what was sent after it
            if item.symbol in last:
                before = last[item.symbol]
                if item.symbol in told:  # the snapshot may be the last one seen
                    late = exact and item.time < before
                    assert not late, f"{item} is older than {before} that came before the gap"
                else:
                    assert item.time > before, f"{item} came after {before}"
                    missed = [n for n in range(before + 1, item.time) if n in self.published.acked]
                    assert not missed, f"{item.symbol} {missed} were lost without a word"
            if exact:
                told.discard(item.symbol)
            last[item.symbol] = max(item.time, last.get(item.symbol, 0))


class Log:
    """One subscription to executions or alerts, and the check of what it brought."""

    def __init__(self, subscription: Subscription[rtx.Execution] | Subscription[rtx.Alert]) -> None:
        self.subscription = subscription
        self.published = Outcomes()
        self.items: list[rtx.Execution | rtx.Alert | rtx.Gap] = []
        self.newest = 0

    async def follow(self) -> None:
        async for item in self.subscription:
            self.items.append(item)
            if not isinstance(item, rtx.Gap):
                self.newest = max(self.newest, number_of(item))

    @property
    def gaps(self) -> list[rtx.Gap]:
        return [item for item in self.items if isinstance(item, rtx.Gap)]

    def check(self, *, kept: bool) -> None:
        """`kept`: the server lost nothing that it acknowledged, so that all of it must be here."""
        position: Offset | None = None
        hole = False
        numbers: list[int] = []
        for item in self.items:
            if isinstance(item, rtx.Gap):
                hole = hole or not item.recovered
                assert not (hole and kept), f"the log had it all: {item}"
                continue
            place = Offset(item.epoch, item.seq)
            if position is not None and not hole:
                # Another server, or one started anew, goes on with the numbers in its own epoch.
                assert place.seq == position.seq + 1, f"{place}: {position}"
            position, hole = place, False
            numbers.append(number_of(item))
            acked = self.published.acked.get(numbers[-1], place)
            assert acked == place, f"published at {acked}, received at {place}"
        assert len(numbers) == len(set(numbers)), "a message came twice"
        assert not self.published.refused.intersection(numbers), "said not to be published"
        if kept:
            missed = self.published.acked.keys() - set(numbers)
            assert not missed, f"{sorted(missed)} were acknowledged and never came"


def number_of(item: rtx.Execution | rtx.Alert) -> int:
    return item.order_id if isinstance(item, rtx.Execution) else int(item.message)


class Following:
    """Subscriptions of every kind in one layer, fed by another; see `following`."""

    def __init__(self, layer: rtx.DataLayer, feed: rtx.DataLayer, symbols: Sequence[str]) -> None:
        self.layer = layer
        self.feed = feed
        self.symbols = symbols
        self.published = Outcomes()
        market = layer.market_data
        self.ticks = [Ticks(market.subscribe(*symbols), self.published)]
        if not layer.hub.sharded:
            self.ticks.append(Ticks(market.subscribe("*"), self.published))
        self.fills = [Log(layer.executions.subscribe(account)) for account in (1, 2)]
        self.alerts = Log(layer.alerts.subscribe("system"))
        self._ending = asyncio.Event()

    @property
    def logs(self) -> list[Log]:
        return [*self.fills, self.alerts]

    @property
    def gaps(self) -> list[rtx.Gap]:
        """All gaps that any subscription was told of."""
        return [gap for each in [*self.ticks, *self.logs] for gap in each.gaps]

    @property
    def told(self) -> bool:
        """Whether every subscription was told of a gap."""
        return all(each.gaps for each in [*self.ticks, *self.logs])

    async def publish_ticks(self) -> None:
        while not self._ending.is_set():
            number = self.published.sent + 1
            await self.published.publish(
                self.feed.market_data.publish_many(
                    [rtx.Tick(n, time=number, bid=1.0, ask=1.1, lp=LP) for n in self.symbols]
                )
            )
            await asyncio.sleep(PAUSE)

    async def publish_fills(self, account: int) -> None:
        log = self.fills[account - 1]
        while not self._ending.is_set():
            fill = rtx.Execution(log.published.sent + 1, 9, "EURUSD", "BUY", 1.0, 1.1)
            await log.published.publish(self.feed.executions.publish(account, fill))
            await asyncio.sleep(PAUSE)

    async def publish_alerts(self) -> None:
        published = self.alerts.published
        while not self._ending.is_set():
            alert = rtx.Alert("halt", "info", str(published.sent + 1))
            await published.publish(self.feed.alerts.publish("system", alert))
            await asyncio.sleep(PAUSE)

    async def back(self, within: float = 15.0) -> None:
        """Return when every subscription has heard what was published after this call."""
        ticks = self.published.sent
        logs = [log.published.sent for log in self.logs]
        await eventually(
            lambda: (
                all(each.heard(ticks, self.symbols) for each in self.ticks)
                and all(log.newest > sent for log, sent in zip(self.logs, logs, strict=True))
            ),
            within,
        )

    async def end(self) -> None:
        """Publish no more, and return when what was acknowledged last has arrived."""
        self._ending.set()

        def arrived() -> bool:
            last = max(self.published.acked)
            return all(each.heard(last - 1, self.symbols) for each in self.ticks) and all(
                log.newest >= max(log.published.acked) for log in self.logs
            )

        await eventually(arrived)

    def check(self, *, kept: bool = True, prices_first: bool = True) -> None:
        stored = prices_first and not self.feed.market_data.stats.prices_not_stored
        for ticks in self.ticks:
            ticks.check(stored=stored, ordered=not self.layer.hub.sharded)
        for log in self.logs:
            log.check(kept=kept)

    def report(self) -> str:
        outcomes = [self.published, *(log.published for log in self.logs)]
        errors = sum((each.errors for each in outcomes), Counter[str]())
        return (
            f"{sum(each.sent for each in outcomes)} published, errors {dict(errors)}; "
            f"{len(self.gaps)} gaps told to {len(self.ticks) + len(self.logs)} subscriptions"
        )


@asynccontextmanager
async def following(
    layer: rtx.DataLayer, feed: rtx.DataLayer, symbols: Sequence[str] = ("EURUSD", "GBPUSD", "X")
) -> AsyncIterator[Following]:
    """Subscribe, publish until the context ends, and wait for the last messages."""
    follower = Following(layer, feed, symbols)
    subscriptions = [each.subscription for each in [*follower.ticks, *follower.logs]]
    for subscription in subscriptions:
        await subscription.ready()
    consumers = [asyncio.create_task(each.follow()) for each in [*follower.ticks, *follower.logs]]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(follower.publish_ticks())
            for account in (1, 2):
                group.create_task(follower.publish_fills(account))
            group.create_task(follower.publish_alerts())
            try:
                await follower.back()
                yield follower
            finally:
                follower._ending.set()
        await follower.end()
    finally:
        for subscription in subscriptions:
            await subscription.close()
        await asyncio.gather(*consumers)
