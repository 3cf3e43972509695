"""Servers that do not answer: one hit at a time finds out, all others are decided without them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rtx.errors import CallTimeout, PoolExhausted, RtxError

_log = logging.getLogger("rtx.ratelimit")

_TRY_EVERY = 0.25
_FORGOTTEN_AFTER = 5.0  # without a failure: whether it lasted all the while, nobody knows


@dataclass(slots=True)
class Outage:
    """A server without answers; times by the monotonic clock.

    Until `closed_until` nobody asks it. `since`: when it began, as far as is known.
    """

    reason: str
    since: float
    last: float
    closed_until: float = 0.0


class Outages:
    """The outages of now, by place: a cluster's slot, or all of a single server.

    A hit that the server did not decide begins one, and any decision of the server ends it. After
    a hit that waited in vain, one hit in 0.25 s tries again, and the others do not wait. Where
    errors come at once, such as from a server that refuses connections, every hit tries.
    """

    def __init__(self, place_of: Callable[[str], int]) -> None:
        self._place_of = place_of
        self.found: dict[int, Outage] = {}
        """By place; empty at nearly all times, which every hit looks at."""

    def stop(self, key: str) -> Outage | None:
        """The outage that a key's hit would run into; None for the one that is to try."""
        found = self.found.get(self._place_of(key))
        if found is None:
            return None
        now = monotonic()
        if now < found.closed_until:
            return found
        if found.closed_until:
            found.closed_until = now + _TRY_EVERY
        return None

    def hurry(self) -> None:
        """There is news of the servers: the next hits try."""
        for found in self.found.values():
            found.closed_until = 0.0

    def failed(self, key: str, error: RtxError) -> Outage:
        """A hit had an error for an answer, or none."""
        place, now = self._place_of(key), monotonic()
        found = self.found.get(place)
        if found is None:
            if not self.found:
                _log.warning("limits are decided without their server: %s", error)
            found = self.found[place] = Outage(error.code, now, now)
        elif now - found.last > _FORGOTTEN_AFTER:
            found.since = now
        found.reason, found.last = error.code, now
        if isinstance(error, CallTimeout | PoolExhausted):  # the others come at once
            found.closed_until = now + _TRY_EVERY
        return found

    def lasts(self, key: str) -> None:
        """A call that was no hit had no answer either: an outage without hits is not forgotten."""
        found = self.found.get(self._place_of(key))
        if found is not None:
            found.last = monotonic()

    def answered(self, key: str) -> None:
        """The server decided a hit."""
        found = self.found.pop(self._place_of(key), None)
        if found is not None and not self.found:
            lasted = monotonic() - found.since
            _log.warning("limits are decided by their server again, after %.1f s", lasted)
