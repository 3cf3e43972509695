"""Opening a connection: every way it can fail ends in one error that says why and what to do."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rtx.errors import AccessDenied, ConnectFailed, ProtocolViolation, RtxError
from rtx.topology.process import ServerProcess, free_port
from rtx.urls import Address, Credentials
from rtx.wire import Connection, ConnectOptions
from tests.wire.conftest import Opener
from tests.wire.faults import Faults, Peer, Proxy, scripted

SLACK = 3.0
"""Seconds that a busy machine may add to a time-out."""


async def fails(address: Address, kind: type[RtxError] = ConnectFailed, **options: object) -> str:
    """Dial in vain; the message, after a look at the type and that it was not late."""
    chosen = ConnectOptions(**options)  # type: ignore[arg-type]
    started = time.monotonic()
    with pytest.raises(kind) as failed:
        await Connection.dial(address, chosen)
    assert type(failed.value) is kind
    assert time.monotonic() - started < chosen.connect_timeout + SLACK
    return str(failed.value)


async def test_a_refused_port_is_reported_at_once() -> None:
    started = time.monotonic()
    said = await fails(Address("127.0.0.1", free_port()), connect_timeout=30)
    assert "refused; is the server running, and on this port?" in said
    assert time.monotonic() - started < SLACK


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "..", "a\0b", "\udcff"])
async def test_a_host_that_cannot_be_found_is_a_typed_error(host: str) -> None:
    said = await fails(Address(host, 6379))
    assert "cannot connect to" in said
    assert "host name is not known" in said or "check the URL" in said


@pytest.mark.parametrize("path", ["/nonexistent/server.sock", "/", "/" + "a" * 200])
async def test_a_socket_path_without_a_server_is_a_typed_error(path: str) -> None:
    assert path in await fails(Address("", 0, path))


async def test_credentials_that_cannot_be_encoded_are_a_typed_error_without_them(
    address: Address,
) -> None:
    said = await fails(address, credentials=Credentials("user", "hunter\udcff"))
    assert "user or password has characters that cannot be sent" in said
    assert "hunter" not in said


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_server_that_hangs_up_at_once_is_reported(address: Address, reset: bool) -> None:
    async with Proxy(address, lambda: Faults(hang_up=True, reset=reset)) as proxy:
        assert str(proxy.address) in await fails(proxy.address)


async def test_a_server_that_accepts_and_is_silent_is_reported_in_time(address: Address) -> None:
    async with Proxy(address, lambda: Faults(black_hole_after=0)) as proxy:
        said = await fails(proxy.address, connect_timeout=0.2)
    assert "no answer from" in said
    assert "within 0.2 s; check the host, the port and the firewall" in said


async def test_a_short_read_timeout_does_not_change_what_a_silent_server_is_called(
    address: Address,
) -> None:
    async with Proxy(address, lambda: Faults(black_hole_after=0)) as proxy:
        await fails(proxy.address, connect_timeout=0.5, read_timeout=0.1, heartbeat=0.1)


async def test_a_listener_that_never_accepts_is_reported_in_time() -> None:
    """A full backlog drops SYNs, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = Address("127.0.0.1", listener.getsockname()[1])
        blockers = [socket.socket() for _ in range(4)]
        try:
            for blocker in blockers:
                blocker.setblocking(False)
                blocker.connect_ex((address.host, address.port))
            assert "no answer" in await fails(address, connect_timeout=0.3)
        finally:
            for blocker in blockers:
                blocker.close()


async def test_an_http_server_on_the_port_is_named_as_a_broken_protocol() -> None:
    async def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        assert "broke the protocol" in await fails(address)


async def test_a_tls_server_on_the_port_is_named_as_a_broken_protocol() -> None:
    """It answers plain bytes with an alert record."""

    async def script(peer: Peer) -> None:
        peer.send(b"\x15\x03\x03\x00\x02\x02\x0a")
        await peer.until_hung_up()

    async with scripted(script) as address:
        assert "broke the protocol" in await fails(address)


async def test_a_plain_server_where_tls_was_asked_for_is_reported(address: Address) -> None:
    async with Proxy(address) as proxy:
        said = await fails(proxy.address, tls=ssl.create_default_context(), connect_timeout=1.0)
    assert str(proxy.address) in said


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            b"-ERR unknown command `HELLO`\r\n",
            ConnectFailed,
            "RTX needs RESP3",
        ),
        (b"-NOPROTO unsupported protocol version\r\n", ConnectFailed, "refused the connection"),
        (b"-ERR max number of clients reached\r\n", ConnectFailed, "max number of clients"),
        (b"-LOADING server is loading the dataset\r\n", ConnectFailed, "is not ready: LOADING"),
        (b"-NOAUTH HELLO must be called with AUTH\r\n", AccessDenied, "asks for a password"),
        (b"-WRONGPASS invalid pair\r\n", AccessDenied, "check user and password"),
        (b"-DENIED protected mode is enabled\r\n", AccessDenied, "set a password, or bind"),
    ],
)
@pytest.mark.parametrize("when", ["unasked", "asked"])
async def test_a_refused_greeting_says_what_to_do(
    answer: bytes, kind: type[RtxError], words: str, when: str
) -> None:
    """A server that refuses everyone answers before it is asked, and hangs up."""

    async def script(peer: Peer) -> None:
        if when == "asked":
            await peer.command()
        peer.send(answer)

    async with scripted(script) as address:
        for _ in range(5):
            assert words in await fails(address, kind, db=1)


async def test_a_greeting_refused_bit_by_bit_leaves_nothing_unobserved() -> None:
    async def script(peer: Peer) -> None:
        await peer.command()
        await peer.send_bytewise(b"-ERR unknown command 'HELLO'\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        await fails(address, db=1)
    gc.collect()  # `quiet_loop` sees what is reported as lost


@asynccontextmanager
async def configured(server: ServerProcess, *command: str) -> AsyncIterator[Address]:
    address = Address("127.0.0.1", server.port)
    connection = await Connection.dial(server.local, ConnectOptions())
    await connection.call("CONFIG", "SET", *command)
    yield address
    await connection.close()


async def test_passwords_are_asked_for_checked_and_never_shown(
    own_server: ServerProcess,
) -> None:
    async with configured(own_server, "requirepass", "hunter2") as address:
        said = await fails(address, AccessDenied)
        assert "NOAUTH" in said
        assert "put it into the URL or settings" in said
        wrong = Credentials(None, "swordfish")
        said = await fails(address, AccessDenied, credentials=wrong)
        assert "WRONGPASS" in said
        assert "swordfish" not in said
        right = ConnectOptions(credentials=Credentials(None, "hunter2"), db=1)
        connection = await Connection.dial(address, right)
        assert await connection.call("PING") == b"PONG"
        assert "hunter2" not in repr(right)
        await connection.close()


async def test_a_database_that_does_not_exist_is_named(address: Address) -> None:
    said = await fails(address, db=99)
    assert "database 99 does not exist (see `databases`)" in said


async def test_a_full_server_is_named(own_server: ServerProcess) -> None:
    async with configured(own_server, "maxclients", "1") as address:
        for _ in range(5):
            assert "max number of clients reached" in await fails(address)


async def test_a_server_that_hangs_up_between_greeting_and_first_use_is_a_typed_error(
    connect: Opener,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()

    async with scripted(script) as address:
        for _ in range(20):
            try:
                connection = await connect(address)
            except ConnectFailed:
                continue
            with pytest.raises(RtxError) as lost:
                await connection.call("PING")
            assert not isinstance(lost.value, ProtocolViolation)


async def test_a_dial_may_be_cancelled_at_any_turn_and_leaves_nothing(address: Address) -> None:
    async with Proxy(address) as proxy:
        before = asyncio.all_tasks()
        for turns in range(40):
            closed: list[Connection] = []
            dialing = asyncio.ensure_future(
                Connection.dial(proxy.address, ConnectOptions(db=1), on_close=closed.append)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            dialing.cancel()
            try:
                connection = await dialing
            except asyncio.CancelledError:
                assert not closed, "who has no connection is not told of its end"
            else:
                await connection.close()
                assert closed == [connection]
        async with asyncio.timeout(10):
            while proxy._links or asyncio.all_tasks() - before:
                await asyncio.sleep(0.01)
    gc.collect()
