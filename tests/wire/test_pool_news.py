"""What a pool tells of connections that break, and the time that a call gives it."""

from __future__ import annotations

import asyncio
import time

import pytest

from rtx.errors import ConnectionLost, PoolExhausted, ProtocolViolation
from rtx.urls import Address
from tests.conftest import eventually
from tests.wire.conftest import Opener, PoolMaker
from tests.wire.faults import Proxy


async def test_each_connection_that_breaks_is_told(address: Address, open_pool: PoolMaker) -> None:
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=3, min_idle=3)
        await eventually(lambda: pool.stats.connections == 3)
        told: list[int] = []
        pool.on_loss(lambda: told.append(1))
        proxy.cut_all()
        await eventually(lambda: len(told) == 3)
        assert pool.stats.lost == 3


async def test_connections_that_are_retired_or_closed_are_not_called_lost(
    address: Address, open_pool: PoolMaker
) -> None:
    pool = await open_pool(address, size=2, min_idle=2, max_age=0.2)
    told: list[int] = []
    pool.on_loss(lambda: told.append(1))
    await eventually(lambda: pool.stats.retired >= 2)
    await pool.close()
    assert told == []
    assert pool.stats.lost == 0


async def test_a_calls_time_covers_the_wait_for_room(
    address: Address, open_pool: PoolMaker
) -> None:
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=1, min_idle=0, max_in_flight=2)
        await pool.call("PING")
        proxy.freeze()
        blocked = [asyncio.ensure_future(pool.call("ECHO", n, timeout=2.0)) for n in range(2)]
        started = time.monotonic()
        with pytest.raises(PoolExhausted, match=r"within 0\.1 s"):
            await pool.call("PING", timeout=0.1)
        took = time.monotonic() - started
        assert 0.09 <= took < 1.0
        proxy.thaw()
        assert await asyncio.gather(*blocked) == [b"0", b"1"]


async def test_a_subscribe_that_is_sent_like_a_call_gives_nobody_a_wrong_reply(
    address: Address, connect: Opener
) -> None:
    connection = await connect(address)
    misused = connection.call("SUBSCRIBE", "news")
    bystander = connection.call("ECHO", "mine")
    with pytest.raises(ConnectionLost, match=r"Connection\.subscribe"):
        await bystander
    with pytest.raises(ConnectionLost, match=r"Connection\.subscribe"):
        await misused
    assert isinstance(connection.error, ProtocolViolation)
