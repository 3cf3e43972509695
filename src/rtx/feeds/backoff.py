"""How long to wait before the next try to reach a source."""

from __future__ import annotations

import random


class Backoff:
    """Doubling waits between `first` and `longest` seconds, each drawn from its upper half.

    The draw keeps many clients from coming back at the same instant.
    """

    def __init__(self, first: float = 0.5, longest: float = 30.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first
        self._random = random.Random()

    def reset(self) -> None:
        """The source answered: the next failure starts from the first wait."""
        self._next = self._first

    def next(self) -> float:
        """Seconds to wait now."""
        wait = self._next
        self._next = min(wait * 2, self._longest)
        return wait * self._random.uniform(0.5, 1.0)
