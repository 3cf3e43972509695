"""How long things took: quantiles to 1 %, and bars of text, from counts that take no more room."""

from __future__ import annotations

import math

_STEP = math.log(1.01)  # a bucket is 1 % wide, so a quantile is at most that much too high
_LEAST = 1e-7  # seconds; what is below counts as this
_EDGES = tuple(mantissa * 10.0**power for power in range(-6, 2) for mantissa in (1, 2, 5))


class Histogram:
    """Counts of seconds; `least`, `most` and `mean` are exact, quantiles within 1 %."""

    __slots__ = ("_buckets", "count", "least", "most", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = 0.0

    def take(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        place = math.ceil(math.log(max(seconds, _LEAST)) / _STEP)
        self._buckets[place] = self._buckets.get(place, 0) + 1

    @property
    def mean(self) -> float:
        """In seconds; 0 when nothing was counted."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """In seconds: the smallest value that this share of all does not exceed; 0 without any."""
        left = max(math.ceil(self.count * share), 1)
        for place in sorted(self._buckets):
            left -= self._buckets[place]
            if left <= 0:
                return min(max(math.exp(place * _STEP), self.least), self.most)
        return self.most

    def ranges(self) -> list[tuple[float, float, int]]:
        """Counts by range (above, up to, how many) in steps of 1, 2, 5; none is empty at the ends.

        A value within 1 % of a range's end may be counted in the next one.
        """
        if not self.count:
            return []
        counts = [0] * (len(_EDGES) + 1)
        for place, number in self._buckets.items():
            value = min(max(math.exp(place * _STEP), self.least), self.most)
            counts[next((i for i, edge in enumerate(_EDGES) if value <= edge), -1)] += number
        first = next(i for i, number in enumerate(counts) if number)
        last = max(i for i, number in enumerate(counts) if number)
        edges = (0.0, *_EDGES, math.inf)
        return [(edges[i], edges[i + 1], counts[i]) for i in range(first, last + 1)]

    def bars(self, width: int, mark: str) -> list[str]:
        """A line for each range, at most `width` wide: its end, a bar, count and share."""
        lines: list[str] = []
        ranges = self.ranges()
        most = max((number for _, _, number in ranges), default=0)
        room = max(width - 36, 1)
        for above, upto, number in ranges:
            end = f"over {short(above)}" if math.isinf(upto) else f"to {short(upto)}"
            bar = mark * math.ceil(room * number / most)
            lines.append(f"{end:>12}  {bar:<{room}} {number:>9,} {number / self.count:>7.2%}")
        return lines


def short(seconds: float) -> str:
    """`87 µs`, `1.25 ms`, `2.1 s`: three figures at most before it is rounded."""
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{seconds:,.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"
