"""The limit holds in every window: against an oracle in real time, at once, and over processes."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.ratelimit import Decision, Limit
from tests.ratelimit.conftest import Named, server_micros
from tests.ratelimit.oracle import NEVER, Oracle


def said(decision: Decision) -> tuple[float, int, float, int]:
    """A decision as an oracle says it."""
    wait = NEVER if decision.retry_after == float("inf") else round(decision.retry_after * 1e6)
    return wait, decision.remaining, round(decision.reset_after * 1e6), round(decision.at * 1e6)


async def drive(
    limit: Limit, witness: redis_py.Redis, chance: random.Random, seconds: float
) -> tuple[Oracle, int]:
    """Hit and look at random; a decision says when it was made, so that the oracle can make it."""
    oracle, denied = Oracle(), 0
    window, pace = round(limit.per * 1e6), limit.per / limit.limit
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        cost = chance.choice([1, 1, 1, 2, 3, 4, 5])
        looking = chance.random() < 0.2
        known = limit.stats.known_denied
        before = await server_micros(witness)
        decision = await (limit.peek("x", cost) if looking else limit.hit("x", cost))
        if limit.stats.known_denied > known:  # the server was not asked; it would say the same
            assert oracle.decide(before, limit.limit, window, cost, take=False)[0] > 0
        else:
            at = round(decision.at * 1e6)
            assert before <= at
            assert said(decision) == oracle.decide(at, limit.limit, window, cost, take=not looking)
        denied += not decision.allowed
        if chance.random() < 0.5:
            await asyncio.sleep(min(0.2, chance.uniform(0, 3) * pace))
    return oracle, denied


async def test_hits_in_real_time_are_answered_as_an_oracle_does(
    named: Named, limit_witness: redis_py.Redis, seeded: random.Random
) -> None:
    limits = {
        f"l{i}": limit
        for i, limit in enumerate(
            [(1, 0.05), (2, 0.05), (5, 0.1), (10, 0.25), (50, 0.5), (3, 0.3), (10, 1.0)]
            + [(seeded.randint(1, 50), seeded.uniform(0.05, 2.0)) for _ in range(5)]
        )
    }
    async with rtx.open(named(**limits)) as layer:
        results = await asyncio.gather(
            *(
                drive(layer.limits[name], limit_witness, random.Random(seeded.random()), 3.0)
                for name in limits
            )
        )
    assert sum(denied for _, denied in results) > 50


async def test_a_thousand_calls_at_once_get_exactly_the_limit(named: Named) -> None:
    async with rtx.open(named(orders=(10, 60.0))) as layer:
        decisions = await asyncio.gather(*(layer.limits.orders.hit(1) for _ in range(1_000)))
        allowed = [decision for decision in decisions if decision]
        assert len(allowed) == 10
        assert sorted(decision.remaining for decision in allowed) == list(range(10))
        stats = layer.stats()["limit.orders"]
        assert (stats["allowed"], stats["denied"], stats["errors"]) == (10, 990, 0)


async def test_the_last_place_goes_to_one_of_many_layers(named: Named) -> None:
    several = named(orders=(5, 60.0))
    async with rtx.open(several) as one, rtx.open(several) as two, rtx.open(several) as three:
        decisions = await asyncio.gather(
            *(layer.limits.orders.hit(1) for layer in (one, two, three) for _ in range(5))
        )
    assert sum(decision.allowed for decision in decisions) == 5


CALLERS = """
import asyncio, os, sys, time
import rtx
from rtx.settings import Settings

async def call(url, namespace, go):
    limits = {"shared": {"limit": 100, "per": 60}}
    settings = Settings.load(
        url=url, namespace=namespace, limits=limits, limiter={"deadline": 10}, pool={"min_idle": 1}
    )
    async with rtx.open(settings) as layer:
        os.write(1, b"ready\\n")
        await asyncio.to_thread(os.read, go, 1)  # returns when the parent closes its end
        decisions = await asyncio.gather(*(layer.limits.shared.hit("desk") for _ in range(200)))
    os.write(1, b"%d\\n" % sum(decision.allowed for decision in decisions))

go, start = os.pipe()
true = {name: getattr(time, name) for name in ("time", "time_ns")}
for shift in map(float, sys.argv[3:]):
    if os.fork() == 0:
        os.close(start)
        time.time = lambda: true["time"]() + shift
        time.time_ns = lambda: true["time_ns"]() + int(shift * 1e9)
        asyncio.run(call(*sys.argv[1:3], go))
        os._exit(0)
sys.stdin.readline()
os.close(start)
"""


async def test_sixteen_processes_with_clocks_an_hour_apart_share_one_limit_exactly(
    shared_server: str, namespace: str, limit_witness: redis_py.Redis
) -> None:
    callers = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", CALLERS, shared_server, namespace, *("0", "3600", "-3600", "1800") * 4),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert callers.stdout is not None
        for _ in range(16):
            assert await callers.stdout.readline() == b"ready\n"
        output, _ = await callers.communicate(b"go\n")
    finally:
        if callers.returncode is None:
            callers.kill()
            await callers.wait()
    counts = [int(line) for line in output.split()]
    print(f"allowed by process: {counts}")
    assert len(counts) == 16
    assert sum(counts) == 100, counts
    log = await limit_witness.get(f"{namespace}:ratelimit:shared:desk")
    assert log is not None
    assert len(log) == 8 + 4 * 100


@pytest.mark.parametrize("cost", [2, 3, 5, 7])
async def test_costs_are_taken_whole_or_not_at_all(named: Named, cost: int) -> None:
    async with rtx.open(named(orders=(20, 60.0))) as layer:
        decisions = await asyncio.gather(
            *(layer.limits.orders.hit(1, cost=cost) for _ in range(50))
        )
        assert sum(decision.allowed for decision in decisions) == 20 // cost
        assert await layer.limits.orders.remaining(1) == 20 % cost


async def test_hits_that_share_a_call_are_decided_one_by_one(named: Named) -> None:
    async with rtx.open(named(orders=(10, 60.0), slow=(3, 60.0))) as layer:
        limits = layer.limits
        calls = [
            limits[name].hit(id, cost)
            for _ in range(20)
            for name, id, cost in (
                ("orders", 1, 1),
                ("orders", 2, 4),
                ("slow", 1, 1),
                ("slow", 9, 5),
            )
        ]
        decisions = await asyncio.gather(*calls)
        allowed = [sum(map(bool, decisions[place::4])) for place in range(4)]
        assert allowed == [10, 2, 3, 0]
        assert all(decision.retry_after == float("inf") for decision in decisions[3::4])


async def test_a_hit_that_is_cancelled_before_it_is_sent_is_not_counted(named: Named) -> None:
    async with rtx.open(named(orders=(10, 60.0))) as layer:
        hits = [asyncio.ensure_future(layer.limits.orders.hit(1)) for _ in range(8)]
        await asyncio.sleep(0)  # the first is sent, the others wait for the end of this turn
        for hit in hits[1::2]:
            hit.cancel()
        ends = await asyncio.gather(*hits, return_exceptions=True)
        assert [isinstance(end, asyncio.CancelledError) for end in ends] == [False, True] * 4
        assert await layer.limits.orders.remaining(1) == 6
