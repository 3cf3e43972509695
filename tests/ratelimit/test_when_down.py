"""Limits without their server: closed, open, or held in this process; no error, no silence."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import Unavailable
from rtx.ratelimit import outages
from rtx.setting_groups import LimiterSettings, LimitSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.ratelimit.conftest import with_limits

DEADLINE = 0.2


@pytest.fixture
def settings(own_server: ServerProcess) -> Settings:
    """`orders` closed, `reads` open, `quotes` local for two processes, all 6 in a minute."""
    return with_limits(
        Settings.load(url=own_server.url),
        LimiterSettings(deadline=DEADLINE, processes=2, local_for=20.0),
        orders=LimitSettings(limit=6, per=60.0, when_down="closed"),
        reads=LimitSettings(limit=6, per=60.0, when_down="open"),
        quotes=LimitSettings(limit=6, per=60.0, when_down="local"),
    )


@pytest.fixture
async def layer(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    async with rtx.open(settings) as opened:
        for limit in opened.limits.values():
            assert await limit.hit("before")
        yield opened


async def down(server: ServerProcess) -> None:
    server.kill()
    await server.wait()


async def test_a_closed_limit_denies_with_the_reason(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    await down(own_server)
    for _ in range(20):
        decision = await layer.limits.orders.hit(1)
        assert (decision.allowed, decision.degraded, decision.policy) == (False, True, "orders")
        assert decision.reason in ("connection_lost", "connect_failed")
        assert decision.retry_after == 1.0
        assert not decision.maybe_taken
    stats = layer.limits.orders.stats
    assert (stats.allowed, stats.denied, stats.errors, stats.lost) == (1, 20, 20, 0)
    assert sum(stats.degraded.values()) == 20
    assert (await layer.limits.orders.hit(1, cost=7)).retry_after == math.inf


async def test_an_open_limit_allows_and_says_that_it_did_not_count(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    await down(own_server)
    decisions = [await layer.limits.reads.hit(1) for _ in range(20)]
    assert all(decision.allowed and decision.degraded for decision in decisions)
    assert not await layer.limits.reads.hit(1, cost=7)
    stats = layer.stats()["limit.reads"]
    assert (stats["allowed"], stats["denied"], stats["errors"]) == (21, 1, 21)


async def test_a_local_limit_holds_this_processs_share_and_then_closes(
    layer: rtx.DataLayer, own_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await down(own_server)
    quotes = layer.limits.quotes
    assert not (await quotes.peek(1, cost=4)).allowed
    decisions = [await quotes.hit(1) for _ in range(5)]
    assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 2
    assert all(decision.degraded for decision in decisions)
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0, 0]
    assert await quotes.hit(2, cost=3)
    decision = await quotes.hit(3, cost=4)  # more than the share, less than the limit
    assert (decision.allowed, decision.retry_after) == (False, 1.0)
    [outage] = layer.limits._outages.found.values()
    outage.since -= 20.0
    decision = await quotes.hit(4)
    assert (decision.allowed, decision.degraded, decision.retry_after) == (False, True, 1.0)


async def test_a_local_limit_closes_in_time_though_hits_are_rare(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    await down(own_server)
    assert await layer.limits.quotes.hit(1)
    [outage] = layer.limits._outages.found.values()
    outage.since -= 60.0  # a minute without a hit
    outage.last -= 60.0
    await eventually(lambda: time.monotonic() - outage.last < 30.0)
    decision = await layer.limits.quotes.hit(2)
    assert (decision.allowed, decision.degraded) == (False, True)


async def test_a_local_window_moves_on(own_server: ServerProcess) -> None:
    quotes = LimitSettings(limit=2, per=0.2, when_down="local")
    settings = with_limits(Settings.load(url=own_server.url), quotes=quotes)
    async with rtx.open(settings) as layer:
        await down(own_server)
        allowed: list[float] = []
        while len(allowed) < 7:
            decision = await layer.limits.quotes.hit(1)
            assert decision.degraded
            if decision.allowed:
                allowed.append(time.monotonic())
            await asyncio.sleep(decision.retry_after)
        # Noted after each was allowed, so a real distance may look shorter by that much.
        pairs = zip(allowed, allowed[2:], strict=False)
        assert all(later - first > 0.15 for first, later in pairs)


async def test_a_frozen_server_costs_one_deadline_and_then_nothing(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    orders = layer.limits.orders
    own_server.kill(signal.SIGSTOP)
    try:
        loop = asyncio.get_running_loop()
        started = loop.time()
        decisions = await asyncio.gather(*(orders.hit(1) for _ in range(50)))
        first = loop.time() - started
        assert {decision.reason for decision in decisions} == {"timeout"}
        assert all(decision.maybe_taken and not decision.allowed for decision in decisions)
        started = loop.time()
        later = [await orders.hit(1) for _ in range(50)]
        then = loop.time() - started
        print(f"50 at once: {first * 1000:.0f} ms; the next 50: {then * 1000:.1f} ms")
        assert not any(later)
        assert sum(decision.maybe_taken for decision in later) <= then / outages._TRY_EVERY + 1
        assert orders.stats.lost == 50 + sum(decision.maybe_taken for decision in later)
    finally:
        own_server.kill(signal.SIGCONT)

    async def again() -> bool:
        return not (await orders.hit(2)).degraded

    await eventually(again)
    assert not layer.limits._outages.found
    # What was sent and not answered is counted once or not at all.
    taken = 6 - await orders.remaining(1)
    assert taken <= 6


async def test_hits_that_were_lost_are_counted_at_most_once(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    async with redis_py.Redis.from_url(own_server.url) as witness:
        for id in range(5):
            await witness.client_pause(400)
            decisions = await asyncio.gather(*(layer.limits.orders.hit(id) for _ in range(3)))
            assert all(decision.degraded for decision in decisions)
            sent = sum(decision.maybe_taken for decision in decisions)

            async def answered() -> bool:
                return (await layer.health()).ready

            await eventually(answered)
            assert 6 - await layer.limits.orders.remaining(id) <= sent


async def test_what_has_no_decision_raises(layer: rtx.DataLayer, own_server: ServerProcess) -> None:
    await down(own_server)
    orders = layer.limits.orders
    for call in (
        lambda: orders.remaining(1),
        lambda: orders.reset(1),
        lambda: orders.refund(1),
        lambda: layer.limits.define("orders", limit=3),
        lambda: layer.limits.override("orders", 1, limit=3),
    ):
        with pytest.raises(Unavailable) as unavailable:
            await call()
        assert not unavailable.value.maybe_applied
    assert orders.limit == 6


async def test_a_check_is_closed_by_any_limit_that_is(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    await down(own_server)
    limits = layer.limits
    for _ in range(3):
        decision = await limits.check(("reads", 1), ("quotes", 1, 2), ("orders", 1))
        assert (decision.allowed, decision.policy, decision.degraded) == (False, "orders", True)
    # None of the denials took anything of the local share.
    decision = await limits.check(("reads", 1), ("quotes", 1, 3))
    assert (decision.allowed, decision.policy, decision.degraded) == (True, "quotes", True)
    assert not await limits.check(("reads", 1), ("quotes", 1))


async def test_the_limits_go_on_when_the_server_is_back(
    layer: rtx.DataLayer, own_server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    await down(own_server)
    assert (await layer.limits.orders.hit(1)).degraded
    await own_server.start()

    async def back() -> bool:
        decision = await layer.limits.orders.hit(1)
        return decision.allowed and not decision.degraded

    await eventually(back)
    texts = [record.getMessage() for record in caplog.records if record.name == "rtx.ratelimit"]
    assert texts[0].startswith("limits are decided without their server: ")
    assert texts[-1].startswith("limits are decided by their server again, after ")
    assert len(texts) == 2


async def test_a_restarted_server_that_forgot_the_script_is_told_it_again(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    for id in range(3):
        await own_server.stop()
        await own_server.start()

        async def ready() -> bool:
            return (await layer.health()).ready

        await eventually(ready)
        decisions = await asyncio.gather(*(layer.limits.orders.hit(id) for _ in range(10)))
        assert not any(decision.degraded for decision in decisions)
        assert sum(decision.allowed for decision in decisions) == 6


async def test_a_server_that_answers_with_errors_is_asked_each_time(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    async with redis_py.Redis.from_url(own_server.url) as witness:
        await witness.config_set("maxmemory", 1)
        for _ in range(5):
            decision = await layer.limits.orders.hit(1)
            assert (decision.allowed, decision.reason) == (False, "out_of_memory")
            assert not decision.maybe_taken
        await witness.config_set("maxmemory", 0)
    decision = await layer.limits.orders.hit(1)
    assert (decision.allowed, decision.degraded, decision.remaining) == (True, False, 5)
    assert layer.limits.orders.stats.degraded == {"out_of_memory": 5}


async def test_a_closed_layer_closes_its_limits(settings: Settings) -> None:
    before = asyncio.all_tasks()
    async with rtx.open(settings) as layer:
        hits = [asyncio.ensure_future(layer.limits.orders.hit(1)) for _ in range(5)]
        await asyncio.sleep(0)
    for decision in await asyncio.gather(*hits):  # decided before the end, or denied by it
        assert decision.allowed is not decision.degraded
    decision = await layer.limits.orders.hit(1)
    assert (decision.allowed, decision.reason) == (False, "unavailable")
    assert asyncio.all_tasks() == before
