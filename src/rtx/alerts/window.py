"""The lowest and the highest of the last seconds, in constant time a tick on average."""

from __future__ import annotations

from collections import deque

_AT_MOST = 100_000
"""Entries of either side; only a price that runs one way for so many ticks has more."""


class Window:
    """How far a price has moved within `seconds`, in percent of where it came from.

    Two queues hold the prices that may yet be the lowest, the highest: each new price drops those
    it makes hopeless. Times are epoch milliseconds and never fall.
    """

    __slots__ = ("_highs", "_lows", "_span", "_whole_at", "cut")

    def __init__(self, seconds: float) -> None:
        self._span = round(seconds * 1000)
        self._lows: deque[tuple[int, float]] = deque()
        self._highs: deque[tuple[int, float]] = deque()
        self._whole_at: int | None = None
        self.cut = 0
        """How often the oldest prices were dropped because there were too many."""

    def restart(self) -> None:
        """Forget what came before a break."""
        self._lows.clear()
        self._highs.clear()
        self._whole_at = None

    def whole(self, time: int) -> bool:
        """Whether the window lies behind the last restart; else a move may be larger than known."""
        return self._whole_at is not None and time >= self._whole_at

    def add(self, time: int, price: float) -> tuple[float, float]:
        """Percent up from the lowest, and down from the highest, with this price among them."""
        if self._whole_at is None:
            self._whole_at = time + self._span
        lows, highs = self._lows, self._highs
        while lows and lows[-1][1] >= price:
            lows.pop()
        lows.append((time, price))
        while highs and highs[-1][1] <= price:
            highs.pop()
        highs.append((time, price))
        begin = time - self._span
        while lows[0][0] < begin:
            lows.popleft()
        while highs[0][0] < begin:
            highs.popleft()
        if len(lows) > _AT_MOST or len(highs) > _AT_MOST:
            (lows if len(lows) > _AT_MOST else highs).popleft()
            self.cut += 1
        low, high = lows[0][1], highs[0][1]
        return (price - low) / low * 100, (high - price) / high * 100
