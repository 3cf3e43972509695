"""What was sent and not answered is not sent again: neither a hit nor an execution is doubled."""

from __future__ import annotations

import asyncio
import signal

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually

CALLS = 20


async def healthy(layer: rtx.DataLayer) -> None:
    async def ready() -> bool:
        return (await layer.health()).ready

    await eventually(ready)


def fill(order_id: int) -> rtx.Execution:
    return rtx.Execution(order_id, 2, "EURUSD", "BUY", 1.0, 1.1)


async def test_a_call_that_timed_out_happened_once_or_not_at_all(
    own_server: ServerProcess, brief: Settings
) -> None:
    async with rtx.open(brief) as layer:
        own_server.kill(signal.SIGSTOP)
        hits = [layer.limits.api.hit("user-7") for _ in range(CALLS)]
        fills = [layer.executions.publish(1, fill(number)) for number in range(CALLS)]
        decisions = await asyncio.gather(*hits)
        assert all(decision.degraded and decision.maybe_taken for decision in decisions)
        for error in await asyncio.gather(*fills, return_exceptions=True):
            assert isinstance(error, rtx.Unavailable)
            assert error.maybe_applied
        own_server.kill(signal.SIGCONT)
        await healthy(layer)
        taken = 100 - await layer.limits.api.remaining("user-7")
        assert taken <= CALLS
        history = await layer.executions.history(1, limit=1_000)
        order_ids = [one.order_id for one in history.messages]
        assert len(order_ids) == len(set(order_ids)) <= CALLS


async def test_a_call_whose_connection_was_cut_happened_once_or_not_at_all(
    own_server: ServerProcess,
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url)) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        lost = 0
        for round_ in range(10):
            # The server has read the calls and holds them back when it cuts the connection.
            await witness.client_pause(30, all=round_ % 2 == 0)
            calls = [asyncio.ensure_future(layer.limits.api.hit(round_)) for _ in range(CALLS)]
            calls += [
                asyncio.ensure_future(layer.executions.publish(round_, fill(number)))
                for number in range(CALLS)
            ]
            await asyncio.sleep(0.002)
            await witness.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            results = await asyncio.gather(*calls, return_exceptions=True)
            await healthy(layer)
            hits, fills = results[:CALLS], results[CALLS:]
            assert all(isinstance(one, rtx.Decision) for one in hits)
            done = sum(not one.degraded for one in hits)
            unsure = sum(one.maybe_taken for one in hits)
            taken = 100 - await layer.limits.api.remaining(round_)
            assert done <= taken <= done + unsure
            lost += unsure

            errors = [one for one in fills if isinstance(one, BaseException)]
            assert all(isinstance(one, rtx.Unavailable) for one in errors)
            unsure = sum(one.maybe_applied for one in errors)
            last = (await layer.executions.history(round_, limit=0)).last.seq
            assert CALLS - len(errors) <= last <= CALLS - len(errors) + unsure
            lost += unsure
        assert lost > 0


async def test_a_call_that_was_never_sent_says_so(
    own_server: ServerProcess, brief: Settings
) -> None:
    async with rtx.open(brief) as layer:
        own_server.kill()
        await own_server.wait()
        await layer.limits.api.hit(1)
        decision = await layer.limits.api.hit(1)
        assert (decision.degraded, decision.maybe_taken) == (True, False)
        with pytest.raises(rtx.Unavailable) as unavailable:
            await layer.executions.publish(1, fill(1))
        assert not unavailable.value.maybe_applied
        assert unavailable.value.retryable


async def test_a_subscriber_on_a_frozen_server_is_told_and_goes_on_after_the_thaw(
    own_server: ServerProcess, brief: Settings
) -> None:
    async with (
        rtx.open(brief) as layer,
        layer.executions.subscribe(1) as fills,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await fills.ready()
        await ticks.ready()
        own_server.kill(signal.SIGSTOP)

        async def noticed() -> bool:
            return not (await layer.health()).subscriber.up

        await eventually(noticed, within=5)
        own_server.kill(signal.SIGCONT)
        await healthy(layer)
        await layer.executions.publish(1, fill(1))
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert gap.recovered
        assert gap.duration > 0
        first = await anext(fills)
        assert isinstance(first, rtx.Execution)
        assert first.order_id == 1
        assert isinstance(await anext(ticks), rtx.Gap)
