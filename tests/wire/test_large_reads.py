"""Reads of the socket that are larger than what is parsed at once."""

from __future__ import annotations

import asyncio

import pytest

from rtx.errors import ProtocolViolation
from rtx.wire import Connection, ConnectOptions
from rtx.wire.options import Push
from tests.wire.faults import Peer, scripted

_BITE = 32_768


def _message(text: bytes) -> bytes:
    return b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%b\r\n" % (len(text), text)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 17])
async def test_messages_and_replies_keep_their_order_wherever_a_read_is_cut(shift: int) -> None:
    """Bars within them stand on both sides of the cuts, where they must stay text."""
    texts = [b"x" * shift] + [b"\n|" * (number % 40) for number in range(20_000)]

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        half = len(texts) // 2
        sent = [_message(text) for text in texts]
        peer.send(b"".join([*sent[:half], b"+reply\r\n", *sent[half:]]))
        await peer.until_hung_up()

    came: list[Push] = []
    async with scripted(script) as address:
        connection = await Connection.dial(address, ConnectOptions(), came.extend)
        assert await connection.call("ANYTHING") == b"reply"
        async with asyncio.timeout(10):
            while len(came) < len(texts):
                await asyncio.sleep(0)
        assert [push[2] for push in came] == texts
        await connection.close()


@pytest.mark.parametrize("before", [_BITE - 1, _BITE, _BITE + 1, 3 * _BITE])
async def test_an_attribute_ends_the_connection_wherever_a_read_is_cut(before: int) -> None:
    text = b"x" * (before - len(_message(b"")) - 4)

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(_message(text) + b"|1\r\n+ttl\r\n:3600\r\n+value\r\n" + _message(text))
        await peer.until_hung_up()

    came: list[Push] = []
    async with scripted(script) as address:
        connection = await Connection.dial(address, ConnectOptions(), came.extend)
        with pytest.raises(ProtocolViolation, match="RESP3 attribute"):
            await connection.call("ANYTHING")
        assert len(came) <= 1
        await connection.wait_closed()
