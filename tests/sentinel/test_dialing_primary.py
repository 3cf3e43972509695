"""Dialing a primary that dies, is replaced or answers oddly in that very moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from rtx import urls
from rtx.errors import ConnectFailed
from rtx.setting_groups import PoolSettings
from rtx.topology.base import Manner
from rtx.topology.sentinel import SentinelTopology
from rtx.topology.sentinel_words import Word
from rtx.urls import Address
from rtx.wire import Connection
from tests.conftest import eventually

pytestmark = pytest.mark.timeout(60)

SENTINEL = Address("127.0.0.1", 1)
HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
MASTER = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"


@asynccontextmanager
async def scripted(on_role: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[Address]:
    """A server that greets every client, and does with its ROLE what the test says."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                if b"HELLO" in data:
                    writer.write(HELLO)
                if b"ROLE" in data:
                    on_role(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


def knowing(address: Address, patience: float = 3.0) -> SentinelTopology:
    """A topology that is not opened: the tests say what it hears."""
    location = urls.Sentinel((SENTINEL,), "trading-redis")
    topology = SentinelTopology(location, Manner(PoolSettings(connect_timeout=patience)))
    topology._hear(SENTINEL, Word(1, address))
    return topology


async def test_whoever_gets_a_connection_is_told_when_it_ends() -> None:
    def answer_and_hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(MASTER)
        writer.close()

    async with scripted(answer_and_hang_up) as address:
        topology = knowing(address, patience=0.1)
        for _ in range(30):
            ended: list[Connection] = []
            try:
                connection = await topology.dial(0, ended.append)
            except ConnectFailed:
                continue
            await eventually(lambda: ended == [connection])  # noqa: B023
        assert not topology._live


async def test_a_switch_ends_a_dial_to_a_primary_that_does_not_answer() -> None:
    asked = asyncio.Event()
    async with (
        scripted(lambda _: asked.set()) as frozen,
        scripted(lambda writer: writer.write(MASTER)) as live,
    ):
        topology = knowing(frozen)
        dialing = asyncio.create_task(topology.dial(0, lambda _: None))
        await asked.wait()
        topology._hear(SENTINEL, Word(2, live))
        connection = await dialing
        assert connection.address == live
        await connection.close()
        assert not topology._live


async def test_a_switch_between_the_last_check_and_the_handover_is_noticed() -> None:
    async with scripted(lambda writer: writer.write(MASTER)) as former:
        topology = knowing(former, patience=0.3)
        seen: list[Connection] = []

        async def switch_at_once() -> None:
            # The moment that the attempt's task has finished, before whoever awaits it runs.
            while not topology._live:
                await asyncio.sleep(0)
            seen.extend(topology._live)
            topology._hear(SENTINEL, Word(2, Address("127.0.0.1", 1)))

        switching = asyncio.create_task(switch_at_once())
        with pytest.raises(ConnectFailed):  # rather than a connection that has ended already
            await topology.dial(0, lambda _: None)
        await switching
        assert seen[0].error is not None
        assert not topology._live


async def test_a_dial_that_is_given_up_leaves_no_connection_behind() -> None:
    async with scripted(lambda writer: writer.write(MASTER)) as address:
        topology = knowing(address)
        for turns in range(40):
            dialing = asyncio.create_task(topology.dial(0, lambda _: None))
            for _ in range(turns):
                await asyncio.sleep(0)
            dialing.cancel()
            [outcome] = await asyncio.gather(dialing, return_exceptions=True)
            if isinstance(outcome, Connection):
                await outcome.close()
            await eventually(lambda: not topology._live)

        # And at the one moment that matters: made, but not handed over yet.
        dialing = asyncio.create_task(topology.dial(0, lambda _: None))
        while not topology._live:
            await asyncio.sleep(0)
        dialing.cancel()
        [outcome] = await asyncio.gather(dialing, return_exceptions=True)
        if isinstance(outcome, Connection):
            await outcome.close()
        assert not topology._live


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (b"*1\r\n$5\r\nslave\r\n", "says that it is no primary"),
        (b"*1\r\n$8\r\nsentinel\r\n", "says that it is no primary"),
        (b"*0\r\n", "says that it is no primary"),
        (b"+OK\r\n", "says that it is no primary"),
        (b"-BUSY a script\r\n", "a script has been running too long"),
        (b"-LOADING data\r\n", "it is loading its data"),
        (b"", "no primary of 'trading-redis' to be had"),
    ],
)
async def test_whatever_is_answered_instead_of_a_role_ends_in_one_kind_of_error(
    reply: bytes, cause: str
) -> None:
    async with scripted(lambda writer: writer.write(reply)) as address:
        topology = knowing(address, patience=0.3)
        with pytest.raises(ConnectFailed, match=cause):
            await topology.dial(0, lambda _: None, liveness=0.1)
        assert not topology._live
