"""The ceiling: the least that a pipelined connection over hiredis can be.

It has no deadlines, no reconnection, no limits and no error handling, so it is no client; it shows
what this event loop and this parser can do at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import hiredis

from benchmarks.base import Arena
from benchmarks.resp import pack

_NOTHING = object()


class BareLoop(asyncio.Protocol):
    """Writes all of a loop turn at once, and answers calls in their order."""

    def __init__(self, on_push: Callable[[list[bytes]], None] | None = None) -> None:
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[object] | None] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def call(self, *args: str | bytes | int) -> asyncio.Future[object]:
        """Send one command."""
        return self.send(pack(*args))

    def send(self, packed: bytes, count: int = 1) -> asyncio.Future[object]:
        """Send packed commands; the future gets the reply of the last."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        future = self._loop.create_future()
        if count > 1:
            self._waiting.extend([None] * (count - 1))
        self._waiting.append(future)
        return future

    async def subscribe(self, channels: list[str]) -> None:
        """Subscribe; the confirmations come as pushes, so a PING's reply shows the end of them."""
        assert self._transport is not None
        self._transport.write(pack("SUBSCRIBE", *channels))
        await self.call("PING")

    def _flush(self) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets = self._reader.gets
        while (reply := gets()) is not _NOTHING:
            if self._on_push is not None and type(reply) is hiredis.PushNotification:
                self._on_push(reply)
                continue
            future = self._waiting.popleft()
            if isinstance(reply, hiredis.ReplyError):
                raise reply
            if future is not None:
                future.set_result(reply)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def open_bare(
    arena: Arena, db: int = 0, on_push: Callable[[list[bytes]], None] | None = None
) -> AsyncIterator[BareLoop]:
    """A bare loop on the arena's server, speaking RESP3."""
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_connection(lambda: BareLoop(on_push), "127.0.0.1", arena.port)
    await bare.call("HELLO", 3)
    await bare.call("SELECT", db)
    try:
        yield bare
    finally:
        bare.close()
