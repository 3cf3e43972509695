"""Callers that know what every reply must be: a wrong, lost or doubled one fails the test."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis_py

from rtx.errors import Unavailable
from rtx.wire import Caller

PAUSE = 0.003
"""Seconds between two calls of a caller that is to load the server rather than the machine."""


class Client:
    """One caller with keys of its own, and what it knows for certain of their values.

    `within` (seconds): a call that takes longer fails the test. `forgets`: the server may lose its
    data, so that only what a reply says of its own call can be checked.
    """

    def __init__(
        self,
        caller: Caller,
        namespace: str,
        name: int,
        chance: random.Random,
        within: float,
        *,
        forgets: bool = False,
    ) -> None:
        self.caller = caller
        self.value_key = f"{namespace}:{name}:value"
        self.count_key = f"{namespace}:{name}:count"
        self.other_key = f"{namespace}:{name}:other"
        self.name = name
        self.chance = chance
        self.within = within
        self.stored: bytes | None = None
        """The value that was last acknowledged."""
        self.uncertain: set[bytes] = set()
        """Values that were sent and not acknowledged: they may arrive late, or never."""
        self.acknowledged = 0
        self.attempts = 0
        self.answered = 0
        """Calls of any kind that were answered."""
        self.errors: Counter[str] = Counter()
        self._kinds = [self.set, self.get, self.get_several, self.count, self.echo, self.give_up]
        if forgets:
            self._kinds = [self.echo, self.give_up]

    async def run(self, turns: int) -> None:
        """Call so many times, as fast as replies come."""
        for sequence in range(turns):
            await self.turn(sequence)

    async def run_until(self, ending: asyncio.Event) -> None:
        """Call until the event, with pauses."""
        sequence = 0
        while not ending.is_set():
            sequence += 1
            await self.turn(sequence)
            await asyncio.sleep(PAUSE)

    async def turn(self, sequence: int) -> None:
        started = time.monotonic()
        kind = self.chance.choice(self._kinds)
        try:
            self.answered += await kind(sequence)
        except Unavailable as error:
            self.errors[f"{type(error).__name__}, maybe_applied={error.maybe_applied}"] += 1
            await asyncio.sleep(self.chance.uniform(0, 0.01))
        assert time.monotonic() - started < self.within, f"{kind.__name__} was late"

    async def set(self, sequence: int) -> bool:
        value = f"{self.name}:{sequence}".encode()
        try:
            assert await self.caller.call("SET", self.value_key, value) == b"OK"
        except Unavailable as error:
            if error.maybe_applied:
                self.uncertain.add(value)
            raise
        self.stored = value
        return True

    async def get(self, sequence: int) -> bool:
        self._check_value(await self.caller.execute("GET", self.value_key, idempotent=True))
        return True

    async def get_several(self, sequence: int) -> bool:
        """In a cluster these keys are at several nodes."""
        found = await self.caller.call("MGET", self.other_key, self.value_key, self.count_key)
        assert isinstance(found, list)
        other, value, count = found
        assert other is None
        self._check_value(value)
        if count is not None:
            assert isinstance(count, bytes)
        assert self.acknowledged <= int(count or 0) <= self.attempts
        return True

    def _check_value(self, found: object) -> None:
        assert found == self.stored or found in self.uncertain, f"{found!r} for {self.stored!r}"

    async def count(self, sequence: int) -> bool:
        self.attempts += 1
        try:
            found = await self.caller.execute("INCR", self.count_key)
        except Unavailable as error:
            self.attempts -= not error.maybe_applied
            raise
        self.acknowledged += 1
        assert isinstance(found, int)
        assert self.acknowledged <= found <= self.attempts
        return True

    async def echo(self, sequence: int) -> bool:
        texts = [f"{self.name}:{sequence}:{place}" for place in range(self.chance.randrange(4))]
        replies = await self.caller.batch([("ECHO", text) for text in texts])
        assert replies == [text.encode() for text in texts]
        return bool(texts)

    async def give_up(self, sequence: int) -> bool:
        """A call that is cancelled at a random moment, or has hardly any time."""
        text = f"{self.name}:{sequence}:given up"
        timeout = self.chance.choice([0.001, None])
        call = asyncio.ensure_future(self.caller.call("ECHO", text, timeout=timeout))
        for _ in range(self.chance.randrange(8)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.7:
            call.cancel()
        try:
            assert await call == text.encode()
            return True
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
        except Unavailable:
            if timeout is None:
                raise
        return False

    async def check_count(self, witness: redis_py.Redis | Caller) -> None:
        """Nothing acknowledged is missing, and nothing was done twice."""
        if isinstance(witness, redis_py.Redis):
            found = await witness.get(self.count_key)
        else:
            found = await witness.call("GET", self.count_key)
        assert self.acknowledged <= int(found or 0) <= self.attempts


@asynccontextmanager
async def clients_calling(
    caller: Caller,
    namespace: str,
    chance: random.Random,
    *,
    count: int = 6,
    within: float = 30.0,
    forgets: bool = False,
) -> AsyncIterator[list[Client]]:
    """Several clients that call until the context ends."""
    clients = [
        Client(caller, namespace, name, random.Random(chance.random()), within, forgets=forgets)
        for name in range(count)
    ]
    ending = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run_until(ending))
        try:
            yield clients
        finally:
            ending.set()


def errors_of(clients: list[Client]) -> Counter[str]:
    """What all of them met, by kind, but for calls that gave themselves hardly any time."""
    return sum((client.errors for client in clients), Counter[str]())
