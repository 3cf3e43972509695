"""A server that forbids something: typed errors for those concerned, and nothing for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import AccessDenied
from rtx.settings import Settings
from rtx.topology.process import ServerProcess


def tick(symbol: str) -> rtx.Tick:
    return rtx.Tick(symbol, bid=1.0, ask=2.0)


@pytest.fixture
async def admin(own_server: ServerProcess) -> AsyncIterator[redis_py.Redis]:
    async with redis_py.Redis.from_url(own_server.url) as client:
        yield client


async def url_of_user(admin: redis_py.Redis, server: ServerProcess, *rules: str) -> str:
    await admin.execute_command("ACL", "SETUSER", "desk", "on", ">secret", *rules)
    return server.url.replace("redis://", "redis://desk:secret@")


async def test_a_user_without_the_command_is_told_so_and_does_not_hang(
    own_server: ServerProcess, admin: redis_py.Redis
) -> None:
    url = await url_of_user(admin, own_server, "~*", "&*", "+@all", "-subscribe", "-psubscribe")
    async with rtx.open(Settings.load(url=url)) as layer:
        for subscription in (
            layer.market_data.subscribe("EURUSD"),
            layer.market_data.subscribe("*"),
            layer.executions.subscribe(1),
            layer.alerts.subscribe("system"),
        ):
            async with asyncio.timeout(5):
                with pytest.raises(AccessDenied, match="grant the command"):
                    await subscription.ready()
                with pytest.raises(AccessDenied):
                    await anext(subscription)
        assert layer.stats()["hub"]["channels"] == 0


async def test_only_the_channel_that_is_forbidden_is_refused(
    own_server: ServerProcess, admin: redis_py.Redis
) -> None:
    url = await url_of_user(
        admin, own_server, "~*", "+@all", "resetchannels", "&market_data:EUR*", "&executions:1"
    )
    async with rtx.open(Settings.load(url=url)) as layer:
        good = layer.market_data.subscribe("EURUSD", snapshot=False)
        forbidden = layer.market_data.subscribe("BTCUSD", "EURUSD", snapshot=False)
        fills = layer.executions.subscribe(1)
        foreign = layer.executions.subscribe(2)
        async with asyncio.timeout(5):
            await good.ready()
            await fills.ready()
            for refused in (forbidden, foreign):
                with pytest.raises(AccessDenied):
                    await refused.ready()
            await layer.market_data.publish(tick("EURUSD"))
            assert isinstance(await anext(good), rtx.Tick)
            assert layer.stats()["hub"]["channels"] == 2
        await good.close()
        await fills.close()


async def test_a_right_taken_away_during_an_outage_ends_only_what_needed_it(
    own_server: ServerProcess, admin: redis_py.Redis
) -> None:
    url = await url_of_user(admin, own_server, "~*", "+@all", "allchannels")
    async with rtx.open(Settings.load(url=url)) as layer:
        good = layer.market_data.subscribe("EURUSD", snapshot=False)
        forbidden = layer.market_data.subscribe("BTCUSD", snapshot=False)
        await good.ready()
        await forbidden.ready()
        await url_of_user(admin, own_server, "resetchannels", "&market_data:EUR*")
        await admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(5):
            with pytest.raises(AccessDenied):
                await anext(forbidden)
            gap = await anext(good)
            assert isinstance(gap, rtx.Gap)
            await layer.market_data.publish(tick("EURUSD"))
            assert isinstance(await anext(good), rtx.Tick)
        await good.close()


async def test_a_user_who_may_not_publish_is_told_so(
    own_server: ServerProcess, admin: redis_py.Redis
) -> None:
    url = await url_of_user(admin, own_server, "~*", "&*", "+@all", "-publish")
    async with rtx.open(Settings.load(url=url)) as layer:
        with pytest.raises(AccessDenied):
            await layer.market_data.publish(tick("EURUSD"))
        assert layer.stats()["channel.market_data"]["published"] == 0
        with pytest.raises(rtx.ServerError):
            await layer.executions.publish(1, rtx.Execution(1, 2, "EURUSD", "BUY", 1.0, 1.0))


async def test_a_user_who_may_not_read_the_log_is_told_so(
    own_server: ServerProcess, admin: redis_py.Redis
) -> None:
    url = await url_of_user(admin, own_server, "~account:*", "&*", "+@all")
    async with rtx.open(Settings.load(url=url)) as layer:
        fills = layer.executions.subscribe(1)
        async with asyncio.timeout(5):
            with pytest.raises(AccessDenied):
                await fills.ready()
        with pytest.raises(AccessDenied):
            await layer.executions.history(1)
