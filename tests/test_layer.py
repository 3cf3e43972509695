"""The layer as a whole: opened, asked for its health, and gone without a trace."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

import rtx
from rtx.settings import Settings
from tests.conftest import eventually


async def test_opens_an_embedded_server_when_no_url_is_given() -> None:
    async with rtx.open() as layer:
        await layer.prices.put(rtx.Price("BTCUSD", bid=95000.5, ask=95001.5))
        price = await layer.prices.get("BTCUSD")
        assert price is not None
        assert price.mid == 95001.0
        pid = layer.embedded_pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_leaves_no_task_behind(settings: Settings) -> None:
    before = asyncio.all_tasks()
    async with rtx.open(settings) as layer:
        async with layer.market_data.subscribe("EURUSD") as ticks:
            await ticks.ready()
        executions = layer.executions.subscribe(1)
        await executions.ready()
    assert asyncio.all_tasks() == before


async def test_a_killed_embedded_server_is_reported_and_comes_back() -> None:
    async with rtx.open() as layer:
        assert (await layer.health()).ready
        assert layer.embedded_pid is not None
        os.kill(layer.embedded_pid, signal.SIGKILL)

        async def degraded() -> bool:
            return (await layer.health()).degraded

        async def ready() -> bool:
            return (await layer.health()).ready

        await eventually(degraded)
        await eventually(ready)
        await layer.prices.put(rtx.Price("EURUSD", bid=1.1, ask=1.2))
        assert await layer.prices.get("EURUSD")


async def test_an_unreachable_url_says_what_to_check() -> None:
    settings = Settings.load(url="redis://127.0.0.1:1")
    with pytest.raises(rtx.Unavailable, match=r"127\.0\.0\.1:1: refused; is the server running"):
        async with rtx.open(settings):
            pass
