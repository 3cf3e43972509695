"""Bytes that are no replies, one reply too many, one too large: each ends in a typed error."""

from __future__ import annotations

import asyncio

import pytest

from rtx.errors import CallTimeout, ProtocolViolation
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions
from tests.wire.conftest import Opener
from tests.wire.faults import Faults, Peer, Proxy, scripted

GARBAGE = {
    "text": b"hello, who is there?\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "zeros": bytes(64),
    "crlf": b"\r\n\r\n",
    "negative length": b"$-2\r\n",
    "huge array": b"*99999999999999\r\n",
    "huge integer": b":99999999999999999999\r\n",
    "streamed string": b"$?\r\n;4\r\nHell\r\n;0\r\n",
    "unhashable map key": b"%1\r\n*1\r\n:1\r\n:2\r\n",
    "blob error": b"!21\r\nSYNTAX invalid syntax\r\n",
    "empty push": b">0\r\n",
    "bare sign": b"+",
}
HANGING = {"bare sign"}
"""Not wrong as far as it goes, so that only the deadline can tell."""


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_ends_the_connection_and_what_came_before_it_counts(
    connect: Opener, name: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b"+mine\r\n" + GARBAGE[name])
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address, read_timeout=0.3)
        first, second, third = await asyncio.gather(
            *(connection.call("X", n) for n in range(3)), return_exceptions=True
        )
        assert first == b"mine"
        for lost in (second, third):
            if name in HANGING:
                assert isinstance(lost, CallTimeout)
            else:
                assert isinstance(lost, ProtocolViolation), lost
                assert str(address) in str(lost)
                assert lost.maybe_applied


async def test_a_confirmation_without_a_channel_is_garbage(connect: Opener) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b">1\r\n$9\r\nsubscribe\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address)
        with pytest.raises(ProtocolViolation):
            await connection.subscribe("SUBSCRIBE", ["a"])


async def test_a_reply_nobody_asked_for_ends_the_connection(connect: Opener) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b"+mine\r\n-ERR something unasked\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address)
        assert await connection.call("X") == b"mine"
        await connection.wait_closed()
        assert isinstance(connection.error, ProtocolViolation)
        assert "nobody asked for: ERR something unasked" in str(connection.error)
        with pytest.raises(ProtocolViolation) as refused:
            await connection.call("X")
        assert not refused.value.maybe_applied


@pytest.mark.parametrize("push", [b">0\r\n", b">1\r\n+message\r\n", b">2\r\n+message\r\n*0\r\n"])
async def test_a_push_of_no_known_shape_ends_the_connection(connect: Opener, push: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(push)
        await peer.until_hung_up()

    channels = {b"c": 1}
    async with scripted(script) as address:
        connection = await Connection.dial(
            address,
            ConnectOptions(),
            on_push=lambda pushes: [channels.get(push[1]) for push in pushes if push[0]],  # type: ignore[arg-type]
        )
        with pytest.raises(ProtocolViolation):
            await connection.call("X")
        await connection.wait_closed()


@pytest.mark.parametrize("bytewise", [False, True], ids=["at_once", "bytewise"])
async def test_a_reply_over_the_bound_is_refused_before_it_is_whole(
    connect: Opener, bytewise: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b"+small\r\n$900000\r\n")
        for _ in range(20):
            await peer.send_bytewise(b"x" * 40_000, 10_000 if bytewise else 40_000)
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address, max_reply=300_000)
        small, big = await asyncio.gather(
            connection.call("A"), connection.call("B"), return_exceptions=True
        )
    assert small == b"small"
    assert isinstance(big, ProtocolViolation)
    assert "300000 bytes; ask for less, or raise pool.max_reply" in str(big)


async def test_many_replies_may_be_larger_together_than_one_may_be(
    address: Address, connect: Opener, namespace: str
) -> None:
    connection = await connect(address, max_reply=300_000)
    value = b"v" * 200_000
    await connection.call("SET", f"{namespace}big", value)
    replies = await asyncio.gather(*(connection.call("GET", f"{namespace}big") for _ in range(30)))
    assert all(reply == value for reply in replies)


@pytest.mark.parametrize("size", [1, 2, 3, 65536])
async def test_an_attribute_ends_the_connection_before_it_can_shift_a_reply(
    address: Address, size: int
) -> None:
    """hiredis takes one for a reply. This is the server's own sample; none sends them unasked."""
    async with Proxy(address, lambda: Faults(slice=size)) as proxy:
        connection = await Connection.dial(proxy.address, ConnectOptions())
        before, attributed, after = await asyncio.gather(
            connection.call("ECHO", "before"),
            connection.call("DEBUG", "PROTOCOL", "attrib"),
            connection.call("ECHO", "after"),
            return_exceptions=True,
        )
        assert before == b"before"
        for lost in (attributed, after):
            assert isinstance(lost, ProtocolViolation)
            assert "RESP3 attribute" in str(lost)


async def test_an_attribute_inside_a_reply_ends_the_connection_too(connect: Opener) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b"*2\r\n:1\r\n|1\r\n+ttl\r\n:3600\r\n+value\r\n+after\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address)
        results = await asyncio.gather(
            connection.call("A"), connection.call("B"), return_exceptions=True
        )
        assert all(isinstance(result, ProtocolViolation) for result in results)


@pytest.mark.parametrize("size", [1, 2, 3, 65536])
async def test_bars_within_values_are_text(address: Address, connect: Opener, size: int) -> None:
    values = ["|", "\n|", "\r\n|1\r\n", "|a|\n|b|\r\n" * 20, "\r\n", "|1\r\n+x\r\n:1\r\n"]
    async with Proxy(address, lambda: Faults(slice=size)) as proxy:
        connection = await connect(proxy.address)
        calls = [connection.call("ECHO", value) for value in values]
        calls.append(connection.call("EVAL", "return {'|', ARGV[1], '|'}", 0, values[3]))
        *echoed, nested = await asyncio.gather(*calls)
        assert echoed == [value.encode() for value in values]
        assert nested == [b"|", values[3].encode(), b"|"]
