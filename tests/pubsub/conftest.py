"""What tests of channels share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

from rtx.settings import Settings


@pytest.fixture
async def journal_witness(shared_server: str) -> AsyncIterator[redis_py.Redis]:
    """redis-py on the database of the logs of the shared server."""
    client = redis_py.Redis.from_url(shared_server, db=1)
    yield client
    await client.aclose()


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Ten messages in a log, three in a queue."""
    return settings.model_copy(
        update={"channels": settings.channels.model_copy(update={"log_size": 10, "queue_size": 3})}
    )
