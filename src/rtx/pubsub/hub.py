"""What feeds every local subscription: one connection, or one to each node of a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable

from rtx.errors import NotInCluster, ServerError, Unavailable
from rtx.pubsub.base import Sink
from rtx.pubsub.channel import Channel, DecodeMany, Inlet, lose
from rtx.pubsub.hub_stats import HubStats
from rtx.pubsub.link import Link
from rtx.pubsub.probe import Probing
from rtx.timing import Lag
from rtx.topology.base import Homes

_LOOK_AGAIN = 0.05

__all__ = ["Hub", "HubStats"]


class Hub:
    """Subscribes while anyone listens, and subscribes anew where a channel is lost or moves.

    A connection is opened with the first subscription that needs it.
    """

    def __init__(self, homes: Homes, probing: Probing) -> None:
        self._homes = homes
        self._probing = probing
        self._exact: dict[bytes, Channel] = {}
        self._patterns: dict[bytes, Channel] = {}
        self._inlets: dict[Sink, Inlet] = {}
        self._links: dict[Hashable, Link] = {}
        self._unsettled: set[Channel] = set()  # to be asked for again, or without a home
        self._settling: asyncio.TimerHandle | None = None
        self._homeless_since = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._stats = HubStats()
        homes.on_change(self._follow)

    @property
    def sharded(self) -> bool:
        """Whether the channels are a cluster's: SPUBLISH publishes, and there are no patterns."""
        return self._homes.sharded

    @property
    def stats(self) -> HubStats:
        channels = [*self._exact.values(), *self._patterns.values()]
        self._stats.channels = len(channels)
        proofs = [link.probe.proven_at for link in self._links.values() if link.listens]
        since = min((each for each in proofs if each is not None), default=None)
        self._stats.probe_age_s = 0.0 if since is None else time.monotonic() - since
        return self._stats

    @property
    def idle(self) -> bool:
        """Whether nobody listens, so that no connection is needed."""
        return not self._inlets

    @property
    def down(self) -> tuple[float, str] | None:
        """Since when and why messages may not arrive; None while all do."""
        downs = [link.trouble for link in self._links.values() if link.trouble and link.listens]
        if any(channel.link is None for channel in self._unsettled):
            downs.append((self._homeless_since, "no node of the cluster has the channel"))
        return min(downs, default=None)

    async def close(self) -> None:
        """End the connections; subscriptions that are left end in `Unavailable`."""
        self._closed = True
        if self._settling is not None:
            self._settling.cancel()
        for sink in list(self._inlets):
            sink.fail(Unavailable("the data layer was closed"))
        await asyncio.gather(*(link.close() for link in self._links.values()), *self._closing)

    def add(
        self,
        sink: Sink,
        names: Iterable[str],
        decode: Callable[[bytes], object],
        *,
        decode_many: DecodeMany | None = None,
        lag: Lag | None = None,
        pattern: bool = False,
    ) -> None:
        """Deliver the messages of these channels to `sink`, from `sink.up()` on.

        Of each read of the socket `lag` is told of the last message.
        """
        if self._closed:
            raise Unavailable("the data layer is closed; open it before you subscribe")
        if pattern and self.sharded:
            raise NotInCluster("a cluster has no patterns of channels; name the channels")
        known = self._patterns if pattern else self._exact
        channels, new = [], []
        for name in dict.fromkeys(names):
            channel = known.get(name.encode())
            if channel is None:
                channel = Channel(name, pattern, decode, decode_many, lag)
                known[channel.key] = channel
                new.append(channel)
            channels.append(channel)
        inlet = self._inlets[sink] = Inlet(sink, channels)
        for channel in channels:
            channel.add(inlet)
        inlet.count()
        if inlet.missing == 0:
            asyncio.get_running_loop().call_soon(self._up_if_current, inlet)
        self._place(new)

    def remove(self, sink: Sink) -> None:
        """Stop delivering to a sink; channels that nobody else listens to are unsubscribed."""
        inlet = self._inlets.pop(sink, None)
        if inlet is None:
            return
        unused: dict[Link, list[Channel]] = {}
        for channel in inlet.channels:
            channel.remove(sink)
            if not channel.targets:
                known = self._patterns if channel.pattern else self._exact
                del known[channel.key]
                self._unsettled.discard(channel)
                if channel.link is not None:
                    unused.setdefault(channel.link, []).append(channel)
        for link, channels in unused.items():
            link.drop(channels)

    def _up_if_current(self, inlet: Inlet) -> None:
        if self._inlets.get(inlet.sink) is inlet and inlet.missing == 0:
            inlet.sink.up()

    # --- homes -----------------------------------------------------------------------------

    def _place(self, channels: Iterable[Channel]) -> None:
        """Give each channel to the link of its home, or try again soon."""
        by_home: dict[Hashable, list[Channel]] = {}
        for channel in channels:
            home = self._homes.home(channel.key)
            if home is None:
                self._try_again([channel])
            else:
                by_home.setdefault(home, []).append(channel)
        for home, several in by_home.items():
            link = self._links.get(home)
            if link is None:
                link = Link(self._homes, home, self._stats, self._gone, self._probing)
                self._links[home] = link
            link.take(several)

    def _follow(self) -> None:
        """The topology has changed: channels whose home is another now go there."""
        for link in self._links.values():
            link.hurry()
        if not self.sharded or self._closed:
            return
        for link in list(self._links.values()):
            moved = [
                channel for channel in link.channels if self._homes.home(channel.key) != link.home
            ]
            if moved:
                # Even where the old node still has it: a replica may fall behind unnoticed.
                lose(moved, "the channel moved to another node of the cluster")
                link.let_go(moved)
                self._place(moved)
        for home, link in list(self._links.items()):
            if not link.channels:
                del self._links[home]
                task = asyncio.create_task(link.close(), name="rtx-unlink")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _gone(self, channels: list[Channel], error: ServerError) -> None:
        """A node did not take channels: ask where they are now, or here again soon."""
        for channel in channels:
            self._homes.moved(channel.key, error)  # may give them new links at once
        self._try_again([channel for channel in channels if not channel.confirmed])

    def _try_again(self, channels: list[Channel]) -> None:
        if self._closed:
            return
        if not self._unsettled:
            self._homeless_since = time.monotonic()
        self._unsettled.update(channels)
        if self._settling is None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(_LOOK_AGAIN, self._settle)

    def _settle(self) -> None:
        self._settling = None
        unsettled, self._unsettled = self._unsettled, set()
        since = self._homeless_since
        waiting = [channel for channel in unsettled if channel.targets and not channel.confirmed]
        by_link: dict[Link, list[Channel]] = {}
        for channel in waiting:
            if channel.link is not None:
                by_link.setdefault(channel.link, []).append(channel)
        self._place([channel for channel in waiting if channel.link is None])
        for link, several in by_link.items():
            link.ask_again(several)
        if self._unsettled:
            self._homeless_since = since
