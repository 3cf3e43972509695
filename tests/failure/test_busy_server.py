"""A server that answers, but not now: in a long script, or loading its data."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis as redis_sync
import redis.asyncio as redis_py
from redis.exceptions import RedisError

import rtx
from rtx.errors import ServerBusy
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.cache.memory import MemoryDatabase, account
from tests.conftest import eventually, wait_sync


def fill(order_id: int) -> rtx.Execution:
    return rtx.Execution(order_id, 2, "EURUSD", "BUY", 1.0, 1.1)


@contextmanager
def long_script(url: str, *, cut_subscribers: bool = False) -> Iterator[None]:
    """While inside, the server answers BUSY to nearly everything.

    It begins before the event loop goes on, so that nothing can reconnect in between.
    """
    with redis_sync.Redis.from_url(url) as runner, redis_sync.Redis.from_url(url) as witness:
        witness.config_set("busy-reply-threshold", 1)
        if cut_subscribers:
            witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        script = threading.Thread(target=_run_until_killed, args=(runner,))
        script.start()
        wait_sync(lambda: _is_busy(witness))
        try:
            yield
        finally:
            witness.execute_command("SCRIPT", "KILL")
            script.join()


def _run_until_killed(runner: redis_sync.Redis) -> None:
    with suppress(RedisError):
        runner.eval("while true do end", 0)


def _is_busy(witness: redis_sync.Redis) -> bool:
    try:
        witness.ping()
    except RedisError as error:
        return "BUSY" in str(error)
    return False


async def test_in_a_long_script_reads_come_from_the_database_and_the_rest_is_retryable(
    own_server: ServerProcess, brief: Settings, records: MemoryDatabase
) -> None:
    async with rtx.open(brief, database=records) as layer:
        with long_script(own_server.url):
            assert await layer.accounts.get(1) == account(1)
            assert await layer.accounts.get_many([1, 99]) == {1: account(1)}
            await layer.accounts.invalidate(1)
            for call in (
                lambda: layer.prices.get("EURUSD"),
                lambda: layer.market_data.publish(rtx.Tick("EURUSD", bid=1.0, ask=2.0)),
                lambda: layer.executions.publish(1, fill(1)),
                lambda: layer.executions.history(1),
            ):
                with pytest.raises(ServerBusy) as busy:
                    await call()
                assert busy.value.retryable
            decision = await layer.limits.api.hit("user-7")
            assert (decision.degraded, decision.reason) == (True, "server_busy")
            health = await layer.health()
            assert health.degraded
            assert "BUSY" in health.roles["cache"].error
        decision = await layer.limits.api.hit("user-7")
        assert (decision.allowed, decision.degraded) == (True, False)
        assert (await layer.health()).ready
        assert layer.stats()["cache.accounts"]["invalidations_owed"] == 1


async def test_a_subscription_made_during_a_long_script_begins_after_it(
    own_server: ServerProcess, brief: Settings
) -> None:
    async with rtx.open(brief) as layer:
        with long_script(own_server.url):
            ticks = layer.market_data.subscribe("EURUSD")
            fills = layer.executions.subscribe(1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await ticks.ready()
            assert layer.stats()["hub"]["connects"] < 20
        async with asyncio.timeout(5):
            await ticks.ready()
            await fills.ready()
        await layer.market_data.publish(rtx.Tick("EURUSD", time=1, bid=1.0, ask=2.0))
        assert isinstance(await anext(ticks), rtx.Tick)
        await layer.executions.publish(1, fill(1))
        assert isinstance(await anext(fills), rtx.Execution)
        await ticks.close()
        await fills.close()


async def test_a_reconnect_during_a_long_script_ends_no_subscription(
    own_server: ServerProcess, brief: Settings
) -> None:
    async with (
        rtx.open(brief) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
        layer.executions.subscribe(1) as fills,
    ):
        await ticks.ready()
        await fills.ready()
        with long_script(own_server.url, cut_subscribers=True):
            await eventually(lambda: layer.hub.stats.losses >= 3)
        await layer.executions.publish(1, fill(1))
        async with asyncio.timeout(5):
            items = [await anext(fills) for _ in range(2)]
            assert isinstance(items[0], rtx.Gap)
            assert items[0].recovered
            assert isinstance(items[1], rtx.Execution)
            assert isinstance(await anext(ticks), rtx.Gap)


@pytest.fixture
async def slow_to_load() -> AsyncIterator[ServerProcess]:
    """A server that keeps its data, and takes about a second to load it."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-loading-"))
    config = {
        "dbfilename": "dump.rdb",
        "loading-process-events-interval-bytes": "1024",
        "key-load-delay": "1000",
    }
    server = ServerProcess(directory, config=config)
    await server.start()
    yield server
    await server.stop()
    shutil.rmtree(directory, ignore_errors=True)


async def test_a_server_that_is_loading_its_data_is_waited_for(
    slow_to_load: ServerProcess, records: MemoryDatabase
) -> None:
    async with (
        rtx.open(Settings.load(url=slow_to_load.url), database=records) as layer,
        redis_py.Redis.from_url(slow_to_load.url) as witness,
        layer.executions.subscribe(1) as fills,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await fills.ready()
        await ticks.ready()
        await witness.mset({f"filler:{number}": "x" * 100 for number in range(1_000)})
        await layer.executions.publish(1, fill(1))
        assert isinstance(await anext(fills), rtx.Execution)
        await witness.save()
        slow_to_load.kill()
        await slow_to_load.wait()
        starting = asyncio.ensure_future(slow_to_load.start())
        refusals: list[type[rtx.RtxError]] = []

        async def published() -> bool:
            assert await layer.accounts.get(1) == account(1)
            try:
                await layer.executions.publish(1, fill(2))
            except (ServerBusy, rtx.Unavailable) as error:
                refusals.append(type(error))
                return False
            return True

        await eventually(published)
        await starting
        assert ServerBusy in refusals
        async with asyncio.timeout(5):
            gap, second = [await anext(fills) for _ in range(2)]
            assert isinstance(gap, rtx.Gap)
            assert gap.recovered
            assert isinstance(second, rtx.Execution)
            assert second.seq == 2
            assert isinstance(await anext(ticks), rtx.Gap)
