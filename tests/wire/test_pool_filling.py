"""How a pool fills its connections, and keeps spares for the moment when it needs them."""

from __future__ import annotations

import asyncio

import redis.asyncio as redis_py

from rtx.topology.process import ServerProcess
from rtx.urls import Address
from rtx.wire import Pool
from tests.conftest import eventually
from tests.wire.conftest import PoolMaker
from tests.wire.faults import Proxy


def loads(pool: Pool) -> list[int]:
    """Calls in flight on each connection, the fullest first."""
    return sorted((each.in_flight for each in pool._connections), reverse=True)


async def test_a_connection_is_full_before_the_next_one_gets_a_call(
    address: Address, open_pool: PoolMaker
) -> None:
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=3, min_idle=3, max_in_flight=5)
        await eventually(lambda: pool.stats.connections == 3)
        await eventually(lambda: loads(pool) == [0, 0, 0])
        proxy.freeze()
        calls: list[asyncio.Future[object]] = []
        expected = [1, 0, 0], [5, 0, 0], [5, 2, 0], [5, 5, 1], [5, 5, 5]
        for load in expected:
            while len(calls) < sum(load):
                calls.append(asyncio.ensure_future(pool.call("ECHO", len(calls))))
                await asyncio.sleep(0)
            assert loads(pool) == load
        assert pool.stats.waits == 0
        late = asyncio.ensure_future(pool.call("ECHO", "late"))
        await eventually(lambda: pool.stats.waits == 1)
        assert pool.stats.in_flight == 15
        proxy.thaw()
        assert await asyncio.gather(*calls) == [b"%d" % n for n in range(15)]
        assert await late == b"late"
        assert loads(pool) == [0, 0, 0]


async def test_a_later_call_goes_where_others_are_already(
    address: Address, open_pool: PoolMaker
) -> None:
    """After an overflow the calls gather again, so that pipelines stay dense."""
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=3, min_idle=3, max_in_flight=5)
        await eventually(lambda: pool.stats.connections == 3)
        proxy.freeze()
        calls = [asyncio.ensure_future(pool.call("ECHO", n)) for n in range(12)]
        await asyncio.sleep(0)
        proxy.thaw()
        await asyncio.gather(*calls)
        await eventually(lambda: loads(pool) == [0, 0, 0])
        proxy.freeze()
        calls = [asyncio.ensure_future(pool.call("ECHO", n)) for n in range(4)]
        await asyncio.sleep(0)
        assert loads(pool) == [4, 0, 0]
        proxy.thaw()
        await asyncio.gather(*calls)


async def test_spares_that_are_lost_are_replaced_before_they_are_needed(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=8, min_idle=4)
    await eventually(lambda: pool.stats.connections == 4)
    async with redis_py.Redis(port=own_server.port) as admin:
        await admin.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: pool.stats.lost == 4)
        await eventually(lambda: pool.stats.connections == 4)
    assert pool.stats.dials == 8
    assert pool.stats.waits == 0, "nobody called meanwhile"


async def test_spares_stay_warm_while_nobody_calls(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    """A server that hangs up on the idle does not hang up on them: they ask whether it lives."""
    address = Address("127.0.0.1", own_server.port)
    pool = await open_pool(address, size=4, min_idle=3, heartbeat=0.2)
    await eventually(lambda: pool.stats.connections == 3)
    await pool.call("CONFIG", "SET", "timeout", "1")
    await until_hung_up(own_server.port)
    assert pool.stats.lost == 0
    assert pool.stats.connections == 3


async def until_hung_up(port: int) -> None:
    """Return when the server has closed a connection that says nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
