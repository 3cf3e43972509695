"""What the server has denied for a time, a process denies by itself for that time."""

from __future__ import annotations

import asyncio
import math

import pytest

import rtx
from rtx.ratelimit.known import _MOST
from rtx.topology import Role
from tests.conftest import eventually
from tests.ratelimit.conftest import Named


class Asked:
    """Counts the calls of the limits' server that a layer makes for hits."""

    def __init__(self, layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        decider = layer.limits.orders._decider
        for name in ("call", "decide_together", "gather"):
            monkeypatch.setattr(decider, name, self._counted(getattr(decider, name)))

    def _counted(self, call):
        def counted(*args, **options):
            self.count += 1
            return call(*args, **options)

        return counted


async def test_a_known_denial_is_not_asked_for_again(
    named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rtx.open(named(orders=(3, 60.0))) as layer:
        orders, asked = layer.limits.orders, Asked(layer, monkeypatch)
        for _ in range(3):
            assert await orders.hit(1)
        first = await orders.hit(1)
        assert asked.count == 4
        again = [await orders.hit(1) for _ in range(500)]
        assert asked.count == 4
        assert not any(again)
        assert [d.limit for d in again] == [3] * 500
        waits = [first.retry_after, *(d.retry_after for d in again)]
        assert waits == sorted(waits, reverse=True)
        assert 50 < waits[-1] <= waits[0] <= 60
        assert (orders.stats.denied, orders.stats.known_denied) == (501, 500)
        assert await orders.hit(2)
        assert asked.count == 5


async def test_the_server_is_asked_again_when_the_wait_is_over(named: Named) -> None:
    async with rtx.open(named(brief=(1, 0.1))) as layer:
        brief, allowed = layer.limits.brief, 0
        while allowed < 5:
            decision = await brief.hit(1)
            allowed += decision.allowed
            await asyncio.sleep(decision.retry_after)
        assert layer.limits.brief.stats.errors == 0


async def test_a_denial_of_one_cost_says_nothing_about_another(named: Named) -> None:
    async with rtx.open(named(orders=(5, 60.0))) as layer:
        orders = layer.limits.orders
        await orders.hit(1, cost=3)
        assert not await orders.hit(1, cost=5)
        assert not await orders.hit(1, cost=5)
        assert orders.stats.known_denied == 1
        assert await orders.hit(1)
        assert (await orders.hit(1, cost=6)).retry_after == math.inf
        assert await orders.hit(1, cost=1)
        assert orders.stats.known_denied == 1


@pytest.mark.parametrize("how", ["reset", "refund", "define", "override"])
async def test_whoever_frees_hits_here_is_believed_at_once(named: Named, how: str) -> None:
    async with rtx.open(named(orders=(2, 60.0))) as layer:
        orders = layer.limits.orders
        decision = await orders.hit(7, cost=2)
        assert not await orders.hit(7)
        assert not await orders.hit(7)
        match how:
            case "reset":
                await orders.reset("7")
            case "refund":
                await orders.refund("7", of=decision)
            case "define":
                await layer.limits.define("orders", limit=3)
            case "override":
                await layer.limits.override("orders", 7, limit=3)
        assert await orders.hit(7)


async def test_who_hits_without_a_pause_starves_nobody(named: Named) -> None:
    async with rtx.open(named(orders=(1, 60.0))) as layer:
        for _ in range(2):
            await layer.limits.orders.hit(1)
        turns, done = 0, asyncio.Event()

        async def knock() -> None:
            while not done.is_set():
                assert not await layer.limits.orders.hit(1)

        async def other() -> None:
            nonlocal turns
            while turns < 100:
                await asyncio.sleep(0)
                turns += 1
            done.set()

        await asyncio.gather(knock(), other())
        assert layer.limits.orders.stats.known_denied > 1_000


async def test_what_is_known_is_bounded(named: Named) -> None:
    async with rtx.open(named(orders=(1, 600.0))) as layer:
        orders = layer.limits.orders
        ids = range(_MOST + 500)
        for start in range(0, len(ids), 1_000):
            part = ids[start : start + 1_000]
            await asyncio.gather(*(orders.hit(id) for id in part))
            await asyncio.gather(*(orders.hit(id) for id in part))
        assert orders.stats.denied == len(ids)
        assert len(orders._known) == _MOST
        assert 499 not in orders._known
        assert 500 in orders._known


async def test_a_refund_elsewhere_is_seen_when_the_wait_is_over(named: Named) -> None:
    settings = named(orders=(1, 0.3))
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        decision = await layer.limits.orders.hit(1)
        denied = await layer.limits.orders.hit(1)
        await other.limits.orders.refund(1, of=decision)

        async def seen() -> bool:
            return bool(await layer.limits.orders.hit(1))

        await eventually(seen, within=denied.retry_after + 5)
        assert layer._roles.pool(Role.LIMITS).down is None
