"""What limits keep on the server: how long, and how much."""

from __future__ import annotations

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.setting_groups import LimitSettings
from tests.conftest import eventually
from tests.ratelimit.conftest import Named

SLACK = 1_000  # ms that a key may live longer than its window


@pytest.mark.parametrize("algorithm", ["sliding_log", "sliding_counter"])
@pytest.mark.parametrize("per", [0.05, 1.0, 60.0, 7_200.0])
async def test_a_key_lives_for_a_window_and_at_most_a_second_more(
    named: Named, limit_witness: redis_py.Redis, algorithm: str, per: float
) -> None:
    settings = LimitSettings.model_validate({"limit": 400, "per": per, "algorithm": algorithm})
    async with rtx.open(named(orders=settings)) as layer:
        key, left = layer.keys.limit("orders", 1), []
        for cost in (1, 1, 2, 120, 1, 200, 1):  # a log that is whole, then one in parts
            await layer.limits.orders.hit(1, cost=cost)
            left.append(await limit_witness.pttl(key))
        # From the hit to the question the machine may have slept: no lower bound for short windows.
        assert max(left) <= per * 1_000 + SLACK
        if per >= 60:
            assert min(left) > per * 1_000 - 30_000
        await layer.limits.orders.refund(1, cost=50)
        assert await limit_witness.pttl(key) <= per * 1_000 + SLACK


async def test_a_key_outlives_its_newest_hit_by_the_servers_word(
    named: Named, limit_witness: redis_py.Redis
) -> None:
    """`PEXPIRETIME` and the hit's time are both of the server's clock, so both ends are exact."""
    async with rtx.open(named(orders=(300, 2.0))) as layer:
        key = layer.keys.limit("orders", 1)
        for cost in (1, 1, 1, 100, 1, 100, 1, 1):
            decision = await layer.limits.orders.hit(1, cost=cost)
            assert decision
            expires = await limit_witness.pexpiretime(key)
            assert decision.at * 1_000 + 2_000 <= expires <= decision.at * 1_000 + 2_000 + SLACK


async def test_a_key_is_gone_when_its_hits_are(named: Named, limit_witness: redis_py.Redis) -> None:
    async with rtx.open(named(brief=(2, 0.05))) as layer:
        await layer.limits.brief.hit(1)

        async def gone() -> bool:
            return not await limit_witness.exists(layer.keys.limit("brief", 1))

        await eventually(gone, within=5)


async def test_a_window_that_shrinks_shortens_the_life_of_its_keys(
    named: Named, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(named(orders=(300, 600.0))) as layer:
        key = layer.keys.limit("orders", 1)
        for cost in (1, 200):
            await layer.limits.orders.hit(1, cost=cost)
            await layer.limits.define("orders", limit=300, per=30.0)
            await layer.limits.orders.hit(1)
            assert await limit_witness.pttl(key) <= 30_000 + SLACK
            await layer.limits.undefine("orders")


async def test_a_full_log_takes_four_bytes_a_hit_and_a_long_one_up_to_eight(
    named: Named, limit_witness: redis_py.Redis
) -> None:
    """What grows by a hit at a time has as much again set aside by the server."""
    counts = (10, 100, 1_000, 10_000)
    limits = {f"l{count}": (count, 60.0) for count in counts}
    async with rtx.open(named(**limits)) as layer:
        for count in counts:
            limit = layer.limits[f"l{count}"]
            for id, costs in (("burst", [1] * min(count, 1_000)), ("at once", [])):
                rest = count - sum(costs)
                for cost in [*costs, rest] if rest else costs:
                    assert await limit.hit(id, cost)
                used = await limit_witness.memory_usage(layer.keys.limit(limit.name, id))
                print(f"{count:>6,} hits, {id:>7}: {used:,} bytes, {used / count:.1f} a hit")
                assert used <= 150 + count * (9 if id == "burst" and count > 126 else 4.5)


async def test_a_decision_takes_three_commands_and_a_denial_two(
    named: Named, limit_witness: redis_py.Redis
) -> None:
    """Counted by the server: what a script calls, it counts like what a client calls."""
    scripted = ("time", "getrange", "append", "psetex", "setrange", "pexpire")

    async def calls() -> dict[str, int]:
        stats = await limit_witness.info("commandstats")
        return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in scripted}

    async with rtx.open(named(orders=(100, 60.0), long=(500, 60.0))) as layer:
        for name, allowed_by in (("orders", 3), ("long", 4)):
            limit = layer.limits[name]
            await limit.hit(1, cost=limit.limit - 10)
            before = await calls()
            for _ in range(10):
                assert await limit.hit(1)
            after = await calls()
            used = {name: after[name] - before[name] for name in scripted}
            print(f"{name}: {used}")
            assert sum(used.values()) <= 10 * allowed_by
            before = await calls()
            assert not await limit.hit(1)
            after = await calls()
            assert sum(after.values()) - sum(before.values()) <= allowed_by - 1
            assert after["append"] + after["psetex"] == before["append"] + before["psetex"]
