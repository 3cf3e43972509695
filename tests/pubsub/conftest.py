"""What tests of channels share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as redis_py

from rtx.settings import Settings
from rtx.topology.process import ServerProcess


@pytest.fixture
async def journal_witness(admin_server: str) -> AsyncIterator[redis_py.Redis]:
    """redis-py on the database of the logs of the shared server."""
    client = redis_py.Redis.from_url(admin_server, db=1)
    yield client
    await client.aclose()


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Ten messages in a log, three in a queue."""
    return settings.model_copy(
        update={"channels": settings.channels.model_copy(update={"log_size": 10, "queue_size": 3})}
    )


@pytest.fixture
async def durable_server() -> AsyncIterator[ServerProcess]:
    """A server of the test's own that keeps every write over a `kill -9`."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-durable-"))
    server = ServerProcess(directory, config={"appendonly": "yes", "appendfsync": "always"})
    await server.start()
    yield server
    await server.stop()
    shutil.rmtree(directory, ignore_errors=True)
