"""Hits that were taken for nothing go back, and nobody else's do."""

from __future__ import annotations

import asyncio

import pytest

import rtx
from rtx.setting_groups import LimitSettings
from tests.conftest import eventually
from tests.ratelimit.conftest import Named


@pytest.mark.parametrize("limit", [10, 400])
async def test_exactly_the_hits_of_a_decision_go_back(named: Named, limit: int) -> None:
    async with rtx.open(named(orders=(limit, 60.0))) as layer:
        orders = layer.limits.orders
        decisions = [await orders.hit(1, cost=limit // 5) for _ in range(5)]
        assert not await orders.hit(1)
        assert await orders.refund(1, cost=limit // 5, of=decisions[2]) == limit // 5
        assert await orders.refund(1, cost=limit // 5, of=decisions[2]) == 0
        assert await orders.remaining(1) == limit // 5
        # The hit that frees the next place is still the oldest that was kept.
        again = await orders.hit(1, cost=limit // 5)
        assert again
        denied = await orders.hit(1)
        free_at = decisions[0].at + 60
        assert denied.at + denied.retry_after == pytest.approx(free_at, abs=1e-5)
        assert orders.stats.refunded == limit // 5


async def test_without_a_decision_the_oldest_hits_go_back(named: Named) -> None:
    async with rtx.open(named(orders=(3, 60.0))) as layer:
        orders = layer.limits.orders
        decisions = [await orders.hit(1) for _ in range(3)]
        assert await orders.refund(1) == 1
        assert await orders.hit(1)
        denied = await orders.hit(1)
        free_at = decisions[1].at + 60
        assert denied.at + denied.retry_after == pytest.approx(free_at, abs=1e-5)
        assert await orders.refund(1, cost=99) == 3
        assert await orders.refund(1) == 0
        assert await orders.remaining(1) == 3


async def test_a_refund_that_comes_too_late_does_nothing(named: Named) -> None:
    async with rtx.open(named(brief=(2, 0.2))) as layer:
        brief = layer.limits.brief

        async def too_late() -> bool:
            decision = await brief.hit(1)
            await asyncio.sleep(max(0.21, decision.retry_after))
            later = await brief.hit(1)
            if not (decision and later):
                return False  # this machine slept through a window
            return await brief.refund(1, of=decision) == 0 and await brief.remaining(1) == 1

        await eventually(too_late)


async def test_a_denied_decision_has_nothing_to_give_back(named: Named) -> None:
    async with rtx.open(named(orders=(2, 60.0))) as layer:
        await layer.limits.orders.hit(1, cost=2)
        denied = await layer.limits.orders.hit(1)
        assert await layer.limits.orders.refund(1, of=denied) == 0
        assert await layer.limits.orders.remaining(1) == 0


async def test_a_counter_gives_back_what_still_counts(named: Named) -> None:
    counter = LimitSettings(limit=10, per=60.0, algorithm="sliding_counter")
    async with rtx.open(named(count=counter)) as layer:
        count = layer.limits["count"]
        decision = await count.hit(1, cost=10)
        assert await count.refund(1, cost=4, of=decision) == 4
        assert await count.remaining(1) == 4
        assert await count.refund(1, cost=99) == 6
        assert await count.remaining(1) == 10
