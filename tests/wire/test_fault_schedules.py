"""Random faults, seeded: whatever the network does, a reply is the caller's own or there is none.

Several callers use one pool through a proxy while connections are cut, reset, sliced, delayed,
frozen and black-holed. Every value carries its caller and sequence number. 75 schedules for each
event loop run in the suite; `pytest -m soak` runs 500 for each. RTXTEST_SEED=n repeats schedule n.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time

import pytest
import redis.asyncio as redis_py

from rtx.errors import Unavailable
from rtx.settings import PoolSettings
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions, Pool
from tests.conftest import eventually
from tests.wire.faults import HEALTHY, Faults, Proxy

CALLERS = 8
TURNS = 15
READ_TIMEOUT = 0.2
POOL_TIMEOUT = 0.3
SLACK = 10.0
"""What a busy machine may add to a deadline; a hang is caught by it, slowness is not."""

BATCHES = 15
PER_BATCH = 5


def seeds(count: int) -> list[int]:
    repeated = os.environ.get("RTXTEST_SEED")
    return [int(repeated)] if repeated else [secrets.randbits(32) for _ in range(count)]


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_every_reply_under_random_faults_is_the_callers_own(
    address: Address, witness: redis_py.Redis, namespace: str, batch: int
) -> None:
    for seed in seeds(PER_BATCH):
        await run_schedule(seed, address, witness, f"{namespace}:{seed}")


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_every_reply_under_hundreds_of_schedules_is_the_callers_own(
    address: Address, witness: redis_py.Redis, namespace: str
) -> None:
    for seed in seeds(500):
        await run_schedule(seed, address, witness, f"{namespace}:{seed}")


async def run_schedule(
    seed: int, address: Address, witness: redis_py.Redis, namespace: str
) -> None:
    print(f"schedule: RTXTEST_SEED={seed}")
    chance = random.Random(seed)
    settings = PoolSettings(
        size=chance.choice([1, 2, 4]),
        min_idle=chance.choice([0, 1, 2]),
        max_in_flight=chance.choice([1, 3, 100]),
        max_age=chance.choice([0.02, 300.0]),
        pool_timeout=POOL_TIMEOUT,
        max_retries=chance.choice([0, 3]),
    )
    options = ConnectOptions(
        connect_timeout=READ_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        heartbeat=0.05,
        max_in_flight=settings.max_in_flight,
    )
    async with Proxy(address) as proxy:
        pool = Pool(
            lambda on_close: Connection.dial(proxy.address, options, on_close=on_close), settings
        )
        await pool.open()
        try:
            proxy.faults = lambda: random_faults(chance)
            storm = asyncio.create_task(rage(proxy, chance))
            callers = [
                Caller(pool, namespace, name, random.Random(chance.random()), settings.max_retries)
                for name in range(CALLERS)
            ]
            await asyncio.gather(*(caller.run() for caller in callers))
            storm.cancel()
            await asyncio.gather(storm, return_exceptions=True)
            await recovers(proxy, pool)
            for caller in callers:
                await caller.check_count(witness)
            assert pool.stats.in_flight == 0
        finally:
            await pool.close()


def random_faults(chance: random.Random) -> Faults:
    """What the next connection suffers; its greeting takes about 170 bytes of the replies."""
    if chance.random() < 0.3:
        return HEALTHY
    return Faults(
        cut_replies_after=chance.choice([None, chance.randrange(3000)]),
        cut_requests_after=chance.choice([None, None, chance.randrange(3000)]),
        black_hole_after=chance.choice([None, None, None, chance.randrange(3000)]),
        reset=chance.random() < 0.5,
        half_close=chance.random() < 0.2,
        slice=chance.choice([1, 3, 17, 65536]),
        delay=chance.choice([0.0, 0.0, 0.001]),
        hang_up=chance.random() < 0.1,
    )


async def rage(proxy: Proxy, chance: random.Random) -> None:
    """Faults that befall every connection at once, until cancelled."""
    while True:
        await asyncio.sleep(chance.uniform(0.0, 0.03))
        match chance.randrange(4):
            case 0:
                proxy.cut_all(reset=chance.random() < 0.5)
            case 1:
                proxy.freeze()
                await asyncio.sleep(chance.choice([0.01, 0.01, READ_TIMEOUT * 1.5]))
                proxy.thaw()
            case 2:
                await proxy.refuse()
                await asyncio.sleep(chance.uniform(0.0, 0.02))
                await proxy.listen()


async def recovers(proxy: Proxy, pool: Pool) -> None:
    """With a healthy network the pool answers again by itself, and goes on answering."""
    proxy.faults = lambda: HEALTHY
    proxy.thaw()
    if proxy._server is None:
        await proxy.listen()
    proxy.cut_all()

    async def answers() -> bool:
        try:
            return await pool.call("ECHO", "recovered") == b"recovered"
        except Unavailable:
            return False

    await eventually(answers)
    await eventually(lambda: pool.stats.in_flight == 0)
    assert await asyncio.gather(*(pool.call("ECHO", n) for n in range(20))) == [
        str(n).encode() for n in range(20)
    ]


class Caller:
    """One caller with keys of its own, and what it knows for certain of their values."""

    def __init__(
        self, pool: Pool, namespace: str, name: int, chance: random.Random, retries: int
    ) -> None:
        self.pool = pool
        self.value_key = f"{namespace}:{name}:value"
        self.count_key = f"{namespace}:{name}:count"
        self.name = name
        self.chance = chance
        self.retries = retries
        self.stored: bytes | None = None
        """The value that was last acknowledged."""
        self.uncertain: set[bytes] = set()
        """Values that were sent and not acknowledged: they may arrive late, or never."""
        self.acknowledged = 0
        self.attempts = 0

    async def run(self) -> None:
        for sequence in range(TURNS):
            started = time.monotonic()
            kind = self.chance.choice([self.set, self.get, self.count, self.echo, self.give_up])
            try:
                await kind(sequence)
            except Unavailable:
                await asyncio.sleep(self.chance.uniform(0, 0.01))
            # `execute` may use up both time-outs for each of its attempts.
            within = (READ_TIMEOUT + POOL_TIMEOUT) * (self.retries + 1) + SLACK
            assert time.monotonic() - started < within, f"{kind.__name__} was late"

    async def set(self, sequence: int) -> None:
        value = f"{self.name}:{sequence}".encode()
        try:
            assert await self.pool.call("SET", self.value_key, value) == b"OK"
        except Unavailable as error:
            if error.maybe_applied:
                self.uncertain.add(value)
            raise
        self.stored = value

    async def get(self, sequence: int) -> None:
        found = await self.pool.execute("GET", self.value_key, idempotent=True)
        assert found == self.stored or found in self.uncertain

    async def count(self, sequence: int) -> None:
        self.attempts += 1
        try:
            found = await self.pool.execute("INCR", self.count_key)
        except Unavailable as error:
            self.attempts -= not error.maybe_applied
            raise
        self.acknowledged += 1
        assert isinstance(found, int)
        assert self.acknowledged <= found <= self.attempts

    async def echo(self, sequence: int) -> None:
        texts = [f"{self.name}:{sequence}:{place}" for place in range(self.chance.randrange(4))]
        replies = await self.pool.batch([("ECHO", text) for text in texts])
        assert replies == [text.encode() for text in texts]

    async def give_up(self, sequence: int) -> None:
        """A call that is cancelled at a random moment, or has hardly any time."""
        text = f"{self.name}:{sequence}:given up"
        timeout = self.chance.choice([0.001, None])
        call = asyncio.ensure_future(self.pool.call("ECHO", text, timeout=timeout))
        for _ in range(self.chance.randrange(8)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.7:
            call.cancel()
        try:
            assert await call == text.encode()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()

    async def check_count(self, witness: redis_py.Redis) -> None:
        """Nothing acknowledged is missing, and nothing was done twice."""
        found = int(await witness.get(self.count_key) or 0)
        assert self.acknowledged <= found <= self.attempts
