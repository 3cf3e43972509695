"""A market-data consumer's queue: snapshot first, then live ticks, by the consumer's policy."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from msgspec.structs import replace

from rtx.errors import SubscriptionClosed
from rtx.models import Price, Tick
from rtx.pubsub.base import Gap, Inbox, Policy

_SLOW = "the consumer is slow"
_UNDER_WAY = 1.0
"""Seconds after a snapshot in which a tick that is older than it may still be on its way."""


@dataclass(slots=True)
class MarketDataStats:
    """Counters since the layer was opened."""

    published: int = 0
    prices_stored: int = 0
    prices_not_stored: int = 0
    prices_late: int = 0
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
        channels: Mapping[str, str],
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
        self._symbol_of = channels
        self._policy = policy
        self._every = policy != "latest"
        self._stats = stats
        self._read_snapshot = read_snapshot
        self._latest: dict[str, Tick] = {}
        self._snapshot: dict[str, Price] = {}  # prices whose own tick has not come yet
        self._snapshot_until = 0.0
        self._held: deque[Tick] | None = deque()
        self._lost: set[str] | None = None  # whose ticks are held; None for all
        self._held_skipped = 0
        self._broken: tuple[float, str] | None = None

    def deliver_many(self, messages: list[Any]) -> None:
        room = self.queue_size - len(self.queue)
        if self._held is None and not self._snapshot and self._every and len(messages) <= room:
            self.queue.extend(messages)  # nearly always
            self._stats.delivered += len(messages)
        else:
            for tick in messages:
                self.deliver(tick)
        if self._waiter is not None:
            self.wake()

    def deliver(self, tick: Any) -> None:  # a Tick: a cast would cost a call for each
        if self._held is None or (self._lost is not None and tick.symbol not in self._lost):
            if self._snapshot and self._snapshot_has(tick):
                return
            self._accept(tick)
            return
        if len(self._held) >= self.queue_size:
            self._held.popleft()
            self._held_skipped += 1
        self._held.append(tick)

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
        elif sum(isinstance(item, Tick) for item in self.queue) < self.queue_size:
            self.queue.append(tick)  # notices take no room
        else:
            self.end(
                SubscriptionClosed(
                    f"the consumer fell {self.queue_size} ticks behind; read faster, or subscribe "
                    'with policy="latest"'
                )
            )

    def _drop_oldest(self) -> None:
        """Drop the oldest tick and say so in its place, together with what was dropped before."""
        notices: list[Gap] = []
        while self.queue and isinstance(item := self.queue[0], Gap):
            notices.append(item)
            self.queue.popleft()
        if self.queue:
            self.queue.popleft()
            self.skipped += 1
            self._stats.skipped += 1
            notices.append(Gap(self._channel, _SLOW, skipped=1))
        for lost in (False, True):  # in the end what was skipped stands first, then the break
            alike = [notice for notice in notices if bool(notice.skipped) is lost]
            if alike:
                self.queue.appendleft(reduce(_joined, alike))

    def _tell(self, notice: Gap) -> None:
        """Queue a notice, or add it to one of its kind that is last there."""
        last = self.queue[-1] if self.queue else None
        if isinstance(last, Gap) and bool(last.skipped) is bool(notice.skipped):
            self.queue[-1] = _joined(last, notice)
        else:
            self.queue.append(notice)

    def _snapshot_has(self, tick: Tick) -> bool:
        """Whether the snapshot was newer than a tick that came after it."""
        if time.monotonic() > self._snapshot_until:
            self._snapshot.clear()
        price = self._snapshot.get(tick.symbol)
        if price is None:
            return False
        if tick.time < price.time:
            return True
        del self._snapshot[tick.symbol]
        return _is_tick_of(price, tick)

    def refill(self) -> None:
        if self._latest:
            self.queue.extend(self._latest.values())
            self._latest.clear()

    @property
    def unsynced(self) -> tuple[str, ...]:
        """The symbols to read a snapshot of now."""
        lost = self._lost
        return self.symbols if lost is None else tuple(s for s in self.symbols if s in lost)

    def up(self) -> None:
        if self.unsynced:
            self._read_snapshot(self)
        else:
            self.go_live([])

    def down(self, cause: str, channels: Sequence[str]) -> None:
        self.generation += 1
        lost = {self._symbol_of[name] for name in channels}
        if len(channels) == len(self._symbol_of):
            self._held, self._held_skipped, self._lost = deque(), 0, None
        elif self._held is None:  # the others stay live
            self._held, self._lost = deque(), lost
        else:
            self._held = deque(tick for tick in self._held if tick.symbol not in lost)
            if self._lost is not None:
                self._lost |= lost
        if self._broken is None:
            self._broken = (time.monotonic(), cause)

    def go_live(self, prices: list[Price]) -> None:
        """Queue the gap if there was one, the snapshot, and of the held ticks those after it."""
        held, self._held = self._held or (), None
        if self._broken is not None and self.ready.is_set():
            since, cause = self._broken
            if not self.queue:
                self.refill()
            self._tell(Gap(self._channel, cause, time.monotonic() - since))
            self._stats.gaps += 1
        self._broken = None
        for price in prices:
            self._accept(Tick(price.symbol, time=price.time, bid=price.bid, ask=price.ask))
        if self._held_skipped and self._policy != "latest":
            self.skipped += self._held_skipped
            self._stats.skipped += self._held_skipped
            self._tell(Gap(self._channel, _SLOW, skipped=self._held_skipped))
        self._held_skipped = 0
        for symbol in [*self._snapshot] if self._lost is None else self._lost:
            self._snapshot.pop(symbol, None)
        self._lost = None
        self._snapshot.update((price.symbol, price) for price in prices)
        self._snapshot_until = time.monotonic() + _UNDER_WAY
        for tick in self._after_snapshot(held):
            self._accept(tick)
        self.ready.set()
        self.wake()

    def _after_snapshot(self, held: Iterable[Tick]) -> list[Tick]:
        """The held ticks that came after the snapshot was taken.

        The snapshot is itself one of the ticks: where it is among the held ones, what came up to
        it is dropped; where it is not, what is older than it by its own time.
        """
        ticks = list(held)
        place: dict[str, int] = {}
        for index, tick in enumerate(ticks):
            price = self._snapshot.get(tick.symbol)
            if price and _is_tick_of(price, tick):
                place[tick.symbol] = index
        after = [
            tick
            for index, tick in enumerate(ticks)
            if (price := self._snapshot.get(tick.symbol)) is None
            or (index > place[tick.symbol] if tick.symbol in place else tick.time >= price.time)
        ]
        for symbol in place:
            del self._snapshot[symbol]
        return after


def _is_tick_of(price: Price, tick: Tick) -> bool:
    return (tick.time, tick.bid, tick.ask) == (price.time, price.bid, price.ask)


def _joined(one: Gap, other: Gap) -> Gap:
    """Two notices, with nothing between them, as one."""
    return replace(
        other, duration=one.duration + other.duration, skipped=one.skipped + other.skipped
    )
