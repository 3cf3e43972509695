"""Deadlines, cancellation and liveness: no caller waits longer than it said, none gets another's.

Times are upper bounds with room for a busy machine; nothing here asserts that something is fast.
"""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from rtx.errors import CallTimeout, ConnectionLost, ProtocolViolation, Unavailable
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions
from tests.conftest import eventually
from tests.wire.conftest import Opener
from tests.wire.faults import Faults, Peer, Proxy, scripted

SLACK = 3.0


async def outcome(call: asyncio.Future[object], within: float) -> object:
    """The reply or the error; it must come within so many seconds and the slack."""
    started = time.monotonic()
    result: object
    try:
        result = await call
    except Unavailable as error:
        result = error
    assert time.monotonic() - started < within + SLACK
    return result


async def test_a_black_holed_call_ends_at_its_deadline(address: Address, connect: Opener) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address, read_timeout=0.3)
        proxy.freeze()
        for timeout in (0.05, None):
            error = await outcome(connection.call("PING", timeout=timeout), timeout or 0.3)
            assert isinstance(error, CallTimeout)
            assert error.maybe_applied
            assert "may yet carry the command out" in str(error)


async def test_a_connection_black_holed_with_calls_waiting_is_given_up(
    address: Address, connect: Opener
) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address, read_timeout=0.2, heartbeat=0.1)
        proxy.freeze()
        calls = [connection.call("PING", timeout=60) for _ in range(3)]
        for call in calls:
            error = await outcome(call, 0.5)
            assert isinstance(error, ConnectionLost)
            assert error.maybe_applied
            assert "frozen or cut off" in str(error)
        assert connection.error is not None


async def test_an_idle_connection_that_went_deaf_is_found_out(
    address: Address, connect: Opener
) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address, read_timeout=0.2, heartbeat=0.1)
        proxy.freeze()
        async with asyncio.timeout(0.5 + SLACK):
            await connection.wait_closed()
        assert "frozen or cut off" in str(connection.error)


async def test_a_ping_answered_with_anything_else_ends_the_connection(connect: Opener) -> None:
    """A peer whose replies have slipped is found out as soon as the pipeline is idle."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b"+PONG\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address, heartbeat=0.05)
        async with asyncio.timeout(SLACK):
            await connection.wait_closed()
        assert isinstance(connection.error, ProtocolViolation)
        assert "answered PING with another reply" in str(connection.error)


async def test_an_idle_connection_stays_while_the_server_answers(
    address: Address, connect: Opener
) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address, read_timeout=2.0, heartbeat=0.02)
        seen = proxy.replied
        await eventually(lambda: proxy.replied > seen + 10 * 16)
        assert connection.error is None
        assert await connection.call("ECHO", "mine") == b"mine"


async def test_a_shorter_deadline_is_kept_behind_longer_ones(
    address: Address, connect: Opener
) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address, read_timeout=30.0)
        proxy.freeze()
        longest = connection.call("ECHO", "longest", timeout=30)
        await asyncio.sleep(0)
        long = connection.call("ECHO", "long", timeout=20)
        await asyncio.sleep(0)
        short = connection.call("ECHO", "short", timeout=0.05)
        assert isinstance(await outcome(short, 0.05), CallTimeout)
        shorter = connection.call("ECHO", "shorter", timeout=0.02)
        assert isinstance(await outcome(shorter, 0.02), CallTimeout)
        proxy.thaw()
        assert await long == b"long"
        assert await longest == b"longest"
        assert await connection.call("ECHO", "next") == b"next"


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_a_deadline_in_the_past_ends_the_call_and_shifts_nothing(
    address: Address, connect: Opener, timeout: float
) -> None:
    async with Proxy(address, lambda: Faults(delay=0.02)) as proxy:
        connection = await connect(proxy.address)
        late = connection.call("ECHO", "late", timeout=timeout)
        mine = connection.call("ECHO", "mine")
        assert isinstance(await outcome(late, 0.1), CallTimeout)
        assert await mine == b"mine"


async def test_expired_deadlines_do_not_shift_the_replies_that_come_later(
    address: Address, connect: Opener
) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address)
        for turn in range(20):
            proxy.freeze()
            calls = [
                connection.call("ECHO", f"{turn}:{n}", timeout=0.01 if n % 2 else 5)
                for n in range(10)
            ]
            expired = connection.batch([("ECHO", "b1"), ("ECHO", "b2")], timeout=0.01)
            calls.append(connection.call("ECHO", f"{turn}:10"))
            assert isinstance(await outcome(expired, 0.01), CallTimeout)
            proxy.thaw()
            results = await asyncio.gather(*calls, return_exceptions=True)
            for n, result in enumerate(results):
                if n % 2:
                    assert isinstance(result, CallTimeout)
                else:
                    assert result == f"{turn}:{n}".encode()


async def test_callers_cancelled_in_any_state_shift_nothing(
    address: Address, connect: Opener, seeded: random.Random
) -> None:
    """Before the write, after it, with half of the reply there, and after the reply."""

    async def call(connection: Connection, text: str) -> None:
        if seeded.random() < 0.3:
            assert await connection.batch([("ECHO", text), ("ECHO", text)]) == [text.encode()] * 2
        else:
            assert await connection.call("ECHO", text) == text.encode()

    async with Proxy(address, lambda: Faults(slice=5)) as proxy:
        connection = await connect(proxy.address)
        tasks: list[asyncio.Task[None]] = []
        for n in range(400):
            tasks.append(asyncio.create_task(call(connection, f"caller {n}")))
            for _ in range(seeded.randrange(4)):
                await asyncio.sleep(0)
            if seeded.random() < 0.5:
                seeded.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {type(None), asyncio.CancelledError}
        assert connection.in_flight <= 400
        assert await connection.call("ECHO", "last") == b"last"
        assert connection.in_flight == 0


async def test_a_server_asleep_longer_than_a_deadline_answers_later_calls_rightly(
    address: Address, connect: Opener
) -> None:
    connection = await connect(address, read_timeout=10.0)
    sleeping = connection.call("DEBUG", "SLEEP", "0.4", timeout=0.05)
    waiting = connection.call("ECHO", "waiting", timeout=0.1)
    patient = connection.call("ECHO", "patient")
    assert isinstance(await outcome(sleeping, 0.05), CallTimeout)
    assert isinstance(await outcome(waiting, 0.1), CallTimeout)
    during = connection.call("ECHO", "during")
    assert await patient == b"patient"
    assert await during == b"during"


async def test_calls_cut_off_say_whether_they_were_sent(address: Address, connect: Opener) -> None:
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address)
        proxy.freeze()
        sent = connection.call("ECHO", "sent")
        await asyncio.sleep(0.01)
        unsent = connection.call("ECHO", "unsent")
        connection.abort(ConnectionLost("cut by the test"))
        after = connection.batch([("ECHO", "after")])
        results = await asyncio.gather(sent, unsent, after, return_exceptions=True)
    assert [getattr(error, "maybe_applied", None) for error in results] == [True, False, False]
    assert len({id(error) for error in results}) == 3


async def test_the_fate_of_a_batch_cut_in_its_middle_is_unknown(
    connect: Opener,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(3):
            await peer.command()
        peer.send(b"+one\r\n+two\r\n")

    async with scripted(script) as address:
        connection = await connect(address)
        batch = connection.batch([("A",), ("B",), ("C",)])
        with pytest.raises(ConnectionLost) as lost:
            await batch
        assert lost.value.maybe_applied
        assert f"{address} closed the connection" in str(lost.value)


@pytest.mark.parametrize("half_close", [False, True], ids=["closed", "half_closed"])
async def test_a_server_that_stops_sending_ends_every_waiting_call(
    address: Address, half_close: bool
) -> None:
    cut: int | None = None
    async with Proxy(
        address, lambda: Faults(cut_replies_after=cut, half_close=half_close)
    ) as proxy:
        connection = await Connection.dial(proxy.address, ConnectOptions())
        cut = proxy.replied + 9
        await connection.close()
        connection = await Connection.dial(proxy.address, ConnectOptions())
        calls = [connection.call("ECHO", n) for n in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[0] == b"0"
        assert all(isinstance(result, ConnectionLost) for result in results[1:])
        await connection.wait_closed()


async def test_a_client_that_cannot_write_has_no_room_and_still_meets_deadlines(
    address: Address, connect: Opener
) -> None:
    """The peer takes nothing, so the buffers fill."""
    async with Proxy(address) as proxy:
        connection = await connect(proxy.address, read_timeout=0.5, heartbeat=60.0)
        proxy.freeze()
        calls = []
        while connection.has_room:
            assert len(calls) < 1000
            calls.append(connection.call("ECHO", b"x" * 1_000_000, timeout=0.3))
            await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, CallTimeout) for result in results)
        told = asyncio.Event()
        connection.on_room = told.set
        proxy.thaw()
        async with asyncio.timeout(20):
            await told.wait()
        assert await connection.call("ECHO", "mine", timeout=20) == b"mine"
