"""An exact limit inside this process, for as long as the shared one cannot be asked."""

from __future__ import annotations

from collections import deque

from rtx.ratelimit.base import Id

_MOST = 10_000  # ids; those without hits that count make room


class LocalLog:
    """Times of the hits of each id by this process's monotonic clock."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def look(self, id: Id, cost: int, limit: int, per: float, now: float) -> tuple[int, float]:
        """Hits left, and seconds until the cost fits: 0 now, infinite when it never does."""
        if cost > limit:
            return max(0, limit - len(self._live(id, per, now))), float("inf")
        times = self._live(id, per, now)
        free = limit - len(times) - cost
        if free >= 0:
            return limit - len(times), 0.0
        return max(0, limit - len(times)), times[-free - 1] + per - now

    def take(self, id: Id, cost: int, per: float, now: float) -> bool:
        """Note hits that fit; false when there is no room for another id."""
        name = str(id)
        if name not in self._times:
            if len(self._times) >= _MOST:
                self._drop_idle(per, now)
            if len(self._times) >= _MOST:
                return False
            self._times[name] = deque()
        self._times[name].extend([now] * cost)
        return True

    def give_back(self, id: Id, cost: int) -> None:
        """Undo a `take`. The oldest hits go: others may have come after, and theirs must stay."""
        times = self._times.get(str(id))
        while times and cost:
            times.popleft()
            cost -= 1

    def _live(self, id: Id, per: float, now: float) -> deque[float]:
        times = self._times.get(str(id))
        if times is None:
            return deque()
        while times and now - times[0] >= per:
            times.popleft()
        return times

    def _drop_idle(self, per: float, now: float) -> None:
        idle = [name for name, times in self._times.items() if not times or now - times[-1] >= per]
        for name in idle:
            del self._times[name]
