"""What a limit must answer: the plainest sliding log there can be, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

ALLOWED, NEVER = 0, -1


@dataclass
class Oracle:
    """Times in microseconds. `hits` has at least those that count, in order."""

    hits: list[int] = field(default_factory=list)

    def decide(
        self, now: int, limit: int, window: int, cost: int, *, take: bool
    ) -> tuple[int, int, int, int]:
        """Wait (`ALLOWED`, `NEVER`, or until it fits), hits left, until none counts, and the time.

        A clock that was set back stands still until it has caught up with the newest hit.
        """
        if self.hits:
            now = max(now, self.hits[-1])
        live = self.hits
        if live and now - live[0] >= window:
            live = [hit for hit in live if now - hit < window]
        used = len(live)
        reset = window - (now - live[-1]) if used else 0
        left = max(0, limit - used)
        if cost > limit:
            return NEVER, left, reset, now
        if used + cost > limit:
            return live[used + cost - limit - 1] + window - now, left, reset, now
        if not take:
            return ALLOWED, left, reset, now
        self.hits = [*live, *[now] * cost]
        return ALLOWED, left - cost, window, now

    def refund(self, now: int, window: int, cost: int, at: int) -> int:
        """Hits given back: of the time `at`, or the oldest if it is -1; only those that count."""
        if self.hits:
            now = max(now, self.hits[-1])
        places = [
            place for place, hit in enumerate(self.hits) if now - hit < window and at in (-1, hit)
        ][:cost]
        self.hits = [hit for place, hit in enumerate(self.hits) if place not in set(places)]
        return len(places)
