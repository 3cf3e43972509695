"""Writes that are answered when a replica has them too: a connection of their own, and WAIT.

WAIT holds up every reply behind it, so it must not be sent over a connection that others share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence

from rtx.errors import ConnectionLost, PoolExhausted, RtxError, ServerError, Unavailable, anew
from rtx.topology.base import Homes
from rtx.wire import Connection, Reply, Script
from rtx.wire.connection import OnPush
from rtx.wire.options import Argument, Push

_TOGETHER = 1_000  # writes under one WAIT
_QUEUE = 10_000
_AT_FIRST = 0.02  # sent along with the writes; where these are refused it is waited for in vain
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})


class Elsewhere(Unavailable):
    """The node does not have the key, or not yet; nothing was done."""

    code = "elsewhere"


class _Write:
    """A script to run, its outcome, and how many replicas are to have it."""

    __slots__ = ("args", "keys", "outcome", "replicas", "sent", "within")

    def __init__(
        self, keys: Sequence[str], args: Sequence[Argument], replicas: int, within: float
    ) -> None:
        self.keys = keys
        self.args = args
        self.replicas = replicas
        self.within = within
        self.sent = False
        self.outcome: asyncio.Future[tuple[Reply, int]] = asyncio.get_running_loop().create_future()


class DurableWriter:
    """Runs a script that writes, and says how many replicas have what it wrote.

    Writes that are asked for while others are under way go together, under one WAIT.
    """

    def __init__(self, homes: Homes, script: Script, read_timeout: float, patience: float) -> None:
        self._homes = homes
        self._script = script
        self._read_timeout = read_timeout
        # One WAIT is shorter than what a silent server is given: a replica that lags is no reason
        # to end the connection.
        self._patience = patience
        self._lanes: dict[Hashable, _Lane] = {}

    async def close(self) -> None:
        """End the connections; writes under way end in `ConnectionLost`."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))

    async def run(
        self, keys: Sequence[str], args: Sequence[Argument], *, replicas: int, within: float
    ) -> tuple[Reply, int]:
        """Run the script once; its reply, and how many replicas had it `within` that many seconds.

        Raises `Unavailable` kinds, with `maybe_applied` where it was sent, and `ServerError` kinds;
        `Elsewhere` where a node of a cluster does not have the key.
        """
        name = keys[0].encode()
        home = self._homes.home(name)
        if home is None:
            raise Elsewhere("no node of the cluster has the log's slot; see CLUSTER INFO")
        lane = self._lanes.get(home)
        if lane is None:
            lane = self._lanes[home] = _Lane(
                lambda taken, closed: self._homes.dial(home, taken, closed),
                self._script,
                self._read_timeout,
                self._patience,
            )
        write = _Write(keys, args, replicas, within)
        lane.put(write)
        try:
            return await write.outcome
        except ServerError as error:
            if error.prefix in _ELSEWHERE:
                self._homes.moved(name, error)
                raise Elsewhere(str(error)) from None
            raise


class _Lane:
    """The writes to one server, in order."""

    def __init__(
        self,
        dial: Callable[[OnPush, Callable[[Connection], None]], Awaitable[Connection]],
        script: Script,
        read_timeout: float,
        patience: float,
    ) -> None:
        self._dial = dial
        self._script = script
        self._read_timeout = read_timeout
        self._patience = patience
        self._queue: deque[_Write] = deque()
        self._connection: Connection | None = None
        self._loaded = False  # whether this connection's server knows the script
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, write: _Write) -> None:
        if self._closed:
            raise Unavailable("the data layer is closed; open it before you call it")
        if len(self._queue) >= _QUEUE:
            raise PoolExhausted(
                f"{_QUEUE} durable writes wait for their turn; the replicas are slow, or publish "
                "less at once"
            )
        self._queue.append(write)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="rtx-durable")

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
        _fail(self._queue, ConnectionLost("the data layer was closed"))

    async def _work(self) -> None:
        await asyncio.sleep(0)  # the rest of this turn's writes come along
        while self._queue:
            several = [self._queue.popleft() for _ in range(min(_TOGETHER, len(self._queue)))]
            several = [write for write in several if not write.outcome.done()]
            if not several:
                continue
            try:
                await self._write(several)
            except RtxError as error:
                _fail(several, error)
            except asyncio.CancelledError:
                _fail(several, ConnectionLost("the data layer was closed", maybe_applied=True))
                raise
            except Exception as error:  # whoever waits must not wait for ever
                _fail(several, Unavailable(f"a fault of the writer: {error!r}", maybe_applied=True))
                raise

    async def _write(self, writes: list[_Write]) -> None:
        connection = await self._open()
        loop = asyncio.get_running_loop()
        began = loop.time()
        replicas = max(write.replicas for write in writes)
        within = max(write.within for write in writes)
        commands: list[tuple[Argument, ...]] = [
            self._command(write, first=place == 0) for place, write in enumerate(writes)
        ]
        pause = min(within, _AT_FIRST)
        wait: tuple[Argument, ...] = ("WAIT", replicas, _milliseconds(pause))
        for write in writes:
            write.sent = True
        *replies, acknowledged = await connection.batch(
            [*commands, wait], timeout=self._read_timeout + pause
        )
        if all(isinstance(reply, ServerError) for reply in replies):
            acknowledged = replicas  # nothing was written, so nothing is waited for
        else:
            self._loaded = True
        while isinstance(acknowledged, int) and acknowledged < replicas:
            left = began + within - loop.time()
            if left <= 0:
                break
            pause = min(left, self._patience)
            acknowledged = await connection.call(
                "WAIT", replicas, _milliseconds(pause), timeout=self._read_timeout + pause
            )
        again: list[_Write] = []
        for write, reply in zip(writes, replies, strict=True):
            if isinstance(reply, ServerError) and reply.prefix == "NOSCRIPT":
                again.append(write)
            elif isinstance(reply, ServerError):
                _settle(write, reply)
            elif isinstance(acknowledged, int):
                _settle(write, (reply, acknowledged))
            else:
                _settle(write, _no_wait(acknowledged))
        if again:  # the server forgot the script: none of them was run
            self._loaded = False
            await self._write(again)

    def _command(self, write: _Write, *, first: bool) -> tuple[Argument, ...]:
        rest = (len(write.keys), *write.keys, *write.args)
        if first and not self._loaded:
            return ("EVAL", self._script.text, *rest)
        return ("EVALSHA", self._script.sha, *rest)

    async def _open(self) -> Connection:
        connection = self._connection
        if connection is None or not connection.has_room:
            if connection is not None:
                connection.retire()
            self._connection = None
            self._loaded = False
            self._connection = connection = await self._dial(_ignore, _left)
        return connection


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # 0 would wait for ever


def _no_wait(reply: Reply) -> RtxError:
    """WAIT itself was refused: what was written may not be with a replica."""
    if isinstance(reply, ServerError):
        return anew(reply)
    return Unavailable(f"WAIT was answered with {reply!r}", maybe_applied=True)


def _settle(write: _Write, outcome: tuple[Reply, int] | RtxError) -> None:
    if write.outcome.done():
        return
    if isinstance(outcome, tuple):
        write.outcome.set_result(outcome)
    else:
        write.outcome.set_exception(anew(outcome))


def _fail(writes: Iterable[_Write], error: RtxError) -> None:
    for write in writes:
        own = anew(error)
        if isinstance(own, Unavailable):
            own.maybe_applied = own.maybe_applied and write.sent
        _settle(write, own)


def _ignore(_pushes: list[Push]) -> None:
    pass


def _left(_connection: Connection) -> None:
    pass  # `has_room` says that it ended
