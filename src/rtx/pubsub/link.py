"""A connection for push messages to one server, and the channels that are subscribed on it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial

from rtx.codecs import DecodeError
from rtx.errors import ConnectionLost, RtxError, ServerError
from rtx.pubsub.base import Sink
from rtx.pubsub.channel import Channel, lose
from rtx.topology.base import Homes
from rtx.topology.slots import key_slot
from rtx.wire import Backoff, Connection, Reply
from rtx.wire.options import Push

_CHANNELS_PER_COMMAND = 512
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})


@dataclass(slots=True)
class HubStats:
    """Counters since the layer was opened, and `channels` as of now."""

    channels: int = 0
    received: int = 0
    undecodable: int = 0
    connects: int = 0
    losses: int = 0
    connect_failures: int = 0


class Link:
    """Keeps a connection to one home, dials with a jittered backoff, subscribes anew.

    `on_gone` is told of channels that the server did not take because they live elsewhere.
    """

    def __init__(
        self,
        homes: Homes,
        home: Hashable,
        stats: HubStats,
        on_gone: Callable[[list[Channel], ServerError], None],
    ) -> None:
        self.home = home
        self.exact: dict[bytes, Channel] = {}
        self.patterns: dict[bytes, Channel] = {}
        self.down: tuple[float, str] | None = None
        """Since when and why there is no connection; None while there is one."""
        self._homes = homes
        self._sharded = homes.sharded
        self._stats = stats
        self._on_gone = on_gone
        self._connection: Connection | None = None
        self._leaving: Counter[bytes] = Counter()  # whose SUNSUBSCRIBE is not answered yet
        self._lost = asyncio.Event()
        self._backoff = Backoff()
        self._useful = False  # whether this connection has subscribed to anything
        self._task = asyncio.create_task(self._run(), name="rtx-subscriber")

    def hurry(self) -> None:
        """Dial now rather than after the pause: the topology has news of the server."""
        self._backoff.hurry()

    async def close(self) -> None:
        """End the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    @property
    def channels(self) -> list[Channel]:
        """All that live here."""
        return [*self.exact.values(), *self.patterns.values()]

    # --- channels --------------------------------------------------------------------------

    def take(self, channels: list[Channel]) -> None:
        """Subscribe to channels, now or when there is a connection."""
        for channel in channels:
            channel.link = self
            (self.patterns if channel.pattern else self.exact)[channel.key] = channel
        if self._connection is not None:
            self._ask(self._connection, channels)

    def let_go(self, channels: list[Channel]) -> None:
        """Take no more messages of channels that have moved; their node drops them by itself."""
        for channel in channels:
            channel.link = None
            del (self.patterns if channel.pattern else self.exact)[channel.key]

    def drop(self, channels: list[Channel]) -> None:
        """Listen to these no more."""
        self.let_go(channels)
        connection = self._connection
        if connection is None or connection.error is not None:
            return
        for several in self._chunks(channels):
            command = self._command("UNSUBSCRIBE", several[0])
            if self._sharded:
                self._leaving.update(channel.key for channel in several)
            asked = connection.subscribe(command, [channel.name for channel in several])
            asked.add_done_callback(partial(self._left, [channel.key for channel in several]))

    def _left(self, keys: list[bytes], answer: asyncio.Future[Reply]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            self._leaving.subtract(keys)  # refused: it had left before
            self._leaving = +self._leaving

    def ask_again(self, channels: list[Channel]) -> None:
        """Subscribe to channels that the server did not take before."""
        if self._connection is not None:
            self._ask(self._connection, channels)

    def _command(self, verb: str, channel: Channel) -> str:
        if channel.pattern:
            return f"P{verb}"
        return f"S{verb}" if self._sharded else verb

    def _chunks(self, channels: list[Channel]) -> Iterable[list[Channel]]:
        """Channels that one command can take: of one kind, and in a cluster of one slot."""
        groups: dict[object, list[Channel]] = {}
        for channel in channels:
            kind = key_slot(channel.key) if self._sharded else channel.pattern
            groups.setdefault(kind, []).append(channel)
        for group in groups.values():
            for start in range(0, len(group), _CHANNELS_PER_COMMAND):
                yield group[start : start + _CHANNELS_PER_COMMAND]

    # --- the connection --------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._lost.clear()
            try:
                connection = await self._homes.dial(self.home, self._on_pushes, self._on_close)
            except RtxError as error:
                self._stats.connect_failures += 1
                self.down = (self.down[0] if self.down else time.monotonic(), str(error))
                await self._backoff.rest()
                continue
            self._connection, self.down = connection, None
            self._useful = False
            self._leaving.clear()
            self._stats.connects += 1
            self._ask(connection, self.channels)
            await self._lost.wait()
            if not self._useful:
                await self._backoff.rest()

    def _on_close(self, connection: Connection) -> None:
        cause = str(connection.error)
        self._connection = None
        self._stats.losses += 1
        self.down = (time.monotonic(), cause)
        lose(self.channels, cause)
        self._lost.set()

    def _ask(self, connection: Connection, channels: list[Channel]) -> None:
        for several in self._chunks(channels):
            self._ask_chunk(connection, several)

    def _ask_chunk(self, connection: Connection, channels: list[Channel]) -> None:
        command = self._command("SUBSCRIBE", channels[0])
        asked_for = [(channel, channel.asked) for channel in channels]

        def answered(future: asyncio.Future[Reply]) -> None:
            error = None if future.cancelled() else future.exception()
            still = [channel for channel, asked in asked_for if channel.asked == asked]
            if isinstance(error, ServerError) and self._sharded and error.prefix in _ELSEWHERE:
                self._on_gone([channel for channel in still if channel.link is self], error)
            elif isinstance(error, ServerError) and not error.retryable:
                self._refused(connection, channels, error)
            elif error is None and connection is self._connection:
                self._useful = True
                self._backoff.reset()
                for channel in still:
                    channel.confirm()
            elif error is not None and not isinstance(error, ConnectionLost):
                connection.abort(ConnectionLost(f"subscribing failed: {error}"))

        asked = connection.subscribe(command, [channel.name for channel in channels])
        asked.add_done_callback(answered)

    def _refused(self, connection: Connection, channels: list[Channel], error: ServerError) -> None:
        if len(channels) > 1:  # one of them is enough to have all refused: ask for each
            for channel in channels:
                if channel.targets:
                    self._ask_chunk(connection, [channel])
            return
        for sink in {sink for channel in channels for sink in channel.inlets}:
            sink.fail(type(error)(str(error), error.prefix))

    def _on_pushes(self, pushes: list[Push]) -> None:
        # At 400,000 messages a second each call saved here counts: one loop over all that a read
        # brought, and messages that go to the same sinks are handed over together.
        exact, patterns = self.exact, self.patterns
        targets: tuple[Sink, ...] = ()
        messages: list[object] = []
        received = 0
        for push in pushes:
            kind = push[0]
            if kind == b"message" or kind == b"smessage":
                channel = exact.get(push[1])  # type: ignore[arg-type]
            elif kind == b"pmessage":
                channel = patterns.get(push[1])  # type: ignore[arg-type]
            elif kind == b"sunsubscribe":
                _hand_over(messages, targets)
                messages = []
                self._released(push[1])
                continue
            else:
                continue
            if channel is None:
                continue
            received += 1
            try:
                message = channel.decode(push[-1])  # type: ignore[arg-type]
            except DecodeError:
                self._stats.undecodable += 1
                continue
            if channel.targets != targets:
                _hand_over(messages, targets)
                messages, targets = [], channel.targets
            messages.append(message)
        _hand_over(messages, targets)
        self._stats.received += received

    def _released(self, key: Reply) -> None:
        """The answer to our own SUNSUBSCRIBE, or word that the channel's slot has left the node."""
        assert isinstance(key, bytes)
        if key in self._leaving:
            self._leaving[key] -= 1
            if not self._leaving[key]:
                del self._leaving[key]
            return
        channel = self.exact.get(key)
        if channel is not None:
            lose([channel], "the channel moved to another node of the cluster")
            # Asked again here, the node says where the channel is now.
            asyncio.get_running_loop().call_soon(self._ask_released, channel)

    def _ask_released(self, channel: Channel) -> None:
        if channel.link is self and channel.targets:
            self.ask_again([channel])


def _hand_over(messages: list[object], targets: tuple[Sink, ...]) -> None:
    if messages:
        for sink in targets:
            sink.deliver_many(messages)
