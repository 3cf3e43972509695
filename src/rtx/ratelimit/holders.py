"""The places that this process holds, and the calls and tasks behind them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

from rtx.keys import Keys
from rtx.ratelimit.lease import Lease
from rtx.ratelimit.outages import Outages
from rtx.setting_groups import LimiterSettings
from rtx.wire import Caller, Script

T = TypeVar("T")


class Holders:
    """What all concurrency limits of a layer share."""

    def __init__(
        self, caller: Caller, keys: Keys, limiter: LimiterSettings, outages: Outages
    ) -> None:
        self.caller = caller
        self.keys = keys
        self.limiter = limiter
        self.outages = outages
        self.script = Script.load("rtx.ratelimit", "place")
        self.held: dict[Lease, tuple[str, str]] = {}
        """Keys and tokens of the leases of this process; no token where the server has none."""
        self._process, self._numbers = secrets.token_hex(6), count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._later: set[asyncio.Task[Any]] = set()

    def token(self) -> str:
        """A name for a holder, used by nobody else."""
        return f"{self._process}{next(self._numbers):x}"

    async def free(self, key: str, token: str) -> None:
        """Give a place back, if it is held. Raises `Unavailable`, `ServerError`."""
        await self.caller.execute(
            "ZREM", key, token, idempotent=True, timeout=self.limiter.deadline
        )

    def spawn(self, work: Coroutine[Any, Any, T], *, waits: bool = True) -> asyncio.Task[T]:
        """A task that `close` waits for, or else ends."""
        task = asyncio.create_task(work, name="rtx-concurrency")
        tasks = self._tasks if waits else self._later
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def close(self) -> None:
        """Give back every place, and wait for what is under way; each call has its deadline."""
        for lease in self.held:
            lease.stop()
        frees = [self.free(key, token) for key, token in self.held.values() if token]
        self.held.clear()
        await asyncio.gather(*frees, return_exceptions=True)
        while self._tasks or self._later:
            for task in self._later:
                task.cancel()
            await asyncio.gather(*self._tasks, *self._later, return_exceptions=True)
