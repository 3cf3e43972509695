"""A connection for push messages to one server, and the channels that are subscribed on it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from rtx.errors import ConnectionLost, RtxError, ServerError
from rtx.pubsub.channel import Channel, lose
from rtx.pubsub.delivery import deliver
from rtx.pubsub.hub_stats import HubStats
from rtx.pubsub.probe import Probe, Probing
from rtx.topology.base import Homes
from rtx.topology.slots import key_slot
from rtx.wire import Backoff, Connection, Reply
from rtx.wire.options import Push

_CHANNELS_PER_COMMAND = 512
_CUT_SHORT = ", as servers do to a subscriber too slow for client-output-buffer-limit pubsub"
_MOVED = "the channel moved to another node of the cluster"
_ENDED_BY_SERVER = "the server ended the subscription"
_ENDED = frozenset({b"unsubscribe", b"punsubscribe", b"sunsubscribe"})
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})


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
        probing: Probing,
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
        self._leaving: Counter[bytes] = Counter()  # whose UNSUBSCRIBE is not answered yet
        self._lost = asyncio.Event()
        self._backoff = Backoff()
        self._useful = False  # whether this connection has subscribed to anything
        self.probe = Probe(probing, homes, home, self._names, stats)
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

    @property
    def trouble(self) -> tuple[float, str] | None:
        """Since when and why messages may not arrive; None while they do."""
        return self.down or self.probe.trouble

    @property
    def listens(self) -> bool:
        """Whether any channel lives here."""
        return bool(self.exact or self.patterns)

    def _names(self) -> Iterator[str]:
        return (each.name for each in chain(self.exact.values(), self.patterns.values()))

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
            probing = asyncio.create_task(self.probe.run(connection), name="rtx-probe")
            try:
                await self._lost.wait()
            finally:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)
            if not self._useful:
                await self._backoff.rest()

    def _on_close(self, connection: Connection) -> None:
        cause = str(connection.error)
        if connection.cut_short:
            self._stats.cut_offs += 1
            cause += _CUT_SHORT
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
        # Nearly always all are messages of one shape: then no line of Python runs for each of them.
        kind = pushes[0][0]
        if len(pushes) > 3 and (kind == b"message" or kind == b"smessage"):
            try:
                kinds, keys, raws = zip(*pushes, strict=True)
            except ValueError:
                pass  # some are of another shape
            else:
                channels = list(map(self.exact.get, keys))
                if kinds.count(kind) == len(kinds) and None not in channels:
                    self._deliver(channels, raws)  # type: ignore[arg-type]
                    return
        self._sort(pushes)

    def _sort(self, pushes: list[Push]) -> None:
        """Deliver pushes of several kinds, or of channels that have just been left."""
        channels: list[Channel] = []
        raws: list[bytes] = []
        for push in pushes:
            kind = push[0]
            if kind == b"message" or kind == b"smessage":
                channel = self.exact.get(push[1])  # type: ignore[arg-type]
            elif kind == b"pmessage":
                channel = self.patterns.get(push[1])  # type: ignore[arg-type]
            elif kind in _ENDED:
                self._deliver(channels, raws)
                channels, raws = [], []
                self._released(push[1], self.patterns if kind == b"punsubscribe" else self.exact)
                continue
            else:
                continue
            if channel is not None:
                channels.append(channel)
                raws.append(push[-1])  # type: ignore[arg-type]
            elif push[1] == self.probe.key:
                self.probe.heard(push[2])
        self._deliver(channels, raws)

    def _deliver(self, channels: list[Channel], raws: Sequence[bytes]) -> None:
        if channels:
            self._stats.received += len(channels)
            self._stats.undecodable += deliver(channels, raws)

    def _released(self, key: Reply, subscribed: dict[bytes, Channel]) -> None:
        """The answer to our own UNSUBSCRIBE, or word that the server has ended a subscription."""
        if not isinstance(key, bytes):
            return  # that there was none to end
        if key in self._leaving:
            self._leaving[key] -= 1
            if not self._leaving[key]:
                del self._leaving[key]
            return
        if key == self.probe.key:
            self.probe.gone()
        channel = subscribed.get(key)
        if channel is not None:
            lose([channel], _MOVED if self._sharded else _ENDED_BY_SERVER)
            # Asked again here, a cluster's node says where the channel is now.
            asyncio.get_running_loop().call_soon(self._ask_released, channel)

    def _ask_released(self, channel: Channel) -> None:
        if channel.link is self and channel.targets:
            self.ask_again([channel])
