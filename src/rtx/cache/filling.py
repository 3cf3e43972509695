"""What happens on a miss: one load for all who wait, stored only if it is still right.

Who asks for a value that is being filled joins that flight. It may take what the flight gets only
if it joined before the request left that the value comes from: then every write that had returned
when it began is in the value. Otherwise it looks again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import count
from typing import Generic, TypeVar

from rtx.cache.breaker import Breaker
from rtx.cache.contract import CacheStats, Found
from rtx.cache.loading import Loading
from rtx.cache.remote import Remote
from rtx.cache.trip import Flight, Trip
from rtx.errors import DatabaseUnavailable, anew
from rtx.models import Versioned

K = TypeVar("K")
V = TypeVar("V")

_TRIES = 3


class Filler(Generic[K, V]):
    """Fills one cache. Flights are tasks of its own; cancelling a reader harms no other.

    `patience`, in seconds, is what the server gets of one read; `lease` as in the settings.
    """

    def __init__(
        self,
        remote: Remote,
        breaker: Breaker,
        key: Callable[[K], str],
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        stats: CacheStats,
        *,
        patience: float,
        lease: float,
    ) -> None:
        self.remote = remote
        self.breaker = breaker
        self.key = key
        self.encode = encode
        self.decode = decode
        self.stats = stats
        self.patience = patience
        self.lease = lease
        self._flights: dict[K, Flight[V]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.moments = count()
        self.process = secrets.token_hex(8)
        self._closed = False

    async def close(self) -> None:
        """End all flights; there are no others after that."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def detach(self, ids: Iterable[K]) -> None:
        """Let nobody join the flights of these any more: they have been changed."""
        for id in ids:
            self._flights.pop(id, None)

    async def find(
        self,
        ids: Sequence[K],
        loads: Loading[K, V],
        spent: float = 0.0,
        unreadable: Mapping[str, bytes] | None = None,
        *,
        ask: bool = True,
    ) -> dict[K, Found[V]]:
        """Values that the server did not have: from there after all, or loaded and stored.

        `spent` seconds of the read have gone already; `unreadable` has raw values by key that
        are no values. Unless `ask`, the server is left alone. Raises what the loader raises.
        """
        if self._closed:
            raise DatabaseUnavailable("the data layer is closed; open it before you read")
        found: dict[K, Found[V]] = {}
        left = ids
        for _ in range(_TRIES):
            moment = next(self.moments)
            flights = {id: flight for id in left if (flight := self._flights.get(id)) is not None}
            new = {id: Flight[V]() for id in left if id not in flights}
            if new:
                self._flights.update(new)
                self.own(Trip(self, new, loads, spent, dict(unreadable or {})).run(ask=ask))
            await asyncio.wait([flight.done for flight in (flights | new).values()])
            for id, flight in new.items():
                found[id] = _outcome(flight)
            for id, flight in flights.items():
                outcome = _outcome(flight)
                if moment < outcome.moment:
                    found[id] = outcome
            left = [id for id in left if id not in found]
            if not left:
                return found
        return found | await self.load(left, loads)

    async def load(self, ids: Sequence[K], loads: Loading[K, V]) -> dict[K, Found[V]]:
        """What the database has, without a look at the server or a word to it."""
        moment = next(self.moments)
        values = await loads.load(ids)
        return {id: _found(values.get(id), moment) for id in ids}

    def refresh(self, id: K, loads: Loading[K, V]) -> None:
        """Load and store a value anew in the background, while readers keep the one there is."""
        if id not in self._flights and not self._closed:
            self._flights[id] = flight = Flight[V]()
            self.own(Trip(self, {id: flight}, loads, 0.0, {}, refresh=True).run())

    def own(self, work: Coroutine[object, object, None]) -> None:
        """Run this as a task that ends with the filler."""
        task = asyncio.create_task(work, name="rtx-fill")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def settle(self, flights: Mapping[K, Flight[V]]) -> None:
        """Let nobody join these flights any more."""
        for id, flight in flights.items():
            if self._flights.get(id) is flight:
                del self._flights[id]


def _found(loaded: Versioned[V] | None, moment: int) -> Found[V]:
    if loaded is None:
        return Found(None, 0, "database", moment)
    return Found(loaded.value, loaded.version, "database", moment)


def _outcome(flight: Flight[V]) -> Found[V]:
    outcome = flight.outcome
    if isinstance(outcome, Found):
        return outcome
    raise anew(outcome) if outcome is not None else RuntimeError("a flight never landed")
