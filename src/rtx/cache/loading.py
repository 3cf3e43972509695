"""The only way from a cache to the system of record: gathered, and never too much at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Generic, Protocol, TypeAlias, TypeVar

from rtx.errors import DatabaseUnavailable, anew
from rtx.models import Versioned

K = TypeVar("K")
V = TypeVar("V")

Loader: TypeAlias = Callable[[Sequence[K]], Awaitable[Mapping[K, Versioned[V]]]]
"""Reads values from the system of record with the version of each; absent ids are left out.

A version is that of the value's row, higher with each change, or 0 where rows have none.
"""


class Tally(Protocol):
    """Counts the ids that a database was asked for."""

    loads: int


class Loading(Protocol[K, V]):
    """A way to the system of record."""

    duration: float
    """Seconds that a load takes, smoothed."""

    async def load(self, ids: Sequence[K]) -> dict[K, Versioned[V]]:
        """The values of those ids that exist, as of a moment after the call began."""


_BATCH = 1_000
_WAITING_AT_MOST = 10_000
_SMOOTHING = 0.2


class _Batch(Generic[K, V]):
    """Ids that are read together, and what came of it: the values, or why there are none."""

    def __init__(self) -> None:
        self.ids: dict[K, None] = {}
        self.outcome: asyncio.Future[Mapping[K, Versioned[V]] | BaseException] = (
            asyncio.get_running_loop().create_future()
        )


class Loads(Generic[K, V]):
    """Calls a loader for many readers: those of one turn of the event loop go out together.

    At most `at_once` calls of the loader run; ids that wait for their turn are asked once, however
    many want them, 1,000 together at most. Each request is answered by a call that began
    after it, so that nobody gets a value older than the beginning of the own read. At most 10,000
    ids wait. Cancelling a reader leaves the others alone.
    """

    def __init__(self, load: Loader[K, V], stats: Tally, *, at_once: int) -> None:
        self._load = load
        self._stats = stats
        self._at_once = at_once
        self._queue: deque[_Batch[K, V]] = deque()
        self._waiting: dict[K, _Batch[K, V]] = {}
        self._running: dict[asyncio.Task[None], _Batch[K, V]] = {}
        self._scheduled = False
        self._closed = False
        self.duration = 0.0

    async def close(self) -> None:
        """End the calls that run; who waits gets `DatabaseUnavailable`."""
        self._closed = True
        for task in self._running:
            task.cancel()
        left = [*self._queue, *self._running.values()]
        await asyncio.gather(*self._running, return_exceptions=True)
        self._queue.clear()
        self._waiting.clear()
        for batch in left:
            if not batch.outcome.done():
                batch.outcome.set_result(_closed())

    async def load(self, ids: Sequence[K]) -> dict[K, Versioned[V]]:
        """The values of those ids that exist. Raises what the loader raises, each reader its own.

        Raises `DatabaseUnavailable` when too many ids wait already.
        """
        if not ids:
            return {}
        if self._closed:
            raise _closed()
        waiting = self._waiting
        new = [id for id in ids if id not in waiting]
        if waiting and len(waiting) + len(new) > _WAITING_AT_MOST:
            raise DatabaseUnavailable(
                f"{len(waiting)} ids wait to be read from the database already, which does "
                f"{self._at_once} reads at once; raise cache.max_loads if it can do more, or have "
                "fewer readers"
            )
        for id in new:
            if not self._queue or len(self._queue[-1].ids) >= _BATCH:
                self._queue.append(_Batch())
            batch = self._queue[-1]
            batch.ids[id] = None
            waiting[id] = batch
        batches = dict.fromkeys(waiting[id] for id in ids)
        self._schedule()
        await asyncio.wait([batch.outcome for batch in batches])
        found: dict[K, Versioned[V]] = {}
        for batch in batches:
            outcome = batch.outcome.result()
            if isinstance(outcome, BaseException):
                raise anew(outcome)
            found.update({id: outcome[id] for id in ids if id in batch.ids and id in outcome})
        return found

    def _schedule(self) -> None:
        """Begin at the end of this turn, so that its other requests can join."""
        if self._queue and not self._scheduled and len(self._running) < self._at_once:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._scheduled = False
        while self._queue and len(self._running) < self._at_once and not self._closed:
            batch = self._queue.popleft()
            for id in batch.ids:
                del self._waiting[id]
            task = asyncio.create_task(self._run(batch), name="rtx-load")
            self._running[task] = batch
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._schedule()

    async def _run(self, batch: _Batch[K, V]) -> None:
        began = monotonic()
        self._stats.loads += len(batch.ids)
        try:
            batch.outcome.set_result(await self._load(list(batch.ids)))
        except asyncio.CancelledError:
            if self._closed:
                raise
            batch.outcome.set_result(DatabaseUnavailable("the loader cancelled itself; try again"))
        except Exception as error:
            batch.outcome.set_result(error)
        taken = monotonic() - began
        self.duration += (taken - self.duration) * (_SMOOTHING if self.duration else 1.0)


class Given(Generic[K, V]):
    """The loader that a caller gave for one id; `at_once` bounds those of a cache."""

    def __init__(
        self, load: Callable[[K], Awaitable[V | None]], stats: Tally, at_once: asyncio.Semaphore
    ) -> None:
        self._load = load
        self._stats = stats
        self._at_once = at_once
        self.duration = 0.0

    async def load(self, ids: Sequence[K]) -> dict[K, Versioned[V]]:
        """The value of the id, if it exists."""
        [id] = ids
        async with self._at_once:
            self._stats.loads += 1
            value = await self._load(id)
        return {} if value is None else {id: Versioned(value, 0)}


def _closed() -> DatabaseUnavailable:
    return DatabaseUnavailable("the data layer is closed; open it before you read")
