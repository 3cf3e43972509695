"""A layer in front of a database in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import rtx
from rtx.setting_groups import CacheSettings
from rtx.settings import Settings
from tests.cache.memory import MemoryDatabase, account


@pytest.fixture
def settings(shared_server: str, namespace: str) -> Settings:
    """Settings for the shared server, with more time to answer than any busy machine takes."""
    calm = CacheSettings(read_timeout=10.0)
    return Settings.load(url=shared_server, namespace=namespace, cache=calm)


@pytest.fixture
def records() -> MemoryDatabase:
    """Accounts 1 to 5."""
    return MemoryDatabase(account(id) for id in range(1, 6))


@pytest.fixture
async def backed(settings: Settings, records: MemoryDatabase) -> AsyncIterator[rtx.DataLayer]:
    """A layer on the shared server with `records` behind its caches."""
    async with rtx.open(settings, database=records) as layer:
        yield layer
