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

import pytest
import redis.asyncio as redis_py

from rtx.errors import Unavailable
from rtx.setting_groups import PoolSettings
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions, Pool
from tests.conftest import eventually
from tests.wire.callers import Client, errors_of
from tests.wire.faults import Proxy
from tests.wire.storms import calm, raging, random_faults

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
            # `execute` may use up both time-outs for each of its attempts.
            within = (READ_TIMEOUT + POOL_TIMEOUT) * (settings.max_retries + 1) + SLACK
            callers = [
                Client(pool, namespace, name, random.Random(chance.random()), within)
                for name in range(CALLERS)
            ]
            async with raging(proxy, chance, pause=0.03, freeze=READ_TIMEOUT * 1.5):
                await asyncio.gather(*(caller.run(TURNS) for caller in callers))
            await recovers(proxy, pool)
            for caller in callers:
                await caller.check_count(witness)
            assert pool.stats.in_flight == 0
            answered = sum(caller.answered for caller in callers)
            print(f"{answered} calls answered, others {dict(errors_of(callers))}; {pool.stats}")
        finally:
            await pool.close()


async def recovers(proxy: Proxy, pool: Pool) -> None:
    """With a healthy network the pool answers again by itself, and goes on answering."""
    await calm(proxy)

    async def answers(count: int) -> bool:
        """Whether so many calls at once are all answered; a busy machine may miss a deadline."""
        calls = [pool.call("ECHO", n) for n in range(count)]
        for n, reply in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
            if isinstance(reply, Unavailable):
                return False
            assert reply == str(n).encode()
        return True

    await eventually(lambda: answers(1))
    await eventually(lambda: pool.stats.in_flight == 0)
    await eventually(lambda: answers(20))
