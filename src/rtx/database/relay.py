"""Hands on the invalidations that a database owes the caches, whoever's change it was."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from rtx.database.base import Outbox, Owed
from rtx.errors import RtxError

Invalidate: TypeAlias = Callable[[Sequence[Owed]], Awaitable[None]]
"""Drops what caches have of these accounts (positions included) and symbols.

Raises an `RtxError`, such as `Unavailable`, unless all of it reached the server; to repeat it is
harmless. It bounds its own time.
"""

_log = logging.getLogger(__name__)

# What a process has told the caches itself and not yet settled; more is relayed once again.
_DONE_AT_MOST = 10_000
_LONGEST_PAUSE = 1.0
_CLOSE_WITHIN = 1.0


@dataclass(slots=True)
class RelayStats:
    """Counters since the relay was made."""

    relayed: int = 0
    settled: int = 0
    failures: int = 0


class Relay:
    """Looks into an outbox every `interval` seconds and invalidates what was left there.

    Whoever makes a change tells the caches itself, and then calls `done` with the debt's id; the
    relay settles these in one write per round. A debt that it sees in two rounds was left by a
    process that died, or whose Redis was away: it is handed on, and settled once that succeeded. So
    a crash between a commit and its invalidation is made good within two rounds: 0.5 s, as long as
    one relay runs anywhere and database and Redis answer. When they do not, it tries again after
    pauses that double from `interval` to 1 s.

    Any number of processes may relay the same outbox: some debts are then handed on twice, which is
    harmless. `batch` bounds what a round reads; a full batch is handed on at once, for more of it
    waits. Use it as an async context manager, which owns its task.

        async with Relay(database, invalidate) as relay:
            ...
    """

    def __init__(
        self,
        outbox: Outbox,
        invalidate: Invalidate,
        *,
        interval: float = 0.25,
        batch: int = 500,
    ) -> None:
        self._outbox = outbox
        self._invalidate = invalidate
        self._interval = interval
        self._batch = batch
        self._done: set[int] = set()
        self._seen: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self.stats = RelayStats()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="relay of the outbox")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the task, and settle what is done already, for at most 1 s."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await self._settle_done()
        except (RtxError, TimeoutError):
            return  # another relay hands them on once more

    def done(self, id: int) -> None:
        """The caches were told of this debt by the caller; 0 is none and does nothing."""
        if id and len(self._done) < _DONE_AT_MOST:
            self._done.add(id)

    async def _run(self) -> None:
        pause = self._interval
        while True:
            # Drawn, so that the relays of many processes do not ask at the same instant.
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))
            try:
                while await self._round():
                    pass
            except Exception as error:
                self.stats.failures += 1
                if pause == self._interval:
                    unknown = not isinstance(error, RtxError)
                    _log.warning("the outbox waits: %s", error, exc_info=unknown)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = self._interval

    async def _round(self) -> bool:
        """Settle what is done, hand on what is due; whether more waits behind it."""
        await self._settle_done()
        owed = await self._outbox.owed(self._batch)
        is_full = len(owed) >= self._batch
        due = [one for one in owed if is_full or one.id in self._seen]
        seen, self._seen = self._seen, {one.id for one in owed}
        if due:
            await self._invalidate(due)
            self.stats.relayed += len(due)
            await self._settle([one.id for one in due])
        # The same batch again is one that cannot be settled now: no reason to hurry.
        return is_full and self._seen != seen

    async def _settle_done(self) -> None:
        if done := list(self._done):
            await self._settle(done)
            self._done.difference_update(done)

    async def _settle(self, ids: list[int]) -> None:
        await self._outbox.settled(ids)
        self.stats.settled += len(ids)
