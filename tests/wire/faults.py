"""Faults to put between a client and a server: a proxy that breaks things, and a scripted peer.

Both listen on loopback only, end every connection and task they made, and re-raise what went wrong
in a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import hiredis

from rtx.urls import Address
from tests.wire.listener import Listener

_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Faults:
    """What befalls one connection; bytes are counted from its beginning, times are in seconds."""

    cut_requests_after: int | None = None
    cut_replies_after: int | None = None
    reset: bool = False
    """Cut with RST rather than FIN."""
    half_close: bool = False
    """Cut the direction to the client only, and go on taking what it sends."""
    garbage: bytes = b""
    """Sent to the client in place of what the cut held back."""
    slice: int = _CHUNK
    """Replies are handed on in pieces of at most so many bytes, a loop turn apart."""
    delay: float = 0.0
    """Pause before each piece of a reply."""
    black_hole_after: int | None = None
    """Swallow every request from this byte on."""
    hang_up: bool = False
    """Close at once after accepting."""


HEALTHY = Faults()


class Proxy:
    """Hands bytes to and from a server, with faults that are chosen for each connection."""

    def __init__(self, target: Address, faults: Callable[[], Faults] = lambda: HEALTHY) -> None:
        self.target = target
        self.faults = faults
        self.address = Address("127.0.0.1", 0)
        self.accepted = 0
        self.replied = 0
        """Bytes that came from the server."""
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._listener = Listener(self._accept)
        self._links: dict[asyncio.StreamWriter, asyncio.StreamWriter | None] = {}

    async def __aenter__(self) -> Proxy:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_all()
        await self._listener.end()

    async def listen(self) -> None:
        """Accept connections, at the same port as before if there was one."""
        self._listener.open()
        self.address = Address("127.0.0.1", self._listener.port)

    async def refuse(self) -> None:
        """Take no more connections; those that are open stay."""
        self._listener.close()

    def freeze(self) -> None:
        """Hand on nothing in either direction, without closing anything."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Hand on again, what was held back first."""
        self._thawed.set()

    def cut_all(self, *, reset: bool = False) -> None:
        """Cut every open connection."""
        for client, server in list(self._links.items()):
            _cut(client, reset)
            if server is not None:
                _cut(server, reset)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links[writer] = None
        self.accepted += 1
        try:
            await self._link(reader, writer, self.faults())
        finally:
            server = self._links.pop(writer)
            for end in (writer, server):
                if end is not None:
                    end.transport.abort()

    async def _link(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
    ) -> None:
        if faults.hang_up:
            _cut(writer, faults.reset)
            return
        from_server, to_server = await asyncio.open_connection(self.target.host, self.target.port)
        self._links[writer] = to_server
        pumps = {
            asyncio.ensure_future(self._requests(reader, to_server, writer, faults)),
            asyncio.ensure_future(self._replies(from_server, writer, faults)),
        }
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if faults.half_close and all(pump.exception() is None for pump in done):
                await asyncio.wait(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        faults: Faults,
    ) -> None:
        passed = 0
        while data := await reader.read(_CHUNK):
            await self._thawed.wait()
            if faults.black_hole_after is not None:
                data = data[: max(0, faults.black_hole_after - passed)]
            if faults.cut_requests_after is not None:
                data = data[: faults.cut_requests_after - passed]
            if writer.is_closing():
                return
            writer.write(data)
            passed += len(data)
            if passed == faults.cut_requests_after:
                await writer.drain()
                _cut(client, faults.reset)
                return

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
    ) -> None:
        passed = 0
        limit = faults.cut_replies_after
        while data := await reader.read(_CHUNK):
            self.replied += len(data)
            if limit is not None:
                data = data[: limit - passed]
            passed += len(data)
            for start in range(0, len(data), faults.slice):
                await self._thawed.wait()
                if faults.delay:
                    await asyncio.sleep(faults.delay)
                if writer.is_closing():
                    return
                writer.write(data[start : start + faults.slice])
                await asyncio.sleep(0)
            if passed == limit:
                writer.write(faults.garbage)
                await writer.drain()
                if faults.half_close:
                    writer.write_eof()
                else:
                    _cut(writer, faults.reset)
                return


def _cut(writer: asyncio.StreamWriter, reset: bool) -> None:
    """Close: with RST at once, or with FIN after what was written."""
    if not reset:
        writer.close()
        return
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Peer:
    """One accepted connection of a scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(notEnoughData=...)

    async def command(self) -> list[bytes]:
        """The next command of the client; EOFError when it has hung up."""
        while (command := self._parser.gets()) is ...:
            data = await self._reader.read(_CHUNK)
            if not data:
                raise EOFError
            self._parser.feed(data)
        return command  # type: ignore[no-any-return]

    async def greet(self, db: int = 0) -> None:
        """Answer HELLO, and SELECT if a database is asked for, as a server does."""
        assert (await self.command())[0] == b"HELLO"
        self.send(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        if db:
            assert (await self.command())[0] == b"SELECT"
            self.send(b"+OK\r\n")

    @property
    def gone(self) -> bool:
        """Whether the client has hung up, as far as is known."""
        return self._writer.is_closing()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def send_bytewise(self, data: bytes, size: int = 1) -> None:
        """Send in pieces, each of which the client reads by itself."""
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def until_hung_up(self) -> None:
        """Take commands and say nothing until the client leaves."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                await self.command()

    def cut(self, *, reset: bool = False) -> None:
        _cut(self._writer, reset)


@asynccontextmanager
async def scripted(script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[Address]:
    """A server that runs `script` for each connection; closes it where the script ends."""
    failures: list[Exception] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
            await writer.drain()
        except (OSError, EOFError):
            pass
        except Exception as error:
            failures.append(error)

    listener = Listener(accept)
    listener.open()
    try:
        yield Address("127.0.0.1", listener.port)
    finally:
        await listener.end()
        if failures:
            raise failures[0]
