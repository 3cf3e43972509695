"""A market-data consumer's queue: snapshot first, then live ticks, by the consumer's policy."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rtx.errors import SubscriptionClosed
from rtx.models import Price, Tick
from rtx.pubsub.base import Gap, Inbox, Policy


@dataclass(slots=True)
class MarketDataStats:
    """Counters since the layer was opened."""

    published: int = 0
    prices_stored: int = 0
    prices_not_stored: int = 0
    delivered: int = 0
    conflated: int = 0
    skipped: int = 0
    gaps: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class MarketInbox(Inbox[Tick]):
    """Holds live ticks back until the snapshot has been read, then keeps to its policy."""

    def __init__(
        self,
        *,
        channel: str,
        symbols: tuple[str, ...],
        policy: Policy,
        queue_size: int,
        stats: MarketDataStats,
        release: Callable[[Inbox[Tick]], None],
        read_snapshot: Callable[[MarketInbox], None],
    ) -> None:
        super().__init__(queue_size, release)
        self.symbols = symbols
        """Symbols to read a snapshot of; none when there is to be no snapshot."""
        self.generation = 0
        """Counts the breaks, so that a snapshot begun before one is not used after it."""
        self._channel = channel
        self._policy = policy
        self._stats = stats
        self._read_snapshot = read_snapshot
        self._latest: dict[str, Tick] = {}
        self._held: deque[Tick] | None = deque()
        self._held_skipped = 0
        self._broken: tuple[float, str] | None = None

    def deliver(self, message: object) -> None:
        assert isinstance(message, Tick)
        if self._held is None:
            self._accept(message)
            self.wake()
            return
        if len(self._held) >= self.queue_size:
            self._held.popleft()
            self._held_skipped += 1
        self._held.append(message)

    def _accept(self, tick: Tick) -> None:
        self._stats.delivered += 1
        if self._policy == "latest":
            if tick.symbol in self._latest:
                self.conflated += 1
                self._stats.conflated += 1
            self._latest[tick.symbol] = tick
        elif len(self.queue) < self.queue_size:
            self.queue.append(tick)
        elif self._policy == "every":
            self._drop_oldest()
            self.queue.append(tick)
        else:
            self.end(
                SubscriptionClosed(
                    f"the consumer fell {self.queue_size} ticks behind; read faster, or subscribe "
                    'with policy="latest"'
                )
            )

    def _drop_oldest(self) -> None:
        """Drop the oldest tick and say so in its place, together with what was dropped before."""
        gaps: list[Gap] = []
        while isinstance(item := self.queue.popleft(), Gap):
            gaps.append(item)
        skipped = 1 + sum(gap.skipped for gap in gaps)
        self.skipped += 1
        self._stats.skipped += 1
        breaks = [gap for gap in gaps if not gap.skipped]
        notice = Gap(self._channel, "the consumer is slow", skipped=skipped)
        self.queue.extendleft([notice, *reversed(breaks)])

    def refill(self) -> None:
        if self._latest:
            self.queue.extend(self._latest.values())
            self._latest.clear()

    def up(self) -> None:
        if self.symbols:
            self._read_snapshot(self)
        else:
            self.go_live([])

    def down(self, cause: str) -> None:
        self.generation += 1
        self._held = deque()
        self._held_skipped = 0
        if self._broken is None:
            self._broken = (time.monotonic(), cause)

    def go_live(self, prices: list[Price]) -> None:
        """Queue the gap if there was one, the snapshot, and of the held ticks those after it."""
        held, self._held = self._held or (), None
        if self._broken is not None and self.ready.is_set():
            since, cause = self._broken
            self.refill()
            self.queue.append(Gap(self._channel, cause, time.monotonic() - since))
            self._stats.gaps += 1
        self._broken = None
        for price in prices:
            self._accept(Tick(price.symbol, time=price.time, bid=price.bid, ask=price.ask))
        if self._held_skipped and self._policy != "latest":
            self.skipped += self._held_skipped
            self._stats.skipped += self._held_skipped
            self.queue.append(
                Gap(self._channel, "more ticks than the queue holds", skipped=self._held_skipped)
            )
        self._held_skipped = 0
        for tick in _after_snapshot(held, {price.symbol: price for price in prices}):
            self._accept(tick)
        self.ready.set()
        self.wake()


def _after_snapshot(held: Iterable[Tick], prices: dict[str, Price]) -> list[Tick]:
    """The ticks that came after the snapshot was taken.

    The snapshot is itself one of the ticks: where it is among the held ones, what came up to it is
    dropped; where it is not, what is older than it by its own time.
    """
    ticks = list(held)
    place: dict[str, int] = {}
    for index, tick in enumerate(ticks):
        price = prices.get(tick.symbol)
        if price and (tick.time, tick.bid, tick.ask) == (price.time, price.bid, price.ask):
            place[tick.symbol] = index
    return [
        tick
        for index, tick in enumerate(ticks)
        if (price := prices.get(tick.symbol)) is None
        or (index > place[tick.symbol] if tick.symbol in place else tick.time >= price.time)
    ]
