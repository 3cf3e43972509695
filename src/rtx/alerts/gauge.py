"""One number of a symbol, and the rules that wait for it to pass a level.

The levels are in two heaps, so that a new value is compared with the nearest level of each side
and the rules that are not passed cost nothing: they may be ten or ten thousand.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count

from rtx.alerts.slot import Slot

_Entry = tuple[float, int, int, Slot]
"""Level (negated for falling), number to order equal ones, token, rule."""

_number = count().__next__
_GARBAGE_AT_LEAST = 64


class Gauge:
    """Levels over a value and under it; `top` and `bottom` are the nearest, infinite if none."""

    __slots__ = ("_fall", "_garbage", "_rise", "bottom", "top")

    def __init__(self) -> None:
        self._rise: list[_Entry] = []
        self._fall: list[_Entry] = []
        self._garbage = 0
        self.top = math.inf
        self.bottom = -math.inf

    def watch(self, slot: Slot) -> None:
        """Wait for the value to pass the level of the rule's next step."""
        rising = slot.rising if slot.armed else not slot.rising
        level = slot.fire if slot.armed else slot.clear
        if rising:
            heappush(self._rise, (level, _number(), slot.token, slot))
            self.top = self._rise[0][0]
        else:
            heappush(self._fall, (-level, _number(), slot.token, slot))
            self.bottom = -self._fall[0][0]

    def forget(self) -> None:
        """One rule that is watched has changed; when many have, the heaps are swept."""
        self._garbage += 1
        held = len(self._rise) + len(self._fall)
        if self._garbage > max(_GARBAGE_AT_LEAST, held // 2):
            for heap in (self._rise, self._fall):
                heap[:] = [entry for entry in heap if entry[2] == entry[3].token]
                heapify(heap)
            self._garbage = 0
            self._refresh()

    def passed(self, value: float) -> list[Slot]:
        """Take out the rules whose level the value is beyond."""
        found: list[Slot] = []
        for heap, signed in ((self._rise, value), (self._fall, -value)):
            while heap and signed > heap[0][0]:
                _, _, token, slot = heappop(heap)
                if token == slot.token:
                    found.append(slot)
                else:
                    self._garbage -= 1
        self._refresh()
        return found

    def _refresh(self) -> None:
        self.top = self._rise[0][0] if self._rise else math.inf
        self.bottom = -self._fall[0][0] if self._fall else -math.inf
