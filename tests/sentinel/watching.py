"""What an independent program sees of a failover, and how late this machine was meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import redis.asyncio as redis_py
from redis.exceptions import RedisError

from rtx.topology.local import LocalSentinels
from rtx.topology.process import SentinelProcess

_TICK = 0.01
_ON_TIME = 0.005


class Lateness:
    """Sums what a timer of 10 ms was late: time that other programs had in place of this one.

    A bound of time is given this much more, for a busy machine delays servers and sentinels too.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            late = time.monotonic() - due
            if late > _ON_TIME:
                self.seconds += late


class Failover:
    """When redis-py saw a replica become a primary, and when it heard `+switch-master`."""

    def __init__(self) -> None:
        self.promotions: list[float] = []
        self.announcements: list[float] = []

    @property
    def promoted(self) -> float:
        """The moment of the first promotion."""
        return self.promotions[0]

    @asynccontextmanager
    async def watched(
        self, group: LocalSentinels, *, but: tuple[SentinelProcess, ...] = ()
    ) -> AsyncIterator[None]:
        """Ask all replicas for their role every 5 ms, and listen to all sentinels `but` some."""
        sentinels = [sentinel for sentinel in group.sentinels if sentinel not in but]
        listening = [asyncio.Event() for _ in sentinels]
        primary = await group.primary()
        tasks = [
            *(
                asyncio.create_task(self._listen(sentinel.port, event))
                for sentinel, event in zip(sentinels, listening, strict=True)
            ),
            *(
                asyncio.create_task(self._ask(server.port))
                for server in group.servers
                if server is not primary
            ),
        ]
        for event in listening:
            await event.wait()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, port: int) -> None:
        async with redis_py.Redis(port=port, decode_responses=True) as witness:
            while True:
                with suppress(RedisError, OSError):  # a promotion ends its connections
                    if (await witness.role())[0] == "master":
                        self.promotions.append(time.monotonic())
                        return
                await asyncio.sleep(0.005)

    async def _listen(self, port: int, ready: asyncio.Event) -> None:
        async with redis_py.Redis(port=port) as witness, witness.pubsub() as channels:
            await channels.subscribe("+switch-master")
            async for message in channels.listen():
                ready.set()
                if message["type"] == "message":
                    self.announcements.append(time.monotonic())
