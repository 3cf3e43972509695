"""redis-py on a server without a namespace: the program of somebody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess


@pytest.fixture
async def plain(own_server: ServerProcess) -> AsyncIterator[rtx.DataLayer]:
    """A layer that uses the names of the contract as they are."""
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        yield layer


@pytest.fixture
async def database(own_server: ServerProcess) -> AsyncIterator[Callable[[int], redis_py.Redis]]:
    """The other program, connected to one of the server's databases."""
    clients = {
        number: redis_py.Redis.from_url(own_server.url, db=number, socket_timeout=5)
        for number in range(4)
    }
    yield lambda number: clients[number]
    for client in clients.values():
        await client.aclose()
