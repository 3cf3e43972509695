"""Real primaries, replicas and sentinels, a set of its own for each test that breaks them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from rtx.topology.local import LocalSentinels


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def quiet_loop() -> AsyncIterator[None]:
    """Nothing may reach the loop's exception handler: no lost exception, no failing callback."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    yield
    assert not said


@pytest.fixture
async def group() -> AsyncIterator[LocalSentinels]:
    """One primary, two replicas, three sentinels.

    With a down-after of 1 s sentinels now and then call a primary dead 1 s after promoting it, when
    their first ping is due, and fail over again: what must not happen twice needs more.
    """
    async with LocalSentinels(down_after=1.5) as opened:
        yield opened


@pytest.fixture
async def small_group() -> AsyncIterator[LocalSentinels]:
    """One primary, one replica and one sentinel, for what needs no automatic failover."""
    async with LocalSentinels(replicas=1, sentinels=1) as opened:
        yield opened
