"""A connection whose server tells of each key that was read over it and has changed since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from time import monotonic

from rtx.errors import ConnectionLost, RtxError, ServerError
from rtx.topology.base import Homes
from rtx.wire import Backoff, Connection
from rtx.wire.options import Push

_NEVER = float("-inf")


class Trust:
    """Until when what was read over a link may be believed, by `time.monotonic`.

    The link moves it on with every answer of the server, and ends it when the connection breaks. A
    change of the topology puts another in its place, which knows the one `before`.
    """

    __slots__ = ("before", "link", "until")

    def __init__(self, link: Link, until: float, before: Trust | None = None) -> None:
        self.link = link
        self.until = until
        self.before = before


class Link:
    """Keeps a tracked connection to one home (CLIENT TRACKING, default mode), dials with a backoff.

    The server sends the word of a change over the connection that read the key, in order with its
    replies. So an answer to PING proves that every change before it has been told, and what was
    read is believed for two heartbeats after the last PING that was answered: a frozen server, a
    lost route or a loop that stood still cannot make it last longer.

    `on_changed` gets keys whose value on the server is another now, or gone. `on_flushed` and
    `on_lost` mean that nothing that was read over the link is valid any more. `on_end` is told when
    the link has ended by itself. None of them may raise.
    """

    def __init__(
        self,
        homes: Homes,
        home: Hashable,
        *,
        on_changed: Callable[[str], None],
        on_flushed: Callable[[Link], None],
        on_lost: Callable[[Link], None],
        on_end: Callable[[Link], None],
    ) -> None:
        self.home = home
        self.trust = Trust(self, _NEVER)
        self.connection: Connection | None = None
        """The connection while the server tracks what is read over it."""
        self.trouble = "not connected yet"
        """Why there is none, or why what is read cannot be kept; empty while all is well."""
        self.wanted = True
        """Whether anyone has asked for this home since the last attempt to reach it."""
        self.reconnects = 0
        self.tried = asyncio.Event()
        """Set after the first attempt to connect, whatever came of it."""
        self._homes = homes
        self._on_changed = on_changed
        self._on_flushed = on_flushed
        self._on_lost = on_lost
        self._on_end = on_end
        self._dialed: Connection | None = None
        self._connected_before = False
        self._lost = asyncio.Event()
        self._backoff = Backoff()
        self._task = asyncio.create_task(self._run(), name="rtx-tracking")

    @property
    def up(self) -> bool:
        """Whether a read over this link would be tracked, and the server has been heard lately."""
        connection = self.connection
        return connection is not None and connection.has_room and monotonic() < self.trust.until

    def renew(self) -> None:
        """Have everything that was read looked at once more before it is believed."""
        old = self.trust
        self.trust = Trust(self, old.until, old)
        old.until, old.before = _NEVER, None

    def hurry(self) -> None:
        """Dial now rather than after the pause: the topology has news of the server."""
        self._backoff.hurry()

    async def close(self) -> None:
        """End the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._dialed is not None:
            await self._dialed.close()

    # --- the connection --------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._connect()
            except RtxError as error:
                self.trouble = str(error)
                self.wanted = False
                self.tried.set()
                await self._backoff.rest()
                # A cluster's node that is gone is not dialed for ever: who needs it asks again.
                if self._homes.sharded and not self.wanted:
                    self._on_end(self)
                    return
                continue
            self.tried.set()
            await self._watch(connection)
            await self._backoff.rest()

    async def _connect(self) -> Connection:
        self._lost.clear()
        connection = await self._homes.dial(self.home, self._on_pushes, self._on_close)
        self._dialed = connection
        asked_at = monotonic()
        try:
            await connection.call("CLIENT", "TRACKING", "ON")
            if connection.error is not None:
                raise ConnectionLost(str(connection.error))
        except BaseException:
            connection.abort(ConnectionLost("the server does not track what is read"))
            raise
        self.reconnects += self._connected_before
        self._connected_before = True
        self.connection = connection
        self.trust = Trust(self, asked_at + 2 * connection.options.heartbeat)
        self.trouble = ""
        return connection

    async def _watch(self, connection: Connection) -> None:
        every = connection.options.heartbeat
        while connection is self.connection:
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._lost.wait()
                    return
            asked_at = monotonic()
            try:
                await connection.call("PING")
            except ServerError:
                pass  # busy or not, it answered, and in order
            except RtxError as error:
                connection.abort(ConnectionLost(f"a PING was not answered: {error}"))
                return
            if connection is self.connection:
                self.trust.until = asked_at + 2 * every
                self._backoff.reset()

    def _on_close(self, connection: Connection) -> None:
        if connection is not self.connection:
            return
        self.connection = None
        self.trouble = str(connection.error)
        self.trust.until = _NEVER
        self._on_lost(self)
        self._lost.set()

    def _on_pushes(self, pushes: list[Push]) -> None:
        for kind, *rest in pushes:
            if kind != b"invalidate" or not rest:
                continue
            keys = rest[0]
            if keys is None:
                self._on_flushed(self)
            elif isinstance(keys, list):
                for key in keys:
                    if isinstance(key, bytes):
                        self._on_changed(key.decode(errors="replace"))
