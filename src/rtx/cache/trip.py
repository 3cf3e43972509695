"""A group of ids that were missed together: from the claim to fill them until each has landed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, repeat
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from rtx.cache.contract import Found
from rtx.cache.loading import Loading
from rtx.cache.remote import Claim, State
from rtx.errors import DatabaseUnavailable, RtxError, ServerBusy, ServerError, Unavailable
from rtx.wire import Reply

if TYPE_CHECKING:
    from rtx.cache.filling import Filler

K = TypeVar("K")
V = TypeVar("V")

LEAST = 0.01
"""Seconds that a step gets when the steps before it have used up the read's time."""

UNREADABLE = Exception
"""What decoders raise for a value that is none, those of users whatever they like."""

_PAUSES = (0.005, 0.01, 0.02, 0.04, 0.05)
_GIVE_UP_WAITING = 1.25  # leases: a dead holder's is free by then
_RENEW_EVERY = 0.35  # leases
_RENEWED_AT_MOST = 40  # times; a load that takes longer than this is not one load for all any more

pause = asyncio.sleep
"""How a claim that another process holds is waited for."""


class Flight(Generic[V]):
    """One value on its way: `done` when there is an outcome, good for those who joined in time."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.outcome: Found[V] | BaseException | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def land(self, outcome: Found[V] | BaseException) -> None:
        if not self.done.done():
            self.outcome = outcome
            self.done.set_result(None)


class Trip(Generic[K, V]):
    """Ids that were missed together, from the claim to fill them until each flight has landed."""

    def __init__(
        self,
        filler: Filler[K, V],
        flights: dict[K, Flight[V]],
        loads: Loading[K, V],
        spent: float,
        unreadable: dict[str, bytes],
        *,
        refresh: bool = False,
    ) -> None:
        self._filler = filler
        self._flights = flights
        self._loads = loads
        self._left = filler.patience - spent
        self._unreadable = unreadable
        self._refresh = refresh
        self._token = f"{filler.process}:{next(filler.moments)}"

    async def run(self, *, ask: bool = True) -> None:
        ids = [*self._flights]
        await self._landed(ids, self._claim(ids) if ask else self._load_only(ids))

    async def _landed(self, ids: Iterable[K], work: Coroutine[object, object, None]) -> None:
        """Do a part of it, and leave no flight of these ids in the air when it fails."""
        try:
            await work
        except BaseException as error:
            failed = isinstance(error, Exception)
            outcome = error if failed else DatabaseUnavailable("the data layer was closed")
            flights = {id: self._flights[id] for id in ids}
            self._filler.settle(flights)
            for flight in flights.values():
                flight.land(outcome)
            if not failed:
                raise

    # --- claiming --------------------------------------------------------------------------

    async def _claim(self, waiting: list[K]) -> None:
        filler, stats = self._filler, self._filler.stats
        give_up = monotonic() + filler.lease * _GIVE_UP_WAITING
        held: set[K] = set()
        for seconds in chain(_PAUSES, repeat(_PAUSES[-1])):
            moment, began = next(filler.moments), monotonic()
            try:
                claims = await filler.remote.acquire(
                    map(filler.key, waiting),
                    self._token,
                    max(LEAST, self._left),
                    self._unreadable,
                    refresh=self._refresh,
                )
            except Unavailable as error:
                filler.breaker.failed(filler.key(waiting[0]), error)
                stats.fill_failures += len(waiting)
                await self._load_only(waiting)
                if error.maybe_applied:  # nobody shall wait for a claim that nobody knows of
                    await self._release(waiting)
                return
            busy = [claim for claim in claims if isinstance(claim, ServerBusy)]
            if busy:
                filler.breaker.failed(filler.key(waiting[0]), busy[0])
            else:
                filler.breaker.succeeded()
            self._left -= monotonic() - began
            granted, refused, waiting = self._sorted(waiting, claims, moment)
            stats.fill_failures += len(refused)
            for some, work in ((granted, self._fill), (refused, self._load_only)):
                if some and waiting:
                    filler.own(self._landed(some, work(some)))
                elif some:
                    await work(some)
            if self._refresh:  # somebody else is at it; who has joined looks for themselves
                for id in waiting:
                    self._land(id, Found(None, 0, "redis", -1))
                return
            if not waiting:
                return
            stats.waited += len(set(waiting) - held)
            held.update(waiting)
            if monotonic() >= give_up:
                await self._load_only(waiting)
                return
            await pause(seconds * random.uniform(0.5, 1.0))
            self._left = filler.patience

    def _sorted(
        self, ids: Iterable[K], claims: Iterable[Claim | ServerError], moment: int
    ) -> tuple[list[K], list[K], list[K]]:
        """Land what there is; returns what is ours to fill, what the server refused, the rest."""
        filler, stats = self._filler, self._filler.stats
        granted: list[K] = []
        refused: list[K] = []
        waiting: list[K] = []
        for id, claim in zip(ids, claims, strict=True):
            if isinstance(claim, ServerError):
                refused.append(id)
            elif claim.state is State.GRANTED:
                stats.undecodable += claim.broken
                granted.append(id)
            elif claim.state is State.ABSENT:
                stats.absent_hits += 1
                self._land(id, Found(None, 0, "redis", moment))
            elif claim.state is State.VALUE:
                try:
                    value = filler.decode(claim.raw)
                except UNREADABLE:
                    stats.undecodable += 1
                    self._unreadable[filler.key(id)] = claim.raw
                    waiting.append(id)
                else:
                    self._land(id, Found(value, 0, "redis", moment))
            else:
                waiting.append(id)
        return granted, refused, waiting

    def _land(self, id: K, found: Found[V]) -> None:
        flight = self._flights[id]
        self._filler.settle({id: flight})
        flight.land(found)

    # --- loading ---------------------------------------------------------------------------

    async def _load_only(self, ids: list[K]) -> None:
        """The server takes no fill: load for those who have joined so far."""
        self._filler.settle({id: self._flights[id] for id in ids})
        for id, found in (await self._filler.load(ids, self._loads)).items():
            self._flights[id].land(found)

    async def _fill(self, ids: list[K]) -> None:
        filler, stats = self._filler, self._filler.stats
        loading = asyncio.ensure_future(filler.load(ids, self._loads))
        try:
            for _ in range(_RENEWED_AT_MOST):
                done, _ = await asyncio.wait([loading], timeout=filler.lease * _RENEW_EVERY)
                if done:
                    break
                with suppress(RtxError):
                    keys = map(filler.key, ids)
                    await filler.remote.renew(keys, self._token, filler.patience)
            loaded = await loading
        except Exception as error:
            filler.settle({id: self._flights[id] for id in ids})
            for id in ids:
                self._flights[id].land(error)
            await self._release(ids)
            return
        finally:
            loading.cancel()
        # What is asked from here on may be asked after a write that these values lack.
        filler.settle({id: self._flights[id] for id in ids})
        stored = next(filler.moments)
        failed: list[K] = []
        for id, reply in zip(ids, await self._store(loaded), strict=True):
            found = loaded[id]
            if reply == 1:
                found.moment = stored
                stats.early_refreshes += self._refresh
            elif reply == 0:
                stats.stale_fills_refused += 1
            elif reply == -1:
                stats.older_versions_refused += 1
            else:
                stats.fill_failures += 1
                failed.append(id)
            self._flights[id].land(found)
        if failed:
            await self._release(failed)

    async def _store(self, loaded: Mapping[K, Found[V]]) -> Sequence[Reply]:
        filler = self._filler
        values = [
            (
                filler.key(id),
                None if found.value is None else filler.encode(found.value),
                found.version,
            )
            for id, found in loaded.items()
        ]
        try:
            patience = max(LEAST, self._left)
            return await filler.remote.fill(values, self._token, patience, self._unreadable)
        except Unavailable as error:
            filler.breaker.failed(values[0][0], error)
            return [None] * len(values)

    async def _release(self, ids: Iterable[K]) -> None:
        """Give claims back, for which nobody waits here; after the lease's time they are gone."""
        filler = self._filler
        with suppress(RtxError):
            await filler.remote.release(map(filler.key, ids), self._token, filler.lease)
