"""Ticks that wait to be written, and what becomes of them where there is no more room."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Literal

from rtx.models import Tick

DropPolicy = Literal["conflate", "drop_oldest"]
"""What a full queue does: keep the latest tick of each symbol alone, or drop the oldest of all."""


class Backlog:
    """A queue in the order of arrival that makes room by its policy; it counts what it drops.

    `conflate`: a full queue is reduced to the latest tick of each symbol, and stays so until it has
    been written. Where that makes no room, because there are more symbols than places, the oldest
    goes. `drop_oldest`: the oldest goes. Reasons: `conflated` for a tick that a later one of its
    symbol has replaced, `overflow` for others.
    """

    def __init__(self, policy: DropPolicy, dropped: Counter[str]) -> None:
        self._policy = policy
        self._dropped = dropped
        self._ticks: deque[Tick] = deque()
        self._latest: OrderedDict[str, Tick] = OrderedDict()  # instead, once it was full

    def __len__(self) -> int:
        return len(self._ticks) or len(self._latest)

    def put(self, tick: Tick, has_room: bool) -> None:
        """Add a tick; without room another goes, unless this is the only one."""
        if has_room and not self._latest:
            self._ticks.append(tick)
            return
        if self._policy == "drop_oldest":
            if self._ticks:
                self._ticks.popleft()
                self._dropped["overflow"] += 1
            self._ticks.append(tick)
            return
        if self._ticks:
            ticks, self._ticks = self._ticks, deque()
            for each in ticks:
                self._replace(each)
            has_room = len(self._latest) < len(ticks)
        if not self._replace(tick) and not has_room and len(self._latest) > 1:
            self._latest.popitem(last=False)
            self._dropped["overflow"] += 1

    def take(self, most: int) -> list[Tick]:
        """Remove the oldest, at most so many."""
        if self._latest:
            if len(self._latest) <= most:
                ticks = [*self._latest.values()]
                self._latest.clear()
                return ticks
            return [self._latest.popitem(last=False)[1] for _ in range(most)]
        if len(self._ticks) <= most:
            ticks = [*self._ticks]
            self._ticks.clear()
            return ticks
        return [self._ticks.popleft() for _ in range(most)]

    def restore(self, ticks: Iterable[Tick], size: int) -> None:
        """Put back what was taken and not written, before the rest; `size` bounds both."""
        conflated = bool(self._latest)
        everything = [*ticks, *self.take(len(self))]
        for tick in everything:
            if conflated:
                self._replace(tick)
            else:
                self.put(tick, len(self) < size)
        while len(self._latest) > size:
            self._latest.popitem(last=False)
            self._dropped["overflow"] += 1

    def _replace(self, tick: Tick) -> bool:
        """Make a tick the latest of its symbol; whether there was one before."""
        replaced = self._latest.pop(tick.symbol, None) is not None
        self._latest[tick.symbol] = tick
        if replaced:
            self._dropped["conflated"] += 1
        return replaced
