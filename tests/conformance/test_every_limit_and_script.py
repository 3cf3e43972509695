"""Limits on every server, and the scripts that the server forgets at will."""

from __future__ import annotations

import asyncio
import math

import rtx
from rtx.setting_groups import ConcurrencySettings
from tests.conformance.deployments import Deployment, client_of
from tests.conformance.samples import fill, quote
from tests.conformance.servers import everywhere

pytestmark = everywhere


async def test_of_many_hits_at_once_exactly_the_limit_is_allowed(
    deployment: Deployment, namespace: str
) -> None:
    # Windows that outlast any stall of a busy machine, so that the numbers are exact.
    limits = {
        "orders": {"limit": 10, "per": 60},
        "api": {"limit": 100, "per": 60, "when_down": "closed"},
    }
    settings = deployment.settings(namespace, limits=limits, limiter={"deadline": 10})
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        for subject in range(4):
            hits = [each.limits.orders.hit(subject) for _ in range(20) for each in (layer, other)]
            decisions = await asyncio.gather(*hits)
            assert sum(decision.allowed for decision in decisions) == 10
            assert sorted(d.remaining for d in decisions if d.allowed) == list(range(10))
            assert all(0 < d.retry_after <= 60 for d in decisions if not d.allowed)
        many = await asyncio.gather(*(layer.limits.api.hit("ann") for _ in range(150)))
        assert sum(decision.allowed for decision in many) == 100
        assert (await layer.limits.orders.hit(9, cost=11)).retry_after == math.inf
        await layer.limits.orders.reset(1)
        assert (await other.limits.orders.peek(1)).remaining == 10


async def test_the_window_moves_on_by_the_servers_clock(
    deployment: Deployment, namespace: str
) -> None:
    limits = {"quick": {"limit": 2, "per": "200ms"}}
    async with rtx.open(deployment.settings(namespace, limits=limits)) as layer:
        limit = layer.limits["quick"]
        decision = await limit.hit(1, cost=2)
        while decision.retry_after == 0:  # until one is denied within the window of another
            decision = await limit.hit(1, cost=2)
        await asyncio.sleep(decision.retry_after + 0.005)  # timers of a loop may be a little early
        assert (await limit.hit(1, cost=2)).allowed


async def test_never_more_than_the_places_are_taken_and_all_are_given_back(
    deployment: Deployment, namespace: str
) -> None:
    settings = deployment.settings(
        namespace, concurrency={"reports": {"limit": 3, "lease": 60}}, limiter={"deadline": 10}
    )
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        inside: list[int] = [0] * 4
        most = [0] * 4

        async def use(each: rtx.DataLayer, subject: int) -> None:
            async with each.limits.concurrency["reports"].hold(subject, wait=30) as lease:
                assert lease.held
                inside[subject] += 1
                most[subject] = max(most[subject], inside[subject])
                await asyncio.sleep(0.001)
                inside[subject] -= 1

        await asyncio.gather(
            *(use(each, id) for id in range(4) for _ in range(8) for each in (layer, other))
        )
        assert most == [3] * 4
        assert [await layer.limits.concurrency["reports"].taken(id) for id in range(4)] == [0] * 4


async def test_no_caller_hears_of_a_forgotten_script(
    deployment: Deployment, layer: rtx.DataLayer
) -> None:
    primaries = await deployment.primaries()
    done = asyncio.Event()
    flushes = 0

    async def flush() -> None:
        nonlocal flushes
        clients = [client_of(server) for server in primaries]
        while not done.is_set():
            for client in clients:
                await client.script_flush()
            flushes += 1
        for client in clients:
            await client.aclose()

    reports = layer.limits.concurrency.named("reports", ConcurrencySettings(limit=1))

    async def use(account: int) -> None:
        for number in range(1, 16):
            assert (await layer.executions.publish(account, fill(number))).seq == number
            assert (await layer.limits.api.hit(account)).remaining == 100 - number
            async with reports.hold(account):
                pass
            await layer.market_data.publish(quote(f"SYM{account}", number))
        assert len((await layer.executions.history(account)).messages) == 15

    flushing = asyncio.create_task(flush())
    await asyncio.gather(*(use(account) for account in range(1, 9)))
    done.set()
    await flushing
    assert flushes
