"""Real outages of a real server under load: typed errors while it is away, right replies after."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_py

from rtx.errors import AccessDenied, ConnectFailed, RtxError, ServerError, Unavailable
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions, Pool, Script
from tests.conftest import eventually
from tests.wire.conftest import PoolMaker
from tests.wire.faults import Faults, Proxy

SLACK = 3.0


@asynccontextmanager
async def load(pool: Pool, callers: int = 10) -> AsyncIterator[list[RtxError]]:
    """Callers that check every reply for being theirs; the errors they met, all of them typed."""
    met: list[RtxError] = []
    ending = asyncio.Event()

    async def caller(name: int) -> None:
        turn = 0
        while not ending.is_set():
            turn += 1
            text = f"{name}:{turn}"
            try:
                assert await pool.call("ECHO", text) == text.encode()
            except Unavailable as error:
                met.append(error)
                await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        for name in range(callers):
            group.create_task(caller(name))
        yield met
        ending.set()


async def answers(pool: Pool) -> bool:
    try:
        return await pool.call("ECHO", "there") == b"there"
    except Unavailable:
        return False


async def test_calls_fail_at_once_while_the_server_is_down_and_the_pool_recovers(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=3, pool_timeout=30)
    async with load(pool) as met:
        own_server.kill()
        await own_server.wait()
        await eventually(lambda: pool.down is not None)
        assert isinstance(pool.down, ConnectFailed)
        # A connection that the dying server had accepted already is reset rather than refused.
        said = "refused; is the server running|hung up while connecting"
        for _ in range(20):
            started = time.monotonic()
            with pytest.raises(ConnectFailed, match=said) as failed:
                await pool.call("PING")
            assert time.monotonic() - started < SLACK
            assert not failed.value.maybe_applied
        await own_server.start()
        await eventually(lambda: answers(pool))
        assert pool.down is None
    assert met


async def test_the_kind_of_an_outage_is_kept_for_every_caller(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=1, min_idle=0)
    await pool.call("CONFIG", "SET", "requirepass", "hunter2")
    pool._connections[0].abort(ConnectFailed("cut by the test"))
    await eventually(lambda: pool.down is not None)
    for _ in range(3):
        with pytest.raises(AccessDenied, match="put it into the URL") as refused:
            await pool.call("PING")
        assert refused.value.prefix == "NOAUTH"
        assert refused.value is not pool.down


async def test_clients_killed_under_load_get_typed_errors_and_come_back(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=5, min_idle=2)
    admin = redis_py.Redis(port=own_server.port)
    async with load(pool) as met:
        for _ in range(20):
            await admin.client_kill_filter(_type="normal", skipme=True)
            await eventually(lambda: answers(pool))
    await admin.aclose()
    assert met
    assert {type(error).__name__ for error in met} <= {"ConnectionLost", "ConnectFailed"}
    assert pool.stats.lost >= 20


async def test_a_server_restarted_under_load_twice_is_found_again(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=5, min_idle=2)
    async with load(pool) as met:
        for _ in range(2):
            await own_server.stop()
            await own_server.start()
            await eventually(lambda: answers(pool))
    assert met


async def test_a_frozen_server_is_given_up_and_found_again_when_it_thaws(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(
        Address("127.0.0.1", own_server.port),
        size=3,
        min_idle=1,
        read_timeout=0.2,
        connect_timeout=0.2,
        pool_timeout=0.2,
        heartbeat=0.05,
    )
    async with load(pool) as met:
        own_server.kill(signal.SIGSTOP)
        await eventually(lambda: pool.down is not None)
        assert "no answer" in str(pool.down)
        own_server.kill(signal.SIGCONT)
        await eventually(lambda: answers(pool))
    assert met


async def test_a_full_server_costs_no_call_that_fits_the_connections_there_are(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    admin = redis_py.Redis(port=own_server.port)
    await admin.config_set("maxclients", 1)
    await admin.aclose()
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=10, min_idle=3)
    async with load(pool) as met:
        await eventually(lambda: pool.stats.dial_failures >= 2)
        assert pool.stats.connections >= 1
        assert pool.down is None
        await pool.call("CONFIG", "SET", "maxclients", "100")
        await eventually(lambda: pool.stats.connections >= 2)
    assert not met


async def test_a_server_asleep_makes_calls_late_and_never_wrong(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(
        Address("127.0.0.1", own_server.port), size=2, read_timeout=0.15, pool_timeout=0.2
    )
    async with load(pool) as met:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await pool.call("DEBUG", "SLEEP", "0.5", timeout=0.05)
            await eventually(lambda: answers(pool))
    assert {type(error).__name__ for error in met} <= {
        "CallTimeout",
        "ConnectionLost",
        "ConnectFailed",
        "PoolExhausted",
    }


async def test_flapping_of_the_network_leaves_nothing_behind(
    address: Address, open_pool: PoolMaker
) -> None:
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=4, min_idle=2)
        async with load(pool, callers=5):
            for turn in range(10):
                await proxy.refuse()
                proxy.cut_all(reset=turn % 2 == 0)
                await asyncio.sleep(0.01)
                await proxy.listen()
                await eventually(lambda: answers(pool))
        await eventually(lambda: len(proxy._links) == pool.stats.connections)
        assert pool.stats.in_flight == 0


async def test_a_server_that_accepts_and_hangs_up_is_not_stormed(
    address: Address, open_pool: PoolMaker
) -> None:
    """The backoff holds although each connect succeeds."""
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=4, min_idle=4)
        proxy.faults = lambda: Faults(hang_up=True)
        proxy.cut_all()
        before = proxy.accepted
        await asyncio.sleep(1.0)
        assert proxy.accepted - before < 20
        proxy.faults = Faults
        await eventually(lambda: answers(pool))


COUNT = Script("return redis.call('INCR', KEYS[1])")


async def test_a_script_the_server_forgot_runs_once(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=1)
    assert await COUNT.run(pool, ["n"]) == 1
    assert await COUNT.run(pool, ["n"]) == 2
    await pool.call("SCRIPT", "FLUSH")
    assert await asyncio.gather(*(COUNT.run(pool, ["n"]) for _ in range(5))) == [3, 4, 5, 6, 7]
    await own_server.stop()
    await own_server.start()
    await eventually(lambda: answers(pool))
    assert await COUNT.run(pool, ["n"]) == 1


async def test_an_error_inside_a_script_is_raised_and_the_script_is_not_run_again(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=1)
    script = Script("redis.call('INCR', KEYS[1]) return redis.call('LPUSH', KEYS[1], 1)")
    for n in (1, 2):
        with pytest.raises(ServerError) as failed:
            await script.run(pool, ["n"])
        assert failed.value.prefix == "WRONGTYPE"
        assert await pool.call("GET", "n") == str(n).encode()


async def test_a_connection_to_a_server_that_dies_ends_once(own_server: ServerProcess) -> None:
    ended: list[Connection] = []
    connection = await Connection.dial(own_server.local, ConnectOptions(), on_close=ended.append)
    calls = [connection.call("DEBUG", "SLEEP", "1"), connection.call("PING")]
    await asyncio.sleep(0.05)
    own_server.kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, Unavailable) and result.maybe_applied for result in results)
    await connection.close()
    assert ended == [connection]
