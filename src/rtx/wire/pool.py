"""A pool of multiplexed connections to one server for one role.

A connection carries thousands of calls at once, so the first one with room takes each call: that
keeps the pipelines dense. The next is used only when the ones before it are full, spares are kept
warm, and old ones are retired after their last reply. One task per pool dials and tidies.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rtx.errors import (
    ConnectFailed,
    ConnectionLost,
    PoolExhausted,
    RtxError,
    ServerError,
    Unavailable,
)
from rtx.setting_groups import PoolSettings
from rtx.wire.backoff import Backoff
from rtx.wire.connection import Connection, Dial
from rtx.wire.options import Argument
from rtx.wire.replies import Reply
from rtx.wire.shared import check, harmless

_TIDY_EVERY = 1.0


@dataclass(slots=True)
class PoolStats:
    """Counters since the pool was opened, and `connections` and `in_flight` as of now."""

    connections: int = 0
    in_flight: int = 0
    dials: int = 0
    dial_failures: int = 0
    lost: int = 0
    retired: int = 0
    waits: int = 0
    exhausted: int = 0
    retries: int = 0


class Pool:
    """Calls to one server, over as many connections as they need.

    `call` and `batch` send once and never retry. `execute` retries what is safe to retry. While the
    server is away calls fail at once with the reason, and the pool dials in the background with a
    jittered backoff of 50 ms to 1 s. Raises `Unavailable` kinds and `ServerError` kinds, and
    `UnsafeCommand` for a command that would harm the other callers.
    """

    def __init__(self, dial: Dial, settings: PoolSettings) -> None:
        self._dial = dial
        self._settings = settings
        self._connections: list[Connection] = []
        self._leaving: set[Connection] = set()  # retired, with replies still to come
        self._born: dict[Connection, float] = {}
        self._used: dict[Connection, float] = {}
        self._first: Connection | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._wanted = asyncio.Event()
        self._down: RtxError | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._on_loss: list[Callable[[], None]] = []
        self._backoff = Backoff()
        self._stats = PoolStats()

    # --- life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Dial the first connection; raises `ConnectFailed` or `AccessDenied` when it cannot."""
        self._add(await self._dial(self._forget))
        self.start()

    def start(self) -> None:
        """Begin to dial in the background; calls wait for the first connection or its failure."""
        self._keeper = asyncio.create_task(self._keep(), name="rtx-pool")

    async def drain(self, within: float) -> None:
        """Close when the calls that were sent are answered, or after `within` seconds."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        self._wake(len(self._waiters))
        everyone = [*self._connections, *self._leaving]
        for connection in everyone:
            connection.retire()
        if everyone and within:
            ends = [asyncio.ensure_future(connection.wait_closed()) for connection in everyone]
            await asyncio.wait(ends, timeout=within)
            for end in ends:
                end.cancel()
        await self.close()

    async def close(self) -> None:
        """End the keeper and every connection; calls that wait end in `ConnectionLost`."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._wake(len(self._waiters))
        everyone = [*self._connections, *self._leaving]
        await asyncio.gather(*(connection.close() for connection in everyone))

    def hurry(self) -> None:
        """Dial now rather than after the pause: the topology has news of the server."""
        self._backoff.hurry()

    def on_loss(self, told: Callable[[], None]) -> None:
        """Call `told` for each connection that breaks; not for those that are retired."""
        self._on_loss.append(told)

    @property
    def down(self) -> RtxError | None:
        """Why the server cannot be reached; None while it can."""
        return None if self._connections else self._down

    @property
    def stats(self) -> PoolStats:
        self._stats.connections = len(self._connections)
        self._stats.in_flight = sum(connection.in_flight for connection in self._connections)
        return self._stats

    # --- calls -----------------------------------------------------------------------------

    def call(self, *args: Argument, timeout: float | None = None) -> Awaitable[Reply]:
        """Send one command once; `timeout` in seconds bounds the wait for a connection too."""
        if args[0] not in harmless:
            check(args)
        if self._first is not None:
            future = self._first.offer(args, timeout)
            if future is not None:
                return future
        return self._call_later(args, timeout)

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> Awaitable[list[Reply]]:
        """Send commands in one write, once; the list of replies has the errors in it."""
        first = self._first
        if first is not None and first.has_room:
            return first.batch(commands, timeout)
        return self._batch_later(commands, timeout)

    def batch_packed(
        self, commands: Sequence[bytes], *, patient: bool = True, timeout: float | None = None
    ) -> Awaitable[list[Reply]]:
        """The same for commands that are RESP bytes already; a lone server knows no patience."""
        first = self._first
        if first is not None and first.has_room:
            return first.batch_packed(b"".join(commands), len(commands), timeout)
        return self._packed_later(commands, timeout)

    async def execute(
        self, *args: Argument, idempotent: bool = False, timeout: float | None = None
    ) -> Reply:
        """Send a command and retry it up to `max_retries` times where that cannot do it twice.

        What never left this process is sent again; what was sent only if it is `idempotent`.
        `timeout` is for all attempts together. An error is `maybe_applied` if any of them was sent.
        """
        clock = asyncio.get_running_loop().time
        began, left = clock(), timeout
        sent = False
        for attempt in range(self._settings.max_retries + 1):
            if timeout is not None:
                left = max(0.0, timeout - (clock() - began))
            try:
                return await self.call(*args, timeout=left)
            except Unavailable as error:
                sent = error.maybe_applied = sent or error.maybe_applied
                last = attempt == self._settings.max_retries
                if last or not isinstance(error, ConnectionLost) or (sent and not idempotent):
                    raise
                self._stats.retries += 1
        raise AssertionError("unreachable")

    async def _call_later(self, args: tuple[Argument, ...], timeout: float | None) -> Reply:
        connection, timeout = await self._acquire(timeout)
        return await connection.call(*args, timeout=timeout)

    async def _batch_later(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None
    ) -> list[Reply]:
        connection, timeout = await self._acquire(timeout)
        return await connection.batch(commands, timeout)

    async def _packed_later(self, commands: Sequence[bytes], timeout: float | None) -> list[Reply]:
        connection, timeout = await self._acquire(timeout)
        return await connection.batch_packed(b"".join(commands), len(commands), timeout)

    async def _acquire(self, timeout: float | None) -> tuple[Connection, float | None]:
        """The first connection with room, and what is left of the call's own time.

        Waits for `pool_timeout` or the call's time, whichever is less, while the server is up.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        patience = self._settings.pool_timeout
        if timeout is not None:
            patience = min(patience, timeout)
        give_up = began + patience
        join = self._waiters.append
        while True:
            if self._closed:
                raise Unavailable("the data layer is closed; open it before you call it")
            now = loop.time()
            for connection in self._connections:
                if connection.has_room:
                    self._first = connection
                    self._used[connection] = now
                    return connection, None if timeout is None else max(0.0, timeout + began - now)
                connection.on_room = self._on_room
            if not self._connections and self._down is not None:
                raise _another(self._down) from self._down
            waiter: asyncio.Future[None] = loop.create_future()
            join(waiter)
            join = self._waiters.appendleft  # who is woken in vain keeps the place in the queue
            self._wanted.set()
            self._stats.waits += 1
            try:
                async with asyncio.timeout_at(give_up):
                    await waiter
            except (TimeoutError, asyncio.CancelledError) as error:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                else:
                    self._on_room()  # the room this one was woken for is another's now
                if isinstance(error, asyncio.CancelledError):
                    raise
                self._stats.exhausted += 1
                raise PoolExhausted(
                    f"all {len(self._connections)} connections are full and none had room within "
                    f"{patience:g} s; the server is overloaded, or raise pool.size or "
                    "pool.max_in_flight"
                    if self._connections
                    else f"no connection could be opened within {patience:g} s"
                ) from None

    # --- connections -----------------------------------------------------------------------

    def _add(self, connection: Connection) -> None:
        now = asyncio.get_running_loop().time()
        self._stats.dials += 1
        self._down = None
        self._connections.append(connection)
        # Ages differ by up to a fifth, so that a pool never retires all at once.
        self._born[connection] = now - random.uniform(0, 0.2) * self._settings.max_age
        self._used[connection] = now
        if self._first is None:
            self._first = connection
        self._on_room()

    def _forget(self, connection: Connection) -> None:
        """A connection ended, by itself or by us."""
        lost = connection in self._connections and not self._closed
        self._leaving.discard(connection)
        self._drop(connection)
        self._wanted.set()
        if lost:
            self._stats.lost += 1
            for told in self._on_loss:
                told()

    def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            del self._born[connection], self._used[connection]
        if self._first is connection:
            self._first = self._connections[0] if self._connections else None

    def _on_room(self) -> None:
        """Wake as many as there is room for; the rest are told at the next reply."""
        if not self._waiters:
            return
        most = self._settings.max_in_flight
        self._wake(sum(most - each.in_flight for each in self._connections if each.has_room))
        if self._waiters:
            for connection in self._connections:
                connection.on_room = self._on_room

    def _wake(self, count: int) -> None:
        while self._waiters and count > 0:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    # --- the keeper ------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._wanted.clear()
            self._tidy()
            if self._needs_another():
                try:
                    self._add(await self._dial(self._forget))
                except RtxError as error:
                    await self._failed(error)
                except Exception as error:  # the keeper must outlive a fault in a topology
                    await self._failed(ConnectFailed(f"dialing failed in a new way: {error!r}"))
                else:
                    self._backoff.reset()
                continue
            try:
                async with asyncio.timeout(_TIDY_EVERY):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _failed(self, error: RtxError) -> None:
        self._stats.dial_failures += 1
        if not self._connections:
            self._down = error
            self._wake(len(self._waiters))
        await self._backoff.rest()

    def _needs_another(self) -> bool:
        have = len(self._connections)
        if have == 1 and self._is_old(self._connections[0]):
            return True  # it is retired when another has taken its place
        if have >= self._settings.size:
            return False
        busy = sum(1 for connection in self._connections if connection.in_flight)
        return have == 0 or bool(self._waiters) or have - busy < self._settings.min_idle

    def _is_old(self, connection: Connection) -> bool:
        age = asyncio.get_running_loop().time() - self._born[connection]
        return age > self._settings.max_age

    def _tidy(self) -> None:
        """Retire what is too old, and what has been idle too long beyond the warm spares."""
        now = asyncio.get_running_loop().time()
        for connection in self._connections:
            if connection.in_flight:
                self._used[connection] = now
        for connection in list(self._connections):
            old = self._is_old(connection)
            idle = now - self._used[connection] > self._settings.idle_timeout
            spare = len(self._connections) > max(1, self._settings.min_idle)
            if (old or (idle and spare)) and (spare or len(self._connections) > 1):
                self._drop(connection)
                self._stats.retired += 1
                self._leaving.add(connection)
                connection.retire()
                self._wanted.set()


def _another(error: RtxError) -> RtxError:
    """The same error anew; one object for every caller would gather all their tracebacks."""
    if isinstance(error, ServerError):
        return type(error)(str(error), error.prefix)
    return type(error)(str(error))
