"""What a limit tells its callers, and what leaves it as it was."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import SettingsError
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings
from tests.ratelimit.conftest import Named, server_micros


@pytest.fixture
def limited(named: Named) -> Settings:
    """`slow`: 3 a minute; `brief`: 2 in 200 ms; and those that are there anyway."""
    return named(slow=(3, 60.0), brief=(2, 0.2))


async def test_the_documented_limits_are_there(layer: rtx.DataLayer) -> None:
    assert (layer.limits.api.limit, layer.limits.api.per) == (100, 60.0)
    assert (layer.limits.orders.limit, layer.limits.orders.per) == (10, 1.0)
    assert layer.limits.names() == ["api", "orders"]
    assert layer.limits["api"] is layer.limits.api
    with pytest.raises(SettingsError, match=r"no limit is named 'nope'; there are api, orders"):
        layer.limits["nope"]
    with pytest.raises(SettingsError, match="nope"):
        _ = layer.limits.nope


def test_an_exact_limit_is_at_most_a_hundred_thousand() -> None:
    with pytest.raises(SettingsError, match="sliding_counter"):
        Settings.load(limits={"high": {"limit": 100_001, "per": 1}})
    high = {"limit": 1_000_000, "per": 1, "algorithm": "sliding_counter"}
    assert Settings.load(limits={"high": high}).limits["high"].limit == 1_000_000


async def test_decisions_count_down_and_deny(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        slow = layer.limits.slow
        decisions = [await slow.hit("user-7") for _ in range(4)]
        assert [bool(decision) for decision in decisions] == [True, True, True, False]
        assert [decision.remaining for decision in decisions] == [2, 1, 0, 0]
        assert [decision.limit for decision in decisions] == [3] * 4
        assert [decision.policy for decision in decisions] == ["slow"] * 4
        assert [decision.retry_after for decision in decisions[:3]] == [0.0] * 3
        assert 59 < decisions[3].retry_after <= 60
        assert decisions[0].reset_after == 60.0
        assert 59 < decisions[3].reset_after <= 60
        assert not any(decision.degraded for decision in decisions)


async def test_a_decision_has_the_servers_time(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        before = await server_micros(limit_witness)
        decision = await layer.limits.slow.hit(1)
        assert before <= round(decision.at * 1e6) <= await server_micros(limit_witness)


async def test_who_waits_for_retry_after_is_let_in(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        brief = layer.limits.brief
        denied = 0
        while denied < 3:
            decision = await brief.hit(1)
            if not decision.allowed:
                denied += 1
                await asyncio.sleep(decision.retry_after + 0.002)  # loops may be a little early
                assert (await brief.hit(1)).allowed


async def test_a_denied_call_takes_nothing(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        key = layer.keys.limit("slow", 1)
        await layer.limits.slow.hit(1, cost=2)
        log = await limit_witness.get(key)
        for _ in range(10):
            assert not await layer.limits.slow.hit(1, cost=2)
            assert not await layer.limits.slow.peek(1, cost=2)
        assert await limit_witness.get(key) == log
        assert await layer.limits.slow.hit(1)


async def test_a_cost_above_the_limit_can_never_be_allowed(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        decision = await layer.limits.slow.hit(1, cost=4)
        assert (decision.allowed, decision.retry_after) == (False, math.inf)
        assert (decision.remaining, decision.reset_after) == (3, 0.0)
        assert (await layer.limits.slow.hit(1, cost=2**40)).retry_after == math.inf
        assert (await layer.limits.slow.hit(1, cost=3)).allowed
        assert (await layer.limits.slow.peek(1, cost=4)).retry_after == math.inf


@pytest.mark.parametrize("cost", [0, -1])
async def test_a_cost_below_one_is_refused(layer: rtx.DataLayer, cost: int) -> None:
    orders = layer.limits.orders
    for call in (orders.hit, orders.peek, orders.refund):
        with pytest.raises(ValueError, match="1 or more"):
            await call(1, cost=cost)
    with pytest.raises(ValueError, match="1 or more"):
        await layer.limits.check(("orders", 1, cost))


async def test_peeking_takes_nothing(limited: Settings, limit_witness: redis_py.Redis) -> None:
    async with rtx.open(limited) as layer:
        decision = await layer.limits.slow.peek(1)
        assert decision == rtx.Decision(True, 3, 3, 0.0, 0.0, "slow", decision.at)
        assert not await limit_witness.exists(layer.keys.limit("slow", 1))
        await layer.limits.slow.hit(1)
        for _ in range(10):
            decision = await layer.limits.slow.peek(1, cost=2)
            assert (decision.allowed, decision.remaining) == (True, 2)
        assert await layer.limits.slow.remaining(1) == 2
        assert layer.stats()["limit.slow"]["allowed"] == 1


async def test_ids_and_names_do_not_touch_each_other(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        for _ in range(3):
            await layer.limits.slow.hit("a")
        assert not await layer.limits.slow.hit("a")
        assert await layer.limits.slow.hit("b")
        assert await layer.limits.slow.hit("a:b")
        assert await layer.limits.orders.hit("a")
        assert await layer.limits.slow.remaining("A") == 3
        assert await layer.limits.slow.hit(1)
        assert await layer.limits.slow.remaining("1") == 2


async def test_reset_forgets_one_id(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        for id in ("a", "b"):
            await layer.limits.slow.hit(id, cost=3)
        await layer.limits.slow.reset("a")
        await layer.limits.slow.reset("never seen")
        assert await layer.limits.slow.remaining("a") == 3
        assert not await layer.limits.slow.hit("b")


async def test_a_limit_that_is_lower_or_higher_elsewhere_counts_the_hits_there_are(
    named: Named,
) -> None:
    async with rtx.open(named(orders=(10, 60.0))) as high, rtx.open(named(orders=(3, 60.0))) as low:
        await high.limits.orders.hit(1, cost=5)
        decision = await low.limits.orders.hit(1)
        assert (decision.allowed, decision.remaining) == (False, 0)
        assert 59 < decision.retry_after <= 60
        assert await high.limits.orders.remaining(1) == 5
        assert (await high.limits.orders.hit(1, cost=5)).allowed


async def test_flushed_scripts_are_loaded_again_and_nothing_is_counted_twice(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        for taken in (1, 2, 3):
            await limit_witness.script_flush()
            assert (await layer.limits.slow.hit(1)).remaining == 3 - taken
            assert await layer.limits.slow.remaining(1) == 3 - taken
        await limit_witness.script_flush()
        decisions = await asyncio.gather(*(layer.limits.slow.hit(2) for _ in range(20)))
        assert sum(decision.allowed for decision in decisions) == 3
        await limit_witness.script_flush()
        assert await layer.limits.slow.refund(2) == 1
        await limit_witness.script_flush()
        assert await layer.limits.check(("slow", 2), ("orders", 2))


async def test_the_clock_of_the_caller_does_not_matter(
    limited: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = time.time
    async with rtx.open(limited) as layer:
        for offset in (0, 3_600, -3_600):
            monkeypatch.setattr(time, "time", lambda offset=offset: true() + offset)
            monkeypatch.setattr(time, "time_ns", lambda offset=offset: int((true() + offset) * 1e9))
            decision = await layer.limits.slow.hit(1)
            assert decision
            assert abs(decision.at - true()) < 60
        decision = await layer.limits.slow.hit(1)
        assert not decision
        assert 55 < decision.retry_after <= 60


async def test_a_key_of_another_kind_is_left_alone_and_closes_the_limit(
    named: Named, limit_witness: redis_py.Redis
) -> None:
    free = LimitSettings(limit=3, per=60, when_down="open")
    async with rtx.open(named(slow=(3, 60.0), free=free)) as layer:
        for name in ("slow", "free"):
            for id, value in (("list", None), ("text", b"seven b"), ("more", b"x" * 600)):
                key = layer.keys.limit(name, id)
                if value is None:
                    await limit_witness.rpush(key, "1705575045123000")
                else:
                    await limit_witness.set(key, value)
                others = [layer.limits[name].hit("sound") for _ in range(3)]
                decision, *_ = await asyncio.gather(layer.limits[name].hit(id), *others)
                assert decision.allowed is (name == "free")
                assert (decision.degraded, decision.reason) == (True, "wrong_type")
                assert await limit_witness.type(key) == (b"list" if value is None else b"string")
            stats = layer.limits[name].stats
            assert stats.degraded == {"wrong_type": 3}
            assert layer.limits[name].stats.errors == 3
