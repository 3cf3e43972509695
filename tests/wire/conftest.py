"""The wire is tested on both event loops it runs on; they differ in how they read and close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

from rtx.setting_groups import PoolSettings
from rtx.urls import Address, Standalone, parse
from rtx.wire import Connection, ConnectOptions, Pool

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def address(shared_server: str) -> Address:
    """Where the shared server listens."""
    location = parse(shared_server)
    assert isinstance(location, Standalone)
    return location.address


@pytest.fixture(autouse=True)
async def quiet_loop() -> AsyncIterator[None]:
    """Nothing may reach the loop's exception handler: no lost exception, no failing callback."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    yield
    assert not said


Opener = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Opener]:
    """Dial; the connection is closed after the test."""
    opened: list[Connection] = []

    async def dial(address: Address, **options: Any) -> Connection:
        connection = await Connection.dial(address, ConnectOptions(**options))
        opened.append(connection)
        return connection

    yield dial
    for connection in opened:
        await connection.close()


PoolMaker = Callable[..., Awaitable[Pool]]


@pytest.fixture
async def open_pool() -> AsyncIterator[PoolMaker]:
    """Open a pool of the given `PoolSettings`; it is closed after the test."""
    opened: list[Pool] = []

    async def make(address: Address, *, heartbeat: float = 1.0, **fields: Any) -> Pool:
        settings = PoolSettings(**{"min_idle": 1, **fields})
        options = ConnectOptions(
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            heartbeat=heartbeat,
            max_in_flight=settings.max_in_flight,
            max_reply=settings.max_reply,
        )
        pool = Pool(lambda on_close: Connection.dial(address, options, on_close=on_close), settings)
        await pool.open()
        opened.append(pool)
        return pool

    yield make
    for pool in opened:
        await pool.close()
