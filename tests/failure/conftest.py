"""A server to be hurt, and a layer that gives up soon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from rtx.setting_groups import ChannelSettings, PoolSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.cache.memory import MemoryDatabase, account

PATIENCE = 0.3
"""Seconds until a call, a dial or a silent subscriber is given up."""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Plain asyncio, and uvloop too for tests that name the loops that they want."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.SelectorEventLoop,
        "uvloop": uvloop.new_event_loop,
    }
    marker = item.get_closest_marker("asyncio")
    if marker is None or "loop_factories" not in marker.kwargs:
        del loops["uvloop"]
    return loops


@pytest.fixture(autouse=True)
async def quiet_loop() -> AsyncIterator[None]:
    """Nothing may reach the loop's exception handler: no lost exception, no failing callback."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    yield
    assert not said


def impatient(url: str) -> Settings:
    return Settings.load(
        url=url,
        pool=PoolSettings(
            min_idle=1,
            pool_timeout=2 * PATIENCE,
            connect_timeout=PATIENCE,
            read_timeout=PATIENCE,
            write_timeout=PATIENCE,
        ),
        channels=ChannelSettings(probe_interval=PATIENCE),
    )


@pytest.fixture
def brief(own_server: ServerProcess) -> Settings:
    """Settings for the test's own server, with timeouts of 300 ms."""
    return impatient(own_server.url)


@pytest.fixture
def records() -> MemoryDatabase:
    """Accounts 1 to 5 in a database that stays up unless it is switched off."""
    return MemoryDatabase(account(id) for id in range(1, 6))
