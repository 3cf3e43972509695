"""A listening socket that loses no connection, whenever it closes.

A server of asyncio forgets to close a connection that it accepts while it is being closed; found by
the garbage collector, that fails whatever test runs at the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from rtx.topology.process import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Runs `handle` in a task of its own for each connection, and closes the connection after it.

    The port lies below those that connections take, so that none of them has it when it listens
    again.
    """

    def __init__(self, handle: Handler) -> None:
        self.port = 0
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Accept connections, at the same port as before if there was one."""
        assert self._socket is None
        self.port = self.port or free_port()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", self.port))
        self._socket.listen(100)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Take no more connections; those that are open stay."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def end(self) -> None:
        """Close, and end every connection."""
        self.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):  # who has hung up already
            client, _ = self._socket.accept()
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            reader, writer = await asyncio.open_connection(sock=client)
        except (OSError, asyncio.CancelledError):
            client.close()
            return
        try:
            await self._handle(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
