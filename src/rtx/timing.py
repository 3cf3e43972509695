"""How long things take, counted in buckets of plain integers, cheap enough for hot paths."""

from __future__ import annotations

import time
from bisect import bisect_left
from operator import attrgetter

BOUNDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
    1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper ends of the buckets in seconds.

They start at 50 µs: a GET on loopback takes about that, of which
OpenTelemetry's first bucket of 1 ms would show nothing.
"""


class Timing:
    """A histogram of seconds: `counts` has one number for each of `BOUNDS` and one for the rest."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        """The sum of all, in seconds."""

    def take(self, seconds: float) -> None:
        """Count one; less than nothing, which two clocks can make of it, counts as nothing."""
        seconds = seconds if seconds > 0.0 else 0.0
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Lag(Timing):
    """How old messages are when they come in, by the clocks of their writer and of this machine.

    `stamp` is their field with the writer's time, in epoch milliseconds.
    """

    __slots__ = ("_stamp",)

    def __init__(self, stamp: str) -> None:
        super().__init__()
        self._stamp = attrgetter(stamp)

    def came(self, message: object) -> None:
        """A message has come in."""
        self.take(time.time() - self._stamp(message) / 1000.0)
