"""The pool: many calls over few connections, and what happens at and beyond its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time

import pytest
import redis.asyncio as redis_py

from rtx.errors import ConnectFailed, ConnectionLost, PoolExhausted, Unavailable
from rtx.setting_groups import PoolSettings
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions, Pool
from tests.conftest import eventually
from tests.wire.conftest import PoolMaker
from tests.wire.faults import HEALTHY, Faults, Peer, Proxy, scripted

SLACK = 3.0


async def own(pool: Pool, text: str, **options: float) -> None:
    """A call that checks that the reply is its own."""
    assert await pool.call("ECHO", text, **options) == text.encode()


async def test_one_connection_serves_thousands_of_calls_at_once(
    address: Address, open_pool: PoolMaker
) -> None:
    pool = await open_pool(address, size=1, min_idle=0)
    await asyncio.gather(*(own(pool, f"caller {n}") for n in range(5000)))
    assert pool.stats.dials == 1
    assert pool.stats.in_flight == 0


async def test_spares_are_dialed_up_to_min_idle_and_no_further(
    address: Address, open_pool: PoolMaker
) -> None:
    pool = await open_pool(address, size=5, min_idle=3)
    await eventually(lambda: pool.stats.connections == 3)
    await asyncio.gather(*(own(pool, str(n)) for n in range(100)))
    assert pool.stats.connections <= 4


async def test_more_connections_open_when_all_are_full_but_never_more_than_size(
    address: Address, open_pool: PoolMaker
) -> None:
    async with Proxy(address, lambda: Faults(delay=0.002)) as proxy:
        pool = await open_pool(proxy.address, size=4, min_idle=0, max_in_flight=5)
        assert pool.stats.connections == 1
        most = 0
        calls = [asyncio.create_task(own(pool, f"caller {n}")) for n in range(200)]
        while not all(call.done() for call in calls):
            most = max(most, pool.stats.connections)
            assert pool.stats.in_flight <= 4 * 5
            await asyncio.sleep(0.001)
        await asyncio.gather(*calls)
        assert most == 4
        assert proxy.accepted == 4
        assert pool.stats.exhausted == 0


@pytest.mark.parametrize("bound", [1, 3])
async def test_callers_beyond_the_bound_are_served_in_turn(
    address: Address, open_pool: PoolMaker, bound: int
) -> None:
    """Each reply makes room for the next caller, however many still wait behind it."""
    pool = await open_pool(address, size=1, min_idle=0, max_in_flight=bound)
    served: list[int] = []

    async def caller(n: int) -> None:
        await own(pool, f"caller {n}")
        served.append(n)

    async with asyncio.timeout(20):
        await asyncio.gather(*(caller(n) for n in range(200)))
    assert served == sorted(served), "first come, first served"


async def test_waiting_callers_that_are_cancelled_hand_their_room_on(
    address: Address, open_pool: PoolMaker, seeded: random.Random
) -> None:
    pool = await open_pool(address, size=1, min_idle=0, max_in_flight=2)
    calls = [asyncio.create_task(own(pool, f"caller {n}")) for n in range(300)]
    for _ in range(100):
        for _ in range(seeded.randrange(3)):
            await asyncio.sleep(0)
        seeded.choice(calls).cancel()
    async with asyncio.timeout(20):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert pool.stats.in_flight == 0
    await own(pool, "after")


async def test_a_call_that_finds_no_room_fails_after_pool_timeout(
    address: Address, open_pool: PoolMaker
) -> None:
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=1, min_idle=0, max_in_flight=2, pool_timeout=0.1)
        proxy.freeze()
        held = [asyncio.ensure_future(own(pool, f"held {n}")) for n in range(2)]
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(PoolExhausted) as exhausted:
            await pool.call("PING")
        assert time.monotonic() - started < 0.1 + SLACK
        assert str(exhausted.value) == (
            "all 1 connections are full and none had room within 0.1 s; the server is "
            "overloaded, or raise pool.size or pool.max_in_flight"
        )
        assert not exhausted.value.maybe_applied
        assert pool.stats.exhausted == 1
        proxy.thaw()
        await asyncio.gather(*held)
        await own(pool, "after")


async def test_fuller_connections_are_filled_before_emptier_ones(
    address: Address, open_pool: PoolMaker
) -> None:
    pool = await open_pool(address, size=3, min_idle=3)
    await eventually(lambda: pool.stats.connections == 3)
    for _ in range(5):
        names = await asyncio.gather(*(pool.call("CLIENT", "ID") for _ in range(50)))
        assert len(set(names)) == 1


async def test_batches_and_packed_batches_keep_their_replies_together(
    address: Address, open_pool: PoolMaker
) -> None:
    pool = await open_pool(address, size=2, max_in_flight=3)

    async def batch(n: int) -> None:
        commands = [("ECHO", f"{n}:{place}") for place in range(n % 5)]
        assert await pool.batch(commands) == [text.encode() for _, text in commands]

    async def packed(n: int) -> None:
        one = b"*2\r\n$4\r\nECHO\r\n$4\r\n%04d\r\n" % n
        assert await pool.batch_packed([one] * 3) == [b"%04d" % n] * 3

    await asyncio.gather(*(kind(n) for n in range(100) for kind in (batch, packed)))


async def test_execute_sends_again_what_never_left(address: Address, open_pool: PoolMaker) -> None:
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=1, min_idle=0)
        for turn in range(20):
            call = asyncio.ensure_future(pool.execute("ECHO", f"unsent {turn}"))
            await asyncio.sleep(0)  # the call is made, its bytes leave at the end of this turn
            assert pool._connections[0].in_flight == 1
            pool._connections[0].abort(ConnectionLost("cut by the test"))
            assert await call == f"unsent {turn}".encode()
        assert pool.stats.retries == 20


@pytest.mark.parametrize("idempotent", [False, True], ids=["once", "idempotent"])
async def test_what_was_sent_is_sent_again_only_if_it_is_idempotent(
    address: Address,
    open_pool: PoolMaker,
    namespace: str,
    witness: redis_py.Redis,
    idempotent: bool,
) -> None:
    """The server carries the command out, and a cut takes its reply away."""
    async with Proxy(address) as proxy:
        pool = await open_pool(proxy.address, size=1, min_idle=0)
        within_reply = Faults(cut_replies_after=proxy.replied + 2)
        plan = iter([within_reply])
        proxy.faults = lambda: next(plan, HEALTHY)
        proxy.cut_all()
        await eventually(lambda: pool.stats.dials == 2)
        counting = pool.execute("INCR", f"{namespace}n", idempotent=idempotent)
        if idempotent:
            assert await counting == 2
        else:
            with pytest.raises(ConnectionLost) as lost:
                await counting
            assert lost.value.maybe_applied
            assert await witness.get(f"{namespace}n") == b"1"
        await own(pool, "after")


async def test_execute_gives_up_after_max_retries(open_pool: PoolMaker) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.greet()
        if (await peer.command())[0] == b"GET":
            sent += 1

    async with scripted(script) as address:
        pool = await open_pool(address, size=1, min_idle=0, max_retries=2)
        with pytest.raises(ConnectionLost):
            await pool.execute("GET", "x", idempotent=True)
        assert sent == 3
        sent = 0
        with pytest.raises(ConnectionLost):
            await pool.execute("GET", "x")
        assert sent == 1


async def test_what_was_sent_once_may_have_been_applied_however_the_retry_ends(
    open_pool: PoolMaker,
) -> None:
    """The first connection takes the command and ends; no second one ever greets."""
    dials = 0

    async def script(peer: Peer) -> None:
        nonlocal dials
        dials += 1
        if dials == 1:
            await peer.greet()
            await peer.command()
        else:
            await peer.command()
            await asyncio.Event().wait()

    async with scripted(script) as address:
        pool = await open_pool(address, size=1, min_idle=0)
        with pytest.raises(PoolExhausted) as late:
            await pool.execute("GET", "x", idempotent=True, timeout=0.3)
        assert late.value.maybe_applied


async def test_execute_does_not_retry_a_call_that_timed_out(open_pool: PoolMaker) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.greet()
        while True:
            sent += (await peer.command())[0] == b"GET"

    async with scripted(script) as address:
        pool = await open_pool(address, size=1, min_idle=0)
        with pytest.raises(Unavailable) as late:
            await pool.execute("GET", "x", idempotent=True, timeout=0.05)
        assert late.value.maybe_applied
        assert sent == 1


async def test_connections_retired_for_their_age_lose_no_reply(
    address: Address, open_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtx.wire.pool._TIDY_EVERY", 0.005)
    async with Proxy(address, lambda: Faults(delay=0.001)) as proxy:
        pool = await open_pool(proxy.address, size=6, min_idle=2, max_age=0.02, max_in_flight=50)

        async def caller(name: int) -> None:
            for turn in range(40):
                await own(pool, f"{name}:{turn}")

        await asyncio.gather(*(caller(name) for name in range(20)))
        assert pool.stats.retired > 5
        assert pool.stats.lost == 0
        await eventually(lambda: len(proxy._links) <= pool.stats.connections + 1)


async def test_idle_connections_beyond_the_spares_are_closed(
    address: Address, open_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtx.wire.pool._TIDY_EVERY", 0.01)
    async with Proxy(address, lambda: Faults(delay=0.002)) as proxy:
        pool = await open_pool(proxy.address, size=6, min_idle=2, max_in_flight=1, idle_timeout=0.1)
        await asyncio.gather(*(own(pool, str(n)) for n in range(60)))
        assert pool.stats.connections == 6
        await eventually(lambda: pool.stats.connections == 2)
        await eventually(lambda: len(proxy._links) == 2)
        await own(pool, "after")


async def test_close_ends_waiting_calls_tasks_and_sockets(address: Address) -> None:
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    async with Proxy(address) as proxy:
        settings = PoolSettings(size=3, min_idle=2, max_in_flight=2, pool_timeout=30)
        options = ConnectOptions(max_in_flight=2)
        pool = Pool(lambda end: Connection.dial(proxy.address, options, on_close=end), settings)
        await pool.open()
        await eventually(lambda: pool.stats.connections == 2)
        proxy.freeze()
        calls = [asyncio.create_task(own(pool, str(n), timeout=30)) for n in range(10)]
        await asyncio.sleep(0.05)
        pool._leaving.add(pool._connections[0])
        pool._drop(pool._connections[0])  # as if retired, with calls in flight
        async with asyncio.timeout(SLACK):
            await pool.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        with pytest.raises(Unavailable, match="the data layer is closed"):
            await pool.call("PING")
    await eventually(lambda: asyncio.all_tasks() == tasks)
    await eventually(lambda: open_sockets() <= sockets)


def open_sockets() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in found if link.startswith("socket:")}


async def test_a_pool_may_be_closed_in_the_middle_of_a_dial(address: Address) -> None:
    tasks = asyncio.all_tasks()
    async with Proxy(address) as proxy:
        for turns in range(25):
            options = ConnectOptions()
            pool = Pool(
                lambda end: Connection.dial(proxy.address, options, on_close=end),  # noqa: B023
                PoolSettings(size=5, min_idle=5),
            )
            await pool.open()
            for _ in range(turns):
                await asyncio.sleep(0)
            await pool.close()
            assert not pool._connections
        await eventually(lambda: not proxy._links)
    await eventually(lambda: asyncio.all_tasks() == tasks)


async def test_a_pool_that_cannot_dial_does_not_open() -> None:
    tasks = asyncio.all_tasks()
    address = Address("127.0.0.1", 1)
    pool = Pool(lambda end: Connection.dial(address, ConnectOptions()), PoolSettings())
    with pytest.raises(ConnectFailed):
        await pool.open()
    assert asyncio.all_tasks() == tasks
