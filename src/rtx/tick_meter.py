"""Which ticks come in, by provider and symbol: how many, when the last one came, how old it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rtx.models import Tick

_SERIES = 500
"""Pairs of provider and symbol that are kept apart: more would fill Prometheus, not a dashboard."""

_OTHER = ("other", "other")


@dataclass(slots=True)
class Stream:
    """The ticks of one symbol from one provider; `came_at` (epoch s) is of the last one."""

    last: Tick
    count: int = 0
    came_at: float = 0.0

    @property
    def lag(self) -> float:
        """How old the last one was then (seconds), by its own time: a replay's is in the past."""
        return max(0.0, self.came_at - self.last.time / 1000)


class TickMeter:
    """Counts the ticks of feeds by (provider, symbol).

    The first 500 pairs are kept apart; what comes later is counted as `other` together.
    """

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], Stream] = {}

    def came(self, ticks: Sequence[Tick]) -> None:
        """These have come in, in their order."""
        now = time.time()
        streams = self.streams
        for tick in ticks:
            stream = streams.get((tick.lp, tick.symbol)) or self._new(tick)
            stream.count += 1
            stream.last = tick
            stream.came_at = now

    def _new(self, tick: Tick) -> Stream:
        pair = (tick.lp, tick.symbol)
        if len(self.streams) >= _SERIES:
            pair = _OTHER
        return self.streams.setdefault(pair, Stream(tick))
