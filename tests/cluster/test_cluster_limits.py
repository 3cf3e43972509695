"""Several limits in one decision, where each has its key in another slot."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

import rtx
from rtx.ratelimit import RateLimited
from rtx.setting_groups import ConcurrencySettings, LimiterSettings, LimitSettings
from rtx.settings import Settings
from rtx.topology.slots import key_slot
from tests.conftest import eventually


@pytest.fixture
def several(settings: Settings) -> Settings:
    limits = {
        "api": LimitSettings(limit=50, per=60.0),
        "orders": LimitSettings(limit=7, per=60.0),
        "lots": LimitSettings(limit=1_000, per=60.0),
    }
    limiter = LimiterSettings(deadline=5.0)
    return settings.model_copy(update={"limits": limits, "limiter": limiter})


async def test_slots_take_their_hits_in_turn_and_give_them_back_on_a_denial(
    several: Settings,
) -> None:
    async with rtx.open(several) as layer, rtx.open(several) as other:
        names = ("api", "lots", "orders")
        assert len({key_slot(layer.keys.limit(name, 1).encode()) for name in names}) == 3
        decisions = await asyncio.gather(
            *(
                each.limits.check(("api", 1), ("lots", 1, 3), ("orders", 1))
                for _ in range(20)
                for each in (layer, other)
            )
        )
        assert sum(decision.allowed for decision in decisions) == 7
        assert {d.policy for d in decisions if not d.allowed} == {"orders"}
        assert all(0 < d.retry_after <= 60 for d in decisions if not d.allowed)
        left = {name: await layer.limits[name].remaining(1) for name in names}
        assert left == {"api": 43, "lots": 979, "orders": 0}
        each = await layer.limits.check_each(("api", 1), ("lots", 1, 3), ("orders", 2, 8))
        assert {decision.policy: decision.remaining for decision in each} == {**left, "orders": 7}
        print(f"given back: {[layer.limits[name].stats.refunded for name in names]}")


async def test_a_check_that_is_cancelled_halfway_gives_back_what_it_took(
    several: Settings,
) -> None:
    async with rtx.open(several) as layer:
        for _ in range(5):
            check = asyncio.ensure_future(
                layer.limits.check(("api", 1), ("lots", 1), ("orders", 1))
            )
            taken = layer.limits.api.remaining

            async def begun() -> bool:
                return await taken(1) < 50  # noqa: B023

            await eventually(begun, every=0)
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)

            async def whole() -> bool:
                left = [await limit.remaining(1) for limit in layer.limits.values()]
                return left in ([50, 7, 1_000], [49, 6, 999])

            await eventually(whole)
            for limit in layer.limits.values():
                await limit.reset(1)


async def test_a_shard_without_answers_closes_the_check_and_the_others_lose_nothing(
    several: Settings,
) -> None:
    async with rtx.open(several) as layer:
        lots = layer.limits.lots
        ask = lots._decider.decide_together

        async def lost(keys: list[str], rules: list[bytes]) -> bytes:
            if keys[0] == lots.key_of(1):
                raise rtx.errors.CallTimeout("cut off", maybe_applied=True)
            return await ask(keys, rules)

        lots._decider.decide_together = lost  # type: ignore[method-assign]
        decision = await layer.limits.check(("api", 1), ("lots", 1), ("orders", 1))
        assert (decision.allowed, decision.degraded) == (False, True)
        assert (decision.reason, decision.maybe_taken) == ("timeout", True)
        assert await layer.limits.api.hit(1, cost=50)
        assert await layer.limits.orders.hit(1, cost=7)


async def test_places_of_many_ids_are_held_in_many_slots(settings: Settings) -> None:
    limiter = LimiterSettings(deadline=5.0)
    places = {"reports": ConcurrencySettings(limit=2, lease=60.0)}
    named = settings.model_copy(update={"limiter": limiter, "concurrency": places})
    async with rtx.open(named) as layer, rtx.open(named) as other:
        reports = layer.limits.concurrency["reports"]
        ids = range(20)
        assert len({key_slot(layer.keys.concurrency("reports", id).encode()) for id in ids}) > 10
        async with AsyncExitStack() as stack:
            for id in ids:
                for each in (layer, other):
                    place = each.limits.concurrency["reports"].hold(id)
                    assert (await stack.enter_async_context(place)).held
                with pytest.raises(RateLimited):
                    await reports.hold(id).__aenter__()
            assert [await reports.taken(id) for id in ids] == [2] * 20
        assert [await reports.taken(id) for id in ids] == [0] * 20
        assert reports.stats.errors == 0
