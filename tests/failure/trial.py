"""A layer under load with subscriptions of every kind, to be hurt by a test and then checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import rtx
from rtx.errors import Unavailable
from rtx.settings import Settings
from rtx.topology import Role
from rtx.wire import Caller, Script
from tests.conftest import eventually
from tests.failure.following import Following, following
from tests.wire.callers import Client, clients_calling, errors_of

COUNT = Script("return redis.call('INCR', KEYS[1])")


@dataclass
class Hits:
    """Calls of a script that counts: none may be carried out twice."""

    caller: Caller
    key: str
    acknowledged: int = 0
    uncertain: int = 0
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while not self.ending.is_set():
            try:
                count = await COUNT.run(self.caller, [self.key])
            except Unavailable as error:
                self.uncertain += error.maybe_applied
            else:
                assert isinstance(count, int)
                self.acknowledged += 1
            await asyncio.sleep(0.003)

    async def check(self) -> None:
        count = await self.caller.call("GET", self.key)
        assert isinstance(count, bytes)
        assert self.acknowledged <= int(count) <= self.acknowledged + self.uncertain


@dataclass
class Trial:
    """What a test looks at while the load is on."""

    layer: rtx.DataLayer
    feed: rtx.DataLayer
    follower: Following
    clients: list[Client]
    hits: Hits

    @property
    def caller(self) -> Caller:
        return self.layer._roles.pool(Role.CACHE)

    @property
    def losses(self) -> int:
        """Connections that subscriptions have lost."""
        return self.layer.hub.stats.losses

    async def back(self) -> float:
        """Return when all calls are answered and all subscriptions hear again; in how many s."""
        started = time.monotonic()
        await self.follower.back()
        answered, hits = [client.answered for client in self.clients], self.hits.acknowledged
        await eventually(
            lambda: (
                all(
                    client.answered > before
                    for client, before in zip(self.clients, answered, strict=True)
                )
                and self.hits.acknowledged > hits
            )
        )
        return time.monotonic() - started

    def report(self, what: str) -> None:
        print(
            f"{what}: {sum(client.answered for client in self.clients)} calls answered, others "
            f"{dict(errors_of(self.clients))}; {self.hits.acknowledged} hits; "
            f"{self.follower.report()}"
        )


@asynccontextmanager
async def under_load(
    settings: Settings,
    chance: random.Random,
    *,
    what: str,
    kept: bool = True,
    scripts_kept: bool = True,
) -> AsyncIterator[Trial]:
    """Load, from the first reply and the first message of every kind to the last one checked.

    `kept`: the server keeps all that it acknowledged. Unless `scripts_kept`, a tick may be
    published before its price is stored: see test_resubscribing.py.
    """
    async with rtx.open(settings) as layer, rtx.open(settings) as feed:
        caller = layer._roles.pool(Role.CACHE)
        namespace = f"{layer.keys.namespace}load"
        hits = Hits(layer._roles.pool(Role.LIMITS), f"{namespace}:hits")
        async with (
            following(layer, feed) as follower,
            clients_calling(caller, namespace, chance, forgets=not kept) as clients,
        ):
            hitting = asyncio.create_task(hits.run())
            try:
                trial = Trial(layer, feed, follower, clients, hits)
                await trial.back()
                yield trial
                await trial.back()
            finally:
                hits.ending.set()
                await hitting
        trial.report(what)
        follower.check(kept=kept, prices_first=scripts_kept)
        if kept:
            for client in clients:
                await client.check_count(caller)
            await hits.check()
        await eventually(lambda: caller.stats.in_flight == 0)
