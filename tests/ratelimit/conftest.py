"""A witness on the database of the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py


@pytest.fixture
async def limit_witness(shared_server: str) -> AsyncIterator[redis_py.Redis]:
    """redis-py on the limits database of the shared server."""
    client = redis_py.Redis.from_url(shared_server, db=2)
    yield client
    await client.aclose()


async def server_micros(witness: redis_py.Redis) -> int:
    """The server's clock in microseconds."""
    seconds, micros = await witness.time()
    return int(seconds) * 1_000_000 + int(micros)
