"""A channel that somebody in this process listens to, and who that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from rtx.pubsub.base import Sink
from rtx.timing import Lag

if TYPE_CHECKING:
    from rtx.pubsub.link import Link

DecodeMany: TypeAlias = Callable[[Sequence[bytes]], Sequence[object]]
"""Decodes several messages for less than one by one; raises `DecodeError` when any is bad."""


class Channel:
    """A channel or pattern: its link, whether it is confirmed there, and where messages go."""

    __slots__ = (
        "asked",
        "confirmed",
        "decode",
        "decode_many",
        "inlets",
        "key",
        "lag",
        "link",
        "name",
        "newest",
        "pattern",
        "targets",
    )

    def __init__(
        self,
        name: str,
        pattern: bool,
        decode: Callable[[bytes], object],
        decode_many: DecodeMany | None = None,
        lag: Lag | None = None,
    ) -> None:
        self.name = name
        self.key = name.encode()
        self.pattern = pattern
        self.decode = decode
        self.decode_many = decode_many
        self.lag = lag
        self.newest: object = None
        """The message that came last, if any."""
        self.link: Link | None = None
        self.confirmed = False
        self.asked = 0
        """Counts the losses, so that an answer from before one confirms nothing after it."""
        self.inlets: dict[Sink, Inlet] = {}
        # The same sinks, safe to walk while they come and go.
        self.targets: tuple[Sink, ...] = ()

    def add(self, inlet: Inlet) -> None:
        """Deliver to one more sink."""
        self.inlets[inlet.sink] = inlet
        self.targets = tuple(self.inlets)

    def remove(self, sink: Sink) -> None:
        """Deliver to this sink no more."""
        self.inlets.pop(sink, None)
        self.targets = tuple(self.inlets)

    def confirm(self) -> None:
        """The server has subscribed it; sinks that waited for nothing else are up."""
        if not self.confirmed:
            self.confirmed = True
            for inlet in list(self.inlets.values()):
                inlet.one_up()


class Inlet:
    """How many channels of one sink still wait for the server's confirmation."""

    __slots__ = ("channels", "missing", "sink")

    def __init__(self, sink: Sink, channels: list[Channel]) -> None:
        self.sink = sink
        self.channels = channels
        self.missing = 0

    def count(self) -> None:
        """Count anew."""
        self.missing = sum(1 for channel in self.channels if not channel.confirmed)

    def one_up(self) -> None:
        """One of its channels is confirmed."""
        self.missing -= 1
        if self.missing == 0:
            self.sink.up()


def lose(channels: list[Channel], cause: str) -> None:
    """Tell every sink which of its channels are lost from here on, and their newest messages."""
    hit: dict[Inlet, dict[str, object]] = {}
    for channel in channels:
        channel.confirmed = False
        channel.asked += 1
        for inlet in channel.inlets.values():
            hit.setdefault(inlet, {})[channel.name] = channel.newest
    for inlet, lost in hit.items():
        inlet.count()
        inlet.sink.down(cause, lost)
