"""The contract of a limit: at most so many hits in any window, and what a caller is told.

Guarantees of the exact limit:

- in no window of `per` seconds, wherever it begins, are more than `limit` hits allowed;
- a hit exactly one window old no longer counts;
- a denied call takes nothing; a hit is sent once and never retried;
- time is the server's alone, so the clocks of the callers do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Answer of a limit; times in seconds from now.

    `remaining` hits are left in the window. `retry_after` is when the same call would be allowed: 0
    if it was, infinite if its cost is above the limit. `reset_after` is when all hits are free.
    """

    allowed: bool
    limit: int
    remaining: int
    retry_after: float
    reset_after: float

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(slots=True)
class LimitStats:
    """Counters since the layer was opened."""

    allowed: int = 0
    denied: int = 0
    errors: int = 0
