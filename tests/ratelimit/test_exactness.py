"""The limit holds in every window: against an oracle, under concurrency, and over processes."""

from __future__ import annotations

import asyncio
import math
import random
import sys
from dataclasses import dataclass, field

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.ratelimit import Limit
from rtx.settings import LimitSettings, Settings
from tests.ratelimit.conftest import server_micros


@dataclass
class Oracle:
    """What a limit must answer, from hits whose times are known, if only within bounds.

    A hit is (earliest, latest) on the server's clock. Most are exact: read from the key. A key may
    be gone before it is read; then the clock before and after the call bounds the time.
    """

    limit: int
    window: int
    hits: list[tuple[int, int]] = field(default_factory=list)

    def used(self, earliest: int, latest: int) -> tuple[int, int]:
        """Hits that certainly, and that possibly, count at some moment between the two."""
        certain = sum(1 for low, _ in self.hits if latest - low < self.window)
        possible = sum(1 for _, high in self.hits if earliest - high < self.window)
        return certain, possible

    def check(
        self, decision: rtx.Decision, cost: int, earliest: int, latest: int, *, took: int
    ) -> None:
        certain, possible = self.used(earliest, latest)
        if decision.allowed:
            assert certain + cost <= self.limit, "allowed too much"
            assert decision.retry_after == 0
        elif cost > self.limit:
            assert decision.retry_after == math.inf
        else:
            assert possible + cost > self.limit, "denied what fits"
            # It fits when the hit that is in its way has left; that one's time is known.
            low, high = self.hits[-(self.limit - cost) - 1]
            assert low + self.window - latest - 1 <= decision.retry_after * 1e6
            assert decision.retry_after * 1e6 <= high + self.window - earliest + 1
        assert decision.limit == self.limit
        assert self.limit - possible - took <= decision.remaining
        assert decision.remaining <= self.limit - certain - took
        if not took and certain:
            low, high = self.hits[-1]
            assert low + self.window - latest - 1 <= decision.reset_after * 1e6
            assert decision.reset_after * 1e6 <= high + self.window - earliest + 1


async def drive(
    limit: Limit, key: str, witness: redis_py.Redis, chance: random.Random, seconds: float
) -> tuple[Oracle, int]:
    oracle = Oracle(limit.limit, round(limit.per * 1e6))
    denied = 0
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    pace = limit.per / limit.limit  # at which every hit of cost 1 would just be allowed
    while loop.time() < end:
        cost = chance.choice([1, 1, 1, 2, 3, 4, 5])
        looking = chance.random() < 0.2
        before = await server_micros(witness)
        decision = await (limit.peek("x", cost) if looking else limit.hit("x", cost))
        recorded = await witness.lrange(key, -cost, -1)
        after = await server_micros(witness)
        took = cost if decision.allowed and not looking else 0
        exact = took and len(recorded) == cost
        low, high = (int(recorded[0]), int(recorded[-1])) if exact else (before, after)
        assert before <= low <= high <= after or not exact
        oracle.check(decision, cost, low, high, took=took)
        oracle.hits += [(low, high)] * took
        denied += not decision.allowed
        if chance.random() < 0.5:
            await asyncio.sleep(min(0.2, chance.uniform(0, 3) * pace))
    return oracle, denied


async def test_random_hits_are_answered_as_an_oracle_would(
    settings: Settings, limit_witness: redis_py.Redis, seeded: random.Random
) -> None:
    named = {
        f"l{i}": LimitSettings(limit=limit, per=per)
        for i, (limit, per) in enumerate(
            [(1, 0.05), (2, 0.05), (5, 0.1), (10, 0.25), (50, 0.5), (3, 0.3), (10, 1.0)]
            + [(seeded.randint(1, 50), seeded.uniform(0.05, 2.0)) for _ in range(5)]
        )
    }
    async with rtx.open(settings.model_copy(update={"limits": named})) as layer:
        results = await asyncio.gather(
            *(
                drive(
                    layer.limits[name],
                    layer.keys.limit(name, "x"),
                    limit_witness,
                    random.Random(seeded.random()),
                    seconds=4.0,
                )
                for name in named
            )
        )
    for oracle, denied in results:
        assert oracle.hits
        assert denied
        # In no window are more than the limit: a hit and the one `limit` places on are a window
        # apart. Only hits that are known exactly can convict.
        for first, later in zip(oracle.hits, oracle.hits[oracle.limit :], strict=False):
            assert later[1] - first[0] >= oracle.window


async def test_a_thousand_calls_at_once_get_exactly_the_limit(settings: Settings) -> None:
    named = {"orders": LimitSettings(limit=10, per=60.0)}
    async with rtx.open(settings.model_copy(update={"limits": named})) as layer:
        decisions = await asyncio.gather(*(layer.limits.orders.hit(1) for _ in range(1_000)))
        allowed = [decision for decision in decisions if decision]
        assert len(allowed) == 10
        assert sorted(decision.remaining for decision in allowed) == list(range(10))
        stats = layer.stats()["limit.orders"]
        assert (stats["allowed"], stats["denied"], stats["errors"]) == (10, 990, 0)


async def test_the_last_place_goes_to_one_of_many_layers(settings: Settings) -> None:
    named = {"orders": LimitSettings(limit=5, per=60.0)}
    several = settings.model_copy(update={"limits": named})
    async with rtx.open(several) as one, rtx.open(several) as two, rtx.open(several) as three:
        decisions = await asyncio.gather(
            *(layer.limits.orders.hit(1) for layer in (one, two, three) for _ in range(5))
        )
    assert sum(decision.allowed for decision in decisions) == 5


CALLER = """
import asyncio, sys
import rtx
from rtx.settings import LimitSettings, Settings

async def main(url, namespace):
    limits = {"shared": LimitSettings(limit=100, per=60.0)}
    settings = Settings.load(url=url, namespace=namespace, limits=limits)
    async with rtx.open(settings) as layer:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        decisions = await asyncio.gather(*(layer.limits.shared.hit("desk") for _ in range(100)))
    print(sum(decision.allowed for decision in decisions))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_four_processes_share_one_limit_exactly(
    shared_server: str, namespace: str, limit_witness: redis_py.Redis
) -> None:
    callers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", CALLER, shared_server, namespace),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]
    try:
        for caller in callers:
            assert caller.stdout is not None
            assert await caller.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(caller.communicate(b"go\n") for caller in callers))
    finally:
        for caller in callers:
            if caller.returncode is None:
                caller.kill()
                await caller.wait()
    counts = [int(out) for out, _ in outputs]
    assert sum(counts) == 100, counts
    assert await limit_witness.llen(f"{namespace}:ratelimit:shared:desk") == 100


@pytest.mark.parametrize("cost", [2, 3, 5, 7])
async def test_costs_are_taken_whole_or_not_at_all(settings: Settings, cost: int) -> None:
    named = {"orders": LimitSettings(limit=20, per=60.0)}
    async with rtx.open(settings.model_copy(update={"limits": named})) as layer:
        decisions = await asyncio.gather(
            *(layer.limits.orders.hit(1, cost=cost) for _ in range(50))
        )
        assert sum(decision.allowed for decision in decisions) == 20 // cost
        assert await layer.limits.orders.remaining(1) == 20 % cost
