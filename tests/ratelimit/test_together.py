"""Several limits in one decision: all of them take the hit, or none does."""

from __future__ import annotations

import asyncio
import math

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import SettingsError
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings
from tests.ratelimit.conftest import Named


@pytest.fixture
def several(named: Named) -> Settings:
    counter = LimitSettings(limit=6, per=60.0, algorithm="sliding_counter")
    return named(api=(5, 60.0), orders=(3, 30.0), lots=(10, 60.0), count=counter)


async def left(layer: rtx.DataLayer, id: int = 1) -> dict[str, int]:
    return {name: await limit.remaining(id) for name, limit in layer.limits.items()}


async def test_all_limits_take_the_hit_and_the_tightest_is_told(several: Settings) -> None:
    async with rtx.open(several) as layer:
        decision = await layer.limits.check(
            ("api", 1), ("orders", 1), ("lots", 1, 4), ("count", 1, 2)
        )
        assert decision.allowed
        assert (decision.policy, decision.limit, decision.remaining) == ("orders", 3, 2)
        assert await left(layer) == {"api": 4, "orders": 2, "lots": 6, "count": 4}
        stats = layer.stats()
        assert all(stats[f"limit.{name}"]["allowed"] == 1 for name in layer.limits)


async def test_each_limits_own_decision_can_be_had(several: Settings) -> None:
    wanted = (("lots", 1, 4), ("api", 1), ("count", 1, 2))
    async with rtx.open(several) as layer:
        for expected in ([6, 4, 4], [2, 3, 2]):
            decisions = await layer.limits.check_each(*wanted)
            assert all(decisions)
            assert [decision.policy for decision in decisions] == ["lots", "api", "count"]
            assert [decision.remaining for decision in decisions] == expected
        for _ in range(2):  # by the server, then as known; nothing is taken, and it is told so
            decisions = await layer.limits.check_each(*wanted)
            denied = [decision.policy for decision in decisions if not decision]
            assert denied == ["lots"]
            left_now = {decision.policy: decision.remaining for decision in decisions}
            assert left_now.items() <= {"lots": 2, "api": 3, "count": 2}.items()


@pytest.mark.parametrize("denying", ["api", "orders", "lots", "count"])
async def test_a_denial_by_any_of_them_takes_nothing_from_the_others(
    several: Settings, limit_witness: redis_py.Redis, denying: str
) -> None:
    async with rtx.open(several) as layer:
        limit = layer.limits[denying]
        await limit.hit(1, cost=limit.limit)
        before = {key: await limit_witness.dump(key) for key in await keys(limit_witness, layer)}
        for _ in range(3):
            decision = await layer.limits.check(
                ("api", 1), ("orders", 1), ("lots", 1, 2), ("count", 1)
            )
            assert (decision.allowed, decision.policy) == (False, denying)
            assert 0 < decision.retry_after <= limit.per
        after = {key: await limit_witness.dump(key) for key in await keys(limit_witness, layer)}
        assert after == before
        assert len(before) == 1
        assert (limit.stats.denied, limit.stats.known_denied) == (3, 2)


async def keys(witness: redis_py.Redis, layer: rtx.DataLayer) -> list[bytes]:
    return [key async for key in witness.scan_iter(f"{layer.keys.namespace}:*")]


async def test_of_several_denials_the_longest_is_told(several: Settings) -> None:
    async with rtx.open(several) as layer:
        await layer.limits.orders.hit(1, cost=3)
        await layer.limits.api.hit(1, cost=5)
        decision = await layer.limits.check(("orders", 1), ("api", 1), ("lots", 1))
        assert decision.policy == "api"
        assert 30 < decision.retry_after <= 60
        decision = await layer.limits.check(("orders", 1), ("api", 1), ("lots", 1, 11))
        assert (decision.policy, decision.retry_after) == ("lots", math.inf)


async def test_many_checks_at_once_never_pass_any_limit(several: Settings) -> None:
    async with rtx.open(several) as one, rtx.open(several) as other:
        decisions = await asyncio.gather(
            *(
                layer.limits.check(("api", id), ("orders", 1), ("lots", id, 2))
                for _ in range(25)
                for id in (1, 2)
                for layer in (one, other)
            )
        )
        assert sum(decision.allowed for decision in decisions) == 3
        taken = 10 - await one.limits.api.remaining(1) - await one.limits.api.remaining(2)
        assert taken == 3
        assert await one.limits.lots.remaining(1) + await one.limits.lots.remaining(2) == 14


async def test_what_cannot_be_checked_is_named(several: Settings) -> None:
    async with rtx.open(several) as layer:
        with pytest.raises(SettingsError, match="no limit is named 'nope'"):
            await layer.limits.check(("api", 1), ("nope", 1))
        with pytest.raises(ValueError, match="'api' is named twice for '1'"):
            await layer.limits.check(("api", 1), ("api", "1"))
        with pytest.raises(ValueError, match="at least one"):
            await layer.limits.check()
        assert await layer.limits.api.remaining(1) == 5


async def test_an_alien_key_closes_the_check_and_takes_nothing(
    several: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(several) as layer:
        await limit_witness.rpush(layer.keys.limit("lots", 1), "not ours")
        decision = await layer.limits.check(("api", 1), ("lots", 1))
        assert (decision.allowed, decision.reason) == (False, "wrong_type")
        assert await layer.limits.api.remaining(1) == 5
