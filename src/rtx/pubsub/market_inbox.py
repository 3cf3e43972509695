"""A market-data consumer's queue: snapshot first, then live ticks, by the consumer's policy."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from rtx.errors import SubscriptionClosed
from rtx.models import Price, Tick
from rtx.pubsub.base import Gap, Inbox, Policy

_SLOW = "the consumer is slow"
_its_symbol = attrgetter("symbol")
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
    listeners: int = 0
    handled: int = 0
    handler_errors: int = 0
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
        self._stats = stats
        self._read_snapshot = read_snapshot
        self._latest: dict[str, Tick] = {}
        self._snapshot: dict[str, Price] = {}  # prices whose own tick has not come yet
        self._snapshot_until = 0.0
        self._held: deque[Tick] | None = deque()
        self._lost: set[str] | None = None  # whose ticks are held; None for all
        self._held_skipped = 0
        self._broken: tuple[float, str] | None = None
        self._seen: dict[str, int] = {}  # time of the last tick before a break, by symbol

    def deliver_many(self, messages: Sequence[Any]) -> None:
        if self._held is None and not self._snapshot:
            self._accept(messages)  # nearly always
        else:
            for tick in messages:
                self.deliver(tick)
        if self._waiter is not None:
            self.wake()

    def deliver(self, tick: Any) -> None:  # a Tick: a cast would cost a call for each
        if self._held is None or (self._lost is not None and tick.symbol not in self._lost):
            if not self._snapshot or not self._snapshot_has(tick):
                self._accept((tick,))
            return
        if len(self._held) >= self.queue_size:
            self._held.popleft()
            self._held_skipped += 1
        self._held.append(tick)

    def _accept(self, ticks: Sequence[Tick]) -> None:
        if self.ended:
            return
        count = len(ticks)
        self._stats.delivered += count
        if self._policy == "latest":
            latest = self._latest
            before = len(latest)
            latest.update(zip(map(_its_symbol, ticks), ticks, strict=True))
            replaced = count - (len(latest) - before)
            self.conflated += replaced
            self._stats.conflated += replaced
            return
        over = len(self.queue) + count - self.queue_size
        if over <= 0:
            self.queue.extend(ticks)
        elif self._policy == "every":
            self.queue.extend(self._drop_oldest(min(over, count), ticks))
        else:
            self._accept_or_end(ticks)

    def _accept_or_end(self, ticks: Iterable[Tick]) -> None:
        room = self.queue_size - sum(isinstance(item, Tick) for item in self.queue)
        for tick in ticks:
            if room <= 0:
                self.end(
                    SubscriptionClosed(
                        f"the consumer fell {self.queue_size} ticks behind; read faster, or "
                        'subscribe with policy="latest"'
                    )
                )
                return
            self.queue.append(tick)
            room -= 1

    def _drop_oldest(self, count: int, ticks: Sequence[Tick]) -> Sequence[Tick]:
        """Drop this many of the oldest, queued or to be queued; returns what is left of the latter.

        A notice in their place says so, together with what was dropped before.
        """
        queue = self.queue
        notices: list[Gap] = []
        dropped = 0
        while queue and dropped < count:
            item = queue.popleft()
            if isinstance(item, Gap):
                notices.append(item)
            else:
                dropped += 1
        too_many = max(0, len(ticks) - self.queue_size) if dropped < count else 0
        dropped += too_many
        if dropped:
            self.skipped += dropped
            self._stats.skipped += dropped
            notices.append(Gap(self._channel, _SLOW, skipped=dropped))
        for lost in (False, True):  # in the end what was skipped stands first, then the break
            alike = [notice for notice in notices if bool(notice.skipped) is lost]
            if alike:
                queue.appendleft(reduce(_joined, alike))
        return ticks[too_many:]

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

    def down(self, cause: str, lost: Mapping[str, object]) -> None:
        self.generation += 1
        symbols = {self._symbol_of[name] for name in lost}
        for newest in lost.values():
            if isinstance(newest, Tick):
                self._seen[newest.symbol] = newest.time
        if len(lost) == len(self._symbol_of):
            self._held, self._held_skipped, self._lost = deque(), 0, None
        elif self._held is None:  # the others stay live
            self._held, self._lost = deque(), symbols
        else:
            self._held = deque(tick for tick in self._held if tick.symbol not in symbols)
            if self._lost is not None:
                self._lost |= symbols
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
        # In a cluster the node with a price may have been away while the ticks went on.
        prices = [price for price in prices if price.time >= self._seen.get(price.symbol, 0)]
        self._seen.clear()
        self._accept(
            [Tick(each.symbol, time=each.time, bid=each.bid, ask=each.ask) for each in prices]
        )
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
        self._accept(self._after_snapshot(held))
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
