"""Rules while the server refuses, breaks off, or has forgotten what it knew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.alerts import AlertEngine
from rtx.setting_groups import AlertSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.alerts.conftest import above, alerted, quote
from tests.conftest import eventually


@pytest.fixture
async def pubsub(admin_server: str) -> AsyncIterator[redis_py.Redis]:
    """redis-py on the database of the alerts."""
    client = redis_py.Redis.from_url(f"{admin_server}/1")
    yield client
    await client.aclose()


async def test_what_the_server_refuses_is_owed_and_published_once(
    layer: rtx.DataLayer, engine: AlertEngine, pubsub: redis_py.Redis, namespace: str
) -> None:
    stats = layer.alert_rules.stats
    await layer.alert_rules.put(above())
    await layer.alert_rules.put(above("other", account_id=2))
    await eventually(lambda: stats.rules == 2)
    await engine.ready()
    await pubsub.set(f"{{{namespace}:alerts:1}}:meta", "no hash")
    await quote(layer, 1.2)
    await eventually(lambda: stats.failed >= 2)
    assert (await alerted(layer, 2), stats.owed, stats.fired) == (["other"], 1, 1)
    await quote(layer, 1.0)
    await pubsub.delete(f"{{{namespace}:alerts:1}}:meta")
    await eventually(lambda: not stats.owed)
    assert await alerted(layer) == ["r"]
    assert (stats.fired, stats.dropped) == (2, 0)


async def test_more_than_may_be_owed_is_dropped_and_counted(
    settings: Settings, pubsub: redis_py.Redis, namespace: str
) -> None:
    few = settings.model_copy(update={"alerts": AlertSettings(owed=3)})
    async with rtx.open(few) as layer, layer.alert_rules.engine() as engine:
        stats = layer.alert_rules.stats
        for number in range(5):
            await layer.alert_rules.put(above(f"r{number}"))
        await eventually(lambda: stats.rules == 5)
        await engine.ready()
        await pubsub.set(f"{{{namespace}:alerts:1}}:meta", "no hash")
        await quote(layer, 1.2)
        await eventually(lambda: stats.dropped == 2)
        assert stats.owed == 3
        await pubsub.delete(f"{{{namespace}:alerts:1}}:meta")
        await eventually(lambda: not stats.owed)
        assert stats.fired == 3
    assert len(set(await alerted_by(settings))) == 3


async def alerted_by(settings: Settings) -> list[str]:
    async with rtx.open(settings) as layer:
        return await alerted(layer)


async def test_a_level_that_was_passed_in_a_break_is_caught_up(
    own_server: ServerProcess, namespace: str
) -> None:
    settings = Settings.load(url=f"redis://127.0.0.1:{own_server.port}", namespace=namespace)
    client = redis_py.Redis(port=own_server.port)
    async with rtx.open(settings) as layer, layer.alert_rules.engine() as engine:
        stats = layer.alert_rules.stats
        await layer.alert_rules.put(above())
        await eventually(lambda: stats.rules)
        await engine.ready()
        await quote(layer, 1.0)
        await eventually(lambda: stats.evaluated)
        missed = codecs.encode_price("EURUSD", 1.2, 1.2002, rtx.models.now_ms() + 1)
        async with client.pipeline(transaction=True) as cut:
            cut.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            cut.set(f"{namespace}:price:EURUSD", missed, px=60_000)
            await cut.execute()
        await eventually(lambda: stats.fired)
        assert stats.gaps >= 1
        assert await alerted(layer) == ["r"]
    await client.aclose()


async def test_what_a_failover_forgot_is_told_to_the_new_server(
    own_server: ServerProcess, namespace: str
) -> None:
    settings = Settings.load(url=f"redis://127.0.0.1:{own_server.port}", namespace=namespace)
    client = redis_py.Redis(port=own_server.port, db=1)
    of = f"{{{namespace}:alerts:1}}"
    async with rtx.open(settings) as layer, layer.alert_rules.engine() as engine:
        stats = layer.alert_rules.stats
        await layer.alert_rules.put(above())
        await eventually(lambda: stats.rules)
        await engine.ready()
        before = await client.hget(f"{of}:states", "r")
        await quote(layer, 1.2)
        await eventually(lambda: stats.fired)
        await quote(layer, 1.0)
        # As a replica has it that was promoted before it had heard of the firing.
        async with client.pipeline(transaction=True) as cut:
            cut.hset(f"{of}:states", "r", before)
            cut.delete(f"{of}:log", f"{of}:meta", f"{of}:keys")
            cut.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await cut.execute()
        await eventually(lambda: stats.fired == 2)
        assert await alerted(layer) == ["r"]
        [state] = await layer.alert_rules.list(1)
        assert (state.armed, state.firings) == (False, 1)
    await client.aclose()


async def test_the_layer_ends_engines_that_nobody_has_left(settings: Settings) -> None:
    before = asyncio.all_tasks()
    async with rtx.open(settings) as layer:
        left_open = layer.alert_rules.engine()
        engine = await left_open.__aenter__()
        await layer.alert_rules.put(above())
        await engine.ready()
    await eventually(lambda: asyncio.all_tasks() == before)
    assert layer.alert_rules.stats.rules == 0
    await left_open.__aexit__(None, None, None)
