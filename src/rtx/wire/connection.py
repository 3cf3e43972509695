"""One socket to one server: RESP3, multiplexed and pipelined, from dial to death.

All calls of one turn of the event loop leave in one write. Replies come in the order of the calls,
so a queue of futures matches them. A connection never heals: when it breaks, each call that waits
ends in a typed error and whoever owns the connection dials another.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

import hiredis

from rtx.errors import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ProtocolViolation,
    RtxError,
    ServerError,
)
from rtx.urls import Address
from rtx.wire import opening
from rtx.wire.heartbeat import Heartbeat
from rtx.wire.options import Argument, ConnectOptions, Push
from rtx.wire.replies import Batch, Confirmation, Reply, server_error

_NOTHING = object()
_PUSH = hiredis.PushNotification
_FOREVER = float("inf")
_BEFORE_BAR = re.compile(rb"(?<=\n)(?=\|)")
_BITE = 32_768  # of more, the parser moves all that is left for each kilobyte it has parsed
_FULL_READ = 131_072  # after such a read uvloop reads on, up to 32 times before anybody else runs
_ASKED_FOR = frozenset((b"subscribe", b"psubscribe", b"ssubscribe"))
_CONFIRMING = frozenset(kind + b"subscribe" for kind in (b"", b"p", b"s", b"un", b"pun", b"sun"))

_pack = cast(Callable[[Sequence[Argument]], bytes], hiredis.pack_command)

Waiter: TypeAlias = "asyncio.Future[Reply] | Batch | Confirmation"

Dial: TypeAlias = "Callable[[Callable[[Connection], None]], Awaitable[Connection]]"
"""Opens a connection to the right server; its argument is told when the connection ends."""

OnPush: TypeAlias = "Callable[[list[Push]], None]"
"""Takes the pushes of one read of the socket, in their order. It may neither raise nor wait."""


def _ignore_push(_pushes: list[Push]) -> None:
    pass


class Connection(asyncio.Protocol):
    """A live connection; made by `Connection.dial`, or by a pool or topology.

    `call` and `batch` return futures and never wait; `has_room` says whether another call fits.
    Cancelling a future abandons its reply, nothing else.
    """

    def __init__(
        self,
        address: Address,
        options: ConnectOptions,
        on_push: OnPush | None = None,
        on_close: Callable[[Connection], None] | None = None,
    ) -> None:
        self.address = address
        self.options = options
        self.error: RtxError | None = None
        """Why the connection ended; None while it lives."""
        self.cut_short = False
        """Whether the peer closed it in the middle of a message."""
        self.paused = False
        self.retiring = False
        """Whether it takes no more calls and closes after the last reply."""
        self.on_room: Callable[[], None] | None = None
        self._on_push = on_push or _ignore_push
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._new_future = self._loop.create_future
        self._reader = hiredis.Reader(
            protocolError=ProtocolViolation,
            replyError=self._error_reply,
            notEnoughData=_NOTHING,
        )
        self._transport: asyncio.Transport | None = None
        self._hello: list[bytes] = []
        self._greeting: list[asyncio.Future[Reply]] = []
        self._pending: deque[tuple[Waiter, float]] = deque()  # each with its deadline
        self._out: list[bytes] = []  # what the last calls in _pending wrote, one piece each
        self._most = options.max_in_flight
        self._shut = False  # paused, retiring or dead: it has no room, however few calls wait
        self._now = self._loop.time()
        self._usual = self._now + options.read_timeout  # deadline of this turn's calls
        self._earliest = _FOREVER  # earliest deadline among the calls of this turn
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = _FOREVER
        self._heartbeat: Heartbeat | None = None
        self._alive_at = self._now  # when the peer last spoke, or was last asked after a pause
        self._partial = 0  # bytes of a reply that is not whole yet
        self._erred = False  # the parser has made an error since one was last taken
        self._closed: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        state = f"closed: {self.error}" if self.error else f"{len(self._pending)} in flight"
        return f"<Connection {self.address} {state}>"

    # --- opening ---------------------------------------------------------------------------

    @classmethod
    async def dial(
        cls,
        address: Address,
        options: ConnectOptions,
        on_push: OnPush | None = None,
        on_close: Callable[[Connection], None] | None = None,
    ) -> Connection:
        """Connect, log in and select the database, all within `connect_timeout`.

        Raises `ConnectFailed`, or `AccessDenied` when the server refuses the credentials.
        """
        connection = cls(address, options, on_push, None)
        try:
            async with opening.explained(address, options.connect_timeout):
                connection._hello = opening.hello(options)
                await opening.open_socket(connection, address, options.tls)
                await opening.greet(address, options.db, connection._greeting)
        except BaseException:
            connection.abort(ConnectFailed(f"connecting to {address} was given up"))
            raise
        connection._on_close = on_close
        if connection.error is not None:  # it broke between the last reply and here
            raise ConnectFailed(f"{address} hung up while connecting: {connection.error}")
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.error is not None:  # given up while the socket was being opened
            self._transport.abort()
            return
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heartbeat = Heartbeat(self, self.options.heartbeat, self.options.read_timeout)
        # Sent from here, so that a server which refuses everyone (too many clients, protected
        # mode) cannot answer before there is a call to get the answer.
        for packed in self._hello:
            future: asyncio.Future[Reply] = self._new_future()
            future.add_done_callback(_observe)
            self._send(future, packed, self.options.connect_timeout)
            self._greeting.append(future)

    @property
    def certificate_ends(self) -> float | None:
        """When the peer's certificate ends, in seconds since 1970; None without a verified one."""
        shown = self._transport.get_extra_info("peercert") if self._transport is not None else None
        return ssl.cert_time_to_seconds(shown["notAfter"]) if shown else None

    # --- calling ---------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls that wait for a reply; our own question whether the peer lives is none."""
        asking = self._heartbeat is not None and self._heartbeat.asking
        return len(self._pending) - asking

    @property
    def silent(self) -> float:
        """Seconds that the calls that were sent have waited for any sign of the peer."""
        waiting = len(self._pending) > len(self._out)
        return self._loop.time() - self._alive_at if waiting else 0.0

    @property
    def has_room(self) -> bool:
        """Whether another call may be made: alive, not retiring, and within its bounds."""
        return not self._shut and len(self._pending) < self._most

    def offer(
        self, args: tuple[Argument, ...], timeout: float | None
    ) -> asyncio.Future[Reply] | None:
        """`call` where there is room, else None: what a pool's every call goes through."""
        pending = self._pending
        if self._shut or len(pending) >= self._most:
            return None
        packed = _pack(args)
        if not self._out:
            self._begin_turn()
        future: asyncio.Future[Reply] = self._new_future()
        self._out.append(packed)
        pending.append((future, self._usual if timeout is None else self._deadline(timeout)))
        return future

    def call(self, *args: Argument, timeout: float | None = None) -> asyncio.Future[Reply]:
        """Send one command; the future gets its reply, or a `ServerError` or `Unavailable`.

        `timeout` in seconds, `read_timeout` if left out. A longer one does not outlive the
        connection, which is given up when the peer has said nothing for `read_timeout`.
        """
        future: asyncio.Future[Reply] = self._new_future()
        self._send(future, _pack(args), timeout)
        return future

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> asyncio.Future[list[Reply]]:
        """Send several commands in one write; the future gets the list of replies, errors in it."""
        return self.batch_packed(b"".join([*map(_pack, commands)]), len(commands), timeout)

    def batch_packed(
        self, packed: bytes, count: int, timeout: float | None = None
    ) -> asyncio.Future[list[Reply]]:
        """The same for `count` commands that are RESP bytes already."""
        future: asyncio.Future[list[Reply]] = self._new_future()
        if not count:  # no reply comes for nothing, and none may be taken from the next call
            future.set_result([])
            return future
        self._send(Batch(future, count), packed, timeout)
        return future

    def subscribe(self, command: str, channels: Sequence[str]) -> asyncio.Future[Reply]:
        """Send a (P/S)(UN)SUBSCRIBE; the future ends when each channel is confirmed."""
        future: asyncio.Future[Reply] = self._new_future()
        waiting = Confirmation(future, command, frozenset(map(str.encode, channels)))
        self._send(waiting, _pack((command, *channels)), None)
        return future

    def _send(self, waiter: Waiter, packed: bytes, timeout: float | None) -> None:
        if self.error is not None:
            _fail(waiter, self.error, maybe_applied=False)
            return
        if not self._out:
            self._begin_turn()
        self._out.append(packed)
        deadline = self._usual if timeout is None else self._deadline(timeout)
        self._pending.append((waiter, deadline))

    def _begin_turn(self) -> None:
        self._now = self._loop.time()
        self._usual = self._earliest = self._now + self.options.read_timeout
        self._loop.call_soon(self._flush)

    def _deadline(self, timeout: float) -> float:
        deadline = self._now + timeout
        if deadline < self._earliest:
            self._earliest = deadline
        return deadline

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None or self.error is not None:
            return
        if len(self._pending) == len(out):  # nothing was awaited before this turn
            self._alive_at = self._now
        self._out = []
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._earliest < self._expiry_at:
            self._arm_expiry(self._earliest)

    # --- receiving -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if len(data) > _BITE:
            self._take_in_bites(data)
        elif b"|" in data and (b"\n|" in data or data.startswith(b"|")):
            self._take_apart(data)
        else:
            self._take(data)

    def _take_in_bites(self, data: bytes) -> None:
        """Take a large read bit by bit, and let those run whom it was for before the next one."""
        for start in range(0, len(data), _BITE):
            self.data_received(data[start : start + _BITE])
            if self.error is not None:
                return
        transport = self._transport
        if len(data) >= _FULL_READ and transport is not None and transport.is_reading():
            transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_apart(self, data: bytes) -> None:
        """Refuse a RESP3 attribute, which hiredis would hand over as one reply too many.

        A | begins one where the parser has used up all that came before it; elsewhere it is text.
        """
        for piece in _BEFORE_BAR.split(data):
            if piece.startswith(b"|") and not self._reader.has_data():
                self.abort(
                    ProtocolViolation(
                        f"{self.address} sent a RESP3 attribute, which RTX does not understand"
                    )
                )
            if self.error is not None:
                return
            self._take(piece)

    def _take(self, data: bytes) -> None:
        self._alive_at = self._loop.time()
        pending = self._pending
        pushes: list[Push] = []
        parsed = False
        reply: Any
        try:
            self._reader.feed(data)
            gets = self._reader.gets
            while (reply := gets()) is not _NOTHING:
                if type(reply) is _PUSH:
                    pushes.append(reply)
                    if pending and reply[0] in _CONFIRMING:
                        self._confirm(reply)
                    continue
                parsed = True
                if not pending:
                    what = f": {reply}" if isinstance(reply, ServerError) else ""
                    raise ProtocolViolation(f"a reply came that nobody asked for{what}")
                waiter = pending[0][0]
                if not isinstance(waiter, asyncio.Future):
                    if waiter.take(reply):
                        pending.popleft()
                    continue
                pending.popleft()
                if self._erred and isinstance(reply, ServerError):
                    self._erred = False
                    if not waiter.done():
                        waiter.set_exception(reply)
                elif not waiter.done():
                    waiter.set_result(reply)
            if pushes:
                parsed = True
                self._on_push(pushes)
        except ProtocolViolation as error:
            self.abort(ProtocolViolation(f"{self.address} broke the protocol: {error}"))
        except (TypeError, ValueError, LookupError, MemoryError, RecursionError) as error:
            self.abort(ProtocolViolation(f"unreadable reply from {self.address}: {error}"))
        else:
            if parsed:
                self._partial = min(len(data), self._reader.len())
            else:
                self._partial += len(data)
            if self._partial > self.options.max_reply:
                self.abort(
                    ProtocolViolation(
                        f"{self.address} sent a reply of over {self.options.max_reply} bytes; "
                        "ask for less, or raise pool.max_reply"
                    )
                )
            if self.on_room is not None or self.retiring:
                self._after_progress()

    def _confirm(self, push: Push) -> None:
        waiter, kind = self._pending[0][0], cast(bytes, push[0])
        if isinstance(waiter, Confirmation):
            if waiter.confirm(kind, push[1]):
                self._pending.popleft()
        elif kind in _ASKED_FOR:
            raise ProtocolViolation(
                f"a {kind.decode().upper()} was sent like a call, which would shift every later "
                "reply; use Connection.subscribe"
            )

    def _after_progress(self) -> None:
        if self.on_room is not None and self.has_room:
            told, self.on_room = self.on_room, None
            told()
        if self.retiring and not self._pending:
            self.abort(ConnectionLost(f"the connection to {self.address} was closed"))

    def _error_reply(self, text: str) -> ServerError:
        self._erred = True
        error = server_error(text)
        if self.options.leave_if_readonly and error.prefix == "READONLY":
            self._loop.call_soon(self.retire)
        return error

    # --- deadlines -------------------------------------------------------------------------

    def _arm_expiry(self, when: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = when
        self._expiry = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        """One timer serves all calls: it fires at the earliest deadline known when it was set."""
        now = self._loop.time()
        earliest = _FOREVER
        for waiter, deadline in self._pending:
            future = waiter if isinstance(waiter, asyncio.Future) else waiter.future
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(
                    CallTimeout(
                        f"no reply from {self.address} before the call's deadline; the server is "
                        "busy, frozen or cut off, and may yet carry the command out",
                        maybe_applied=True,
                    )
                )
            elif deadline < earliest:
                earliest = deadline
        self._expiry, self._expiry_at = None, _FOREVER
        if earliest < _FOREVER:
            self._arm_expiry(earliest)

    def pause_writing(self) -> None:
        self.paused = self._shut = True

    def resume_writing(self) -> None:
        self.paused = False
        self._shut = self.retiring or self.error is not None
        self._after_progress()

    # --- ending ----------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no more calls, and close when the last reply has come."""
        self.retiring = self._shut = True
        if not self._pending:
            self.abort(ConnectionLost(f"the connection to {self.address} was closed"))

    async def close(self) -> None:
        """Close now; calls that wait end in `ConnectionLost`."""
        self.abort(ConnectionLost(f"the connection to {self.address} was closed here"))
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when the socket is closed, whoever closed it."""
        await asyncio.shield(self._closed)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f": {opening.reason(exc)}" if exc else ""
        if self.error is None and self._reader.has_data():
            self.cut_short = True
            why = f" in the middle of a message{why}"
        self.abort(ConnectionLost(f"{self.address} closed the connection{why}"))
        if not self._closed.done():
            self._closed.set_result(None)

    def abort(self, error: RtxError) -> None:
        """End the connection with this error; every waiting call learns whether it was sent."""
        if self.error is not None:
            return
        self.error = error
        self._shut = True
        self._on_push = _ignore_push
        if self._expiry is not None:
            self._expiry.cancel()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._transport is not None:
            self._transport.abort()
        elif not self._closed.done():
            self._closed.set_result(None)
        sent = len(self._pending) - len(self._out)
        for place, (waiter, _) in enumerate(self._pending):
            _fail(waiter, error, maybe_applied=place < sent)
        self._pending.clear()
        self._out.clear()
        # The parser knows us and holds what it has read: let go now, not when the collector comes.
        self._reader = hiredis.Reader()
        if self.on_room is not None:
            told, self.on_room = self.on_room, None
            told()
        if self._on_close is not None:
            self._on_close(self)


def _fail(waiter: Waiter, error: RtxError, *, maybe_applied: bool) -> None:
    future = waiter if isinstance(waiter, asyncio.Future) else waiter.future
    if not future.done():
        # An exception of its own for each call: a shared one would gather every caller's traceback.
        kind = type(error) if isinstance(error, ConnectionLost) else ConnectionLost
        future.set_exception(kind(str(error), maybe_applied=maybe_applied))


def _observe(future: asyncio.Future[Reply]) -> None:
    """Look at the outcome, so that one which nobody awaits any more is not reported as lost."""
    if not future.cancelled():
        future.exception()
