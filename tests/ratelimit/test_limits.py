"""What a limit tells its callers, and what leaves it as it was."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import SettingsError
from rtx.settings import LimitSettings, Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.ratelimit.conftest import server_micros


@pytest.fixture
def limited(settings: Settings) -> Settings:
    """`orders`: 10 a second; `slow`: 3 a minute; `brief`: 2 in 200 ms."""
    return settings.model_copy(
        update={
            "limits": {
                "slow": LimitSettings(limit=3, per=60.0),
                "brief": LimitSettings(limit=2, per=0.2),
            }
        }
    )


async def test_the_documented_limits_are_there(layer: rtx.DataLayer) -> None:
    assert (layer.limits.api.limit, layer.limits.api.per) == (100, 60.0)
    assert (layer.limits.orders.limit, layer.limits.orders.per) == (10, 1.0)
    assert layer.limits.names() == ["api", "orders"]
    assert layer.limits["api"] is layer.limits.api
    with pytest.raises(SettingsError, match=r"no limit is named 'nope'; there are api, orders"):
        layer.limits["nope"]
    with pytest.raises(SettingsError, match="nope"):
        _ = layer.limits.nope


async def test_decisions_count_down_and_deny(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        slow = layer.limits.slow
        decisions = [await slow.hit("user-7") for _ in range(4)]
        assert [bool(decision) for decision in decisions] == [True, True, True, False]
        assert [decision.remaining for decision in decisions] == [2, 1, 0, 0]
        assert [decision.limit for decision in decisions] == [3] * 4
        assert [decision.retry_after for decision in decisions[:3]] == [0.0] * 3
        assert 59 < decisions[3].retry_after <= 60
        assert decisions[0].reset_after == pytest.approx(60, abs=0.001)
        assert 59 < decisions[3].reset_after <= 60


async def test_retry_after_is_true_to_the_moment(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        brief = layer.limits.brief
        for _ in range(5):
            await brief.reset(1)
            await brief.hit(1)
            await asyncio.sleep(0.05)
            await brief.hit(1)
            denied = await brief.peek(1)
            now = await server_micros(limit_witness)
            if denied.allowed:
                continue  # this machine slept through the window
            free_at = now + denied.retry_after * 1e6  # `now` is after the decision, so no earlier
            assert denied.retry_after <= 0.2
            while True:
                before = await server_micros(limit_witness)
                decision = await brief.peek(1)
                after = await server_micros(limit_witness)
                if decision.allowed:
                    break
                assert before <= free_at
                assert decision.retry_after * 1e6 <= free_at - before + 1
            hits = await limit_witness.lrange(layer.keys.limit("brief", 1), 0, 0)
            if hits:
                assert after >= int(hits[0]) + 200_000


async def test_who_waits_for_retry_after_is_let_in(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        brief = layer.limits.brief
        for _ in range(6):
            decision = await brief.hit(1)
            if not decision.allowed:
                await asyncio.sleep(decision.retry_after + 0.002)
                assert (await brief.hit(1)).allowed


async def test_a_denied_call_takes_nothing(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        key = layer.keys.limit("slow", 1)
        await layer.limits.slow.hit(1, cost=2)
        hits = await limit_witness.lrange(key, 0, -1)
        for _ in range(10):
            assert not await layer.limits.slow.hit(1, cost=2)
        assert await limit_witness.lrange(key, 0, -1) == hits
        assert await layer.limits.slow.hit(1)


async def test_a_cost_above_the_limit_can_never_be_allowed(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        decision = await layer.limits.slow.hit(1, cost=4)
        assert (decision.allowed, decision.retry_after) == (False, math.inf)
        assert (decision.remaining, decision.reset_after) == (3, 0.0)
        assert (await layer.limits.slow.hit(1, cost=3)).allowed
        assert (await layer.limits.slow.peek(1, cost=4)).retry_after == math.inf


@pytest.mark.parametrize("cost", [0, -1])
async def test_a_cost_below_one_is_refused(layer: rtx.DataLayer, cost: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        await layer.limits.orders.hit(1, cost=cost)
    with pytest.raises(ValueError, match="1 or more"):
        await layer.limits.orders.peek(1, cost=cost)


async def test_peeking_takes_nothing(limited: Settings, limit_witness: redis_py.Redis) -> None:
    async with rtx.open(limited) as layer:
        assert await layer.limits.slow.peek(1) == rtx.Decision(True, 3, 3, 0.0, 0.0)
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


async def test_a_key_lives_one_window_after_its_last_hit(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        key = layer.keys.limit("slow", 1)
        await layer.limits.slow.hit(1)
        assert 55_000 < await limit_witness.pttl(key) <= 60_000
        await layer.limits.slow.hit(1, cost=3)
        await layer.limits.brief.hit(1)

        async def gone() -> bool:
            return not await limit_witness.exists(layer.keys.limit("brief", 1))

        await eventually(gone, within=5)


async def test_a_key_holds_no_more_hits_than_the_limit(
    settings: Settings, limit_witness: redis_py.Redis
) -> None:
    named = {"quick": LimitSettings(limit=3, per=0.01)}
    async with rtx.open(settings.model_copy(update={"limits": named})) as layer:
        for _ in range(60):
            await layer.limits.quick.hit(1)
            assert await limit_witness.llen(layer.keys.limit("quick", 1)) <= 3


async def test_a_limit_that_was_lowered_or_raised_counts_the_hits_there_are(
    settings: Settings,
) -> None:
    def limit(number: int) -> Settings:
        named = {"orders": LimitSettings(limit=number, per=60.0)}
        return settings.model_copy(update={"limits": named})

    async with rtx.open(limit(10)) as high, rtx.open(limit(3)) as low:
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
            assert await limit_witness.llen(layer.keys.limit("slow", 1)) == taken


async def test_the_clock_of_the_caller_does_not_matter(
    limited: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = time.time
    async with rtx.open(limited) as fast:
        for offset in (0, 3_600, -3_600):
            monkeypatch.setattr(time, "time", lambda offset=offset: true() + offset)
            monkeypatch.setattr(time, "time_ns", lambda offset=offset: int((true() + offset) * 1e9))
            assert await fast.limits.slow.hit(1)
        decision = await fast.limits.slow.hit(1)
        assert not decision
        assert 55 < decision.retry_after <= 60


async def test_without_a_server_a_limit_is_unavailable_and_counts_that(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        assert await layer.limits.orders.hit(1)
        own_server.kill()
        await own_server.wait()
        for call in (
            lambda: layer.limits.orders.hit(1),
            lambda: layer.limits.orders.peek(1),
            lambda: layer.limits.orders.remaining(1),
            lambda: layer.limits.orders.reset(1),
        ):
            with pytest.raises(rtx.Unavailable) as unavailable:
                await call()
            assert not unavailable.value.maybe_applied
        stats = layer.stats()["limit.orders"]
        assert (stats["allowed"], stats["denied"], stats["errors"]) == (1, 0, 3)
        await own_server.start()

        async def allowed() -> bool:
            try:
                return bool(await layer.limits.orders.hit(1))
            except rtx.Unavailable:
                return False

        await eventually(allowed)
