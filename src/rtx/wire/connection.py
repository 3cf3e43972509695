"""One socket to one server: RESP3, multiplexed and pipelined, from dial to death.

All calls of one turn of the event loop leave in one write. Replies come in the order of the calls,
so a queue of futures matches them. A connection never heals: when it breaks, each call that waits
ends in a typed error and whoever owns the connection dials another.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import hiredis

from rtx.errors import (
    AccessDenied,
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ProtocolViolation,
    RtxError,
    ServerBusy,
    ServerError,
)
from rtx.urls import NO_CREDENTIALS, Address, Credentials
from rtx.wire.replies import Batch, Confirmation, Reply, server_error

Argument: TypeAlias = str | bytes | int | float
Push: TypeAlias = "list[Reply]"

_NOTHING = object()
_PUSH = hiredis.PushNotification
_FOREVER = float("inf")
_BEFORE_BAR = re.compile(rb"(?<=\n)(?=\|)")
_PUSHES_AT_ONCE = 64  # a longer list lives long enough to set off the garbage collector
_CONFIRMING = frozenset(kind + b"subscribe" for kind in (b"", b"p", b"s", b"un", b"pun", b"sun"))


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """How to connect and when to give a connection up; times in seconds."""

    credentials: Credentials = NO_CREDENTIALS
    db: int = 0
    client_name: str = "rtx"
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    connect_timeout: float = 3.0
    read_timeout: float = 3.0
    heartbeat: float = 1.0
    """A silent connection is pinged this often, and its answer is compared."""
    max_in_flight: int = 10_000
    max_reply: int = 64 * 2**20
    leave_if_readonly: bool = False
    """Retire when the server says that it is a read-only replica."""


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
        self.paused = False
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
        self._pending: deque[tuple[asyncio.Future[Reply] | Batch | Confirmation, float]] = deque()
        self._out: list[bytes] = []
        self._unsent = 0  # calls whose bytes are still in _out
        self._now = self._loop.time()
        self._earliest = _FOREVER  # earliest deadline among the calls of this turn
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = _FOREVER
        self._heartbeat: asyncio.TimerHandle | None = None
        self._pinged: asyncio.Future[Reply] | None = None
        self._alive_at = self._now  # when the peer last spoke, or was last asked after a pause
        self._partial = 0  # bytes of a reply that is not whole yet
        self._retiring = False
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
            connection._hello = _pack_hello(options)
            async with asyncio.timeout(options.connect_timeout):
                await connection._open_socket()
                await connection._greet()
        except TimeoutError:
            error: RtxError = ConnectFailed(
                f"no answer from {address} within {options.connect_timeout:g} s; "
                "check the host, the port and the firewall"
            )
        except (ssl.SSLError, OSError) as cause:
            error = ConnectFailed(f"cannot connect to {address}: {_reason(cause)}")
        except ValueError:  # from the encoders of host names and of credentials
            error = ConnectFailed(
                f"cannot connect to {address}: host, user or password has characters that cannot "
                "be sent; check the URL"
            )
        except ConnectionLost as cause:
            error = ConnectFailed(f"{address} hung up while connecting: {cause}")
        except ServerBusy as cause:
            error = ConnectFailed(f"{address} is not ready: {cause}")
        except (RtxError, asyncio.CancelledError):
            connection.abort(ConnectFailed(f"connecting to {address} was given up"))
            raise
        else:
            connection._on_close = on_close
            if connection.error is not None:  # it broke between the last reply and here
                raise ConnectFailed(f"{address} hung up while connecting: {connection.error}")
            return connection
        connection.abort(error)
        raise error

    async def _open_socket(self) -> None:
        if self.address.path is not None:
            await self._loop.create_unix_connection(lambda: self, self.address.path)
            return
        tls = self.options.tls
        await self._loop.create_connection(
            lambda: self,
            self.address.host,
            self.address.port,
            ssl=tls,
            server_hostname=self.address.host if tls else None,
        )

    async def _greet(self) -> None:
        try:
            for reply in self._greeting:
                await reply
        except (AccessDenied, ServerBusy, ConnectionLost):
            raise
        except ServerError as error:
            what = f"{self.address} refused the connection: {error}"
            if "unknown command" in str(error).lower():
                what += "; RTX needs RESP3, so Redis 6 or newer, or Valkey"
            elif "DB index" in str(error):
                what += f"; database {self.options.db} does not exist (see `databases`)"
            raise ConnectFailed(what) from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.error is not None:  # given up while the socket was being opened
            self._transport.abort()
            return
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heartbeat = self._loop.call_later(self.options.heartbeat, self._beat)
        # Sent from here, so that a server which refuses everyone (too many clients, protected
        # mode) cannot answer before there is a call to get the answer.
        for packed in self._hello:
            future: asyncio.Future[Reply] = self._new_future()
            future.add_done_callback(_observe)
            self._send(future, packed, self.options.connect_timeout)
            self._greeting.append(future)

    # --- calling ---------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls that wait for a reply; our own question whether the peer lives is none."""
        return len(self._pending) - self._asking

    @property
    def silent(self) -> float:
        """Seconds that the calls in flight have waited for any sign of the peer."""
        return self._loop.time() - self._alive_at if self._pending else 0.0

    @property
    def has_room(self) -> bool:
        """Whether another call may be made: alive, not retiring, and within its bounds."""
        return (
            len(self._pending) < self.options.max_in_flight
            and not self.paused
            and not self._retiring
            and self.error is None
        )

    def call(self, *args: Argument, timeout: float | None = None) -> asyncio.Future[Reply]:
        """Send one command; the future gets its reply, or a `ServerError` or `Unavailable`.

        `timeout` in seconds, `read_timeout` if left out. A longer one does not outlive the
        connection, which is given up when the peer has said nothing for `read_timeout`.
        """
        future: asyncio.Future[Reply] = self._new_future()
        self._send(future, hiredis.pack_command(args), timeout)  # type: ignore[arg-type]
        return future

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> asyncio.Future[list[Reply]]:
        """Send several commands in one write; the future gets the list of replies, errors in it."""
        pack = hiredis.pack_command
        packed = b"".join([pack(command) for command in commands])  # type: ignore[arg-type]
        return self.batch_packed(packed, len(commands), timeout)

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
        self._send(waiting, hiredis.pack_command((command, *channels)), None)  # type: ignore[arg-type]
        return future

    def _send(
        self,
        waiter: asyncio.Future[Reply] | Batch | Confirmation,
        packed: bytes,
        timeout: float | None,
    ) -> None:
        if self.error is not None:
            _fail(waiter, self.error, maybe_applied=False)
            return
        if not self._out:
            self._now = self._loop.time()
            self._loop.call_soon(self._flush)
        deadline = self._now + (self.options.read_timeout if timeout is None else timeout)
        if deadline < self._earliest:
            self._earliest = deadline
        self._out.append(packed)
        self._unsent += 1
        self._pending.append((waiter, deadline))

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None or self.error is not None:
            return
        if len(self._pending) == self._unsent:  # nothing was awaited before this turn
            self._alive_at = self._now
        self._out = []
        self._unsent = 0
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._earliest < self._expiry_at:
            self._arm_expiry(self._earliest)
        self._earliest = _FOREVER

    # --- receiving -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if b"|" in data and (b"\n|" in data or data.startswith(b"|")):
            self._take_apart(data)
        else:
            self._take(data)

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
                parsed = True
                if type(reply) is _PUSH:
                    pushes.append(reply)
                    if len(pushes) == _PUSHES_AT_ONCE:
                        self._on_push(pushes)
                        pushes = []
                    if pending and reply[0] in _CONFIRMING:
                        self._confirm(reply)
                    continue
                if not pending:
                    what = f": {reply}" if isinstance(reply, ServerError) else ""
                    raise ProtocolViolation(f"a reply came that nobody asked for{what}")
                waiter = pending[0][0]
                if isinstance(waiter, asyncio.Future):
                    pending.popleft()
                    if not waiter.done():
                        if isinstance(reply, ServerError):
                            waiter.set_exception(reply)
                        else:
                            waiter.set_result(reply)
                elif waiter.take(reply):
                    pending.popleft()
            if pushes:
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
            if self.on_room is not None or self._retiring:
                self._after_progress()

    def _confirm(self, push: Push) -> None:
        waiter = self._pending[0][0]
        if isinstance(waiter, Confirmation) and waiter.confirm(cast(bytes, push[0]), push[1]):
            self._pending.popleft()

    def _after_progress(self) -> None:
        if self.on_room is not None and self.has_room:
            told, self.on_room = self.on_room, None
            told()
        if self._retiring and not self._pending:
            self.abort(ConnectionLost(f"the connection to {self.address} was closed"))

    def _error_reply(self, text: str) -> ServerError:
        error = server_error(text)
        if self.options.leave_if_readonly and error.prefix == "READONLY":
            self._loop.call_soon(self.retire)
        return error

    # --- deadlines and liveness ------------------------------------------------------------

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

    def _beat(self) -> None:
        now = self._loop.time()
        silent = now - self._alive_at
        if self._pending and silent >= self.options.read_timeout:
            self.abort(
                ConnectionLost(
                    f"{self.address} has been silent for {silent:.1f} s with calls waiting; "
                    "it is frozen or cut off",
                    maybe_applied=True,
                )
            )
            return
        # Asked even under load: a reply that went astray is found out by the answer to PING.
        if not self._asking and not self._retiring:
            self._ping()
        self._heartbeat = self._loop.call_later(self.options.heartbeat, self._beat)

    @property
    def _asking(self) -> bool:
        return self._pinged is not None and not self._pinged.done()

    def _ping(self) -> None:
        token = os.urandom(8).hex().encode()

        def compare(future: asyncio.Future[Reply]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if self.error is not None:
                return
            if error is None and future.result() != token:
                self.abort(ProtocolViolation(f"{self.address} answered PING with another reply"))
            elif isinstance(error, CallTimeout):
                self.abort(
                    ConnectionLost(
                        f"{self.address} did not answer a PING; it is frozen or cut off",
                        maybe_applied=True,
                    )
                )

        self._pinged = asked = self.call("PING", token)
        asked.add_done_callback(compare)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._after_progress()

    # --- ending ----------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no more calls, and close when the last reply has come."""
        self._retiring = True
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
        why = f": {_reason(exc)}" if exc else ""
        self.abort(ConnectionLost(f"{self.address} closed the connection{why}"))
        if not self._closed.done():
            self._closed.set_result(None)

    def abort(self, error: RtxError) -> None:
        """End the connection with this error; every waiting call learns whether it was sent."""
        if self.error is not None:
            return
        self.error = error
        self._on_push = _ignore_push
        for timer in (self._expiry, self._heartbeat):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        elif not self._closed.done():
            self._closed.set_result(None)
        sent = len(self._pending) - self._unsent
        for place, (waiter, _) in enumerate(self._pending):
            _fail(waiter, error, maybe_applied=place < sent)
        self._pending.clear()
        self._out.clear()
        self._unsent = 0
        if self.on_room is not None:
            told, self.on_room = self.on_room, None
            told()
        if self._on_close is not None:
            self._on_close(self)


def _fail(
    waiter: asyncio.Future[Reply] | Batch | Confirmation, error: RtxError, *, maybe_applied: bool
) -> None:
    future = waiter if isinstance(waiter, asyncio.Future) else waiter.future
    if not future.done():
        # An exception of its own for each call: a shared one would gather every caller's traceback.
        kind = type(error) if isinstance(error, ConnectionLost) else ConnectionLost
        future.set_exception(kind(str(error), maybe_applied=maybe_applied))


def _pack_hello(options: ConnectOptions) -> list[bytes]:
    login = options.credentials
    hello: list[Argument] = ["HELLO", 3]
    if login.password is not None:
        hello += ["AUTH", login.username or "default", login.password]
    hello += ["SETNAME", options.client_name]
    commands = [hello, ["SELECT", options.db]] if options.db else [hello]
    return [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]


def _observe(future: asyncio.Future[Reply]) -> None:
    """Look at the outcome, so that one which nobody awaits any more is not reported as lost."""
    if not future.cancelled():
        future.exception()


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused; is the server running, and on this port?"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, FileNotFoundError):
        return "no such socket file"
    return str(error) or type(error).__name__
