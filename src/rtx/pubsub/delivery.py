"""From what a read of the socket brought to the sinks: decoded together, handed over together.

At several 100,000 messages a second each call for one message counts. So the work for a message is
left to a few calls for all of them, and a sink is called once for all that is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtx.codecs import DecodeError
from rtx.pubsub.base import Sink
from rtx.pubsub.channel import Channel


def deliver(channels: Sequence[Channel], raws: Sequence[bytes]) -> int:
    """Decode the messages and give each to the sinks of its channel, in the order they came.

    `channels` has the channel of each message. Returns how many could not be decoded.
    """
    if len(raws) == 1:
        return _deliver_one(channels[0], raws[0])
    distinct = set(channels)
    messages = _decoded_together(distinct, raws)
    bad = 0
    if messages is None:
        channels, messages = _decoded_singly(channels, raws)
        bad = len(raws) - len(messages)
        if not messages:
            return bad
    if (lag := channels[-1].lag) is not None:
        lag.came(messages[-1])
    newest = dict(zip(channels, messages, strict=True))
    for channel, message in newest.items():
        channel.newest = message
    targets = channels[0].targets
    if len(newest) == 1 or all(channel.targets == targets for channel in newest):
        for sink in targets:
            sink.deliver_many(messages)
    else:
        _deliver_sorted(list(newest), channels, messages)
    return bad


def _deliver_one(channel: Channel, raw: bytes) -> int:
    try:
        message = channel.decode(raw)
    except DecodeError:
        return 1
    if channel.lag is not None:
        channel.lag.came(message)
    channel.newest = message
    messages = (message,)
    for sink in channel.targets:
        sink.deliver_many(messages)
    return 0


def _decoded_together(distinct: set[Channel], raws: Sequence[bytes]) -> Sequence[object] | None:
    """The messages, or None when one of them is bad or they are of several kinds."""
    decoders = {channel.decode_many for channel in distinct}
    decode = decoders.pop()
    if decode is None or decoders:
        return None
    try:
        return decode(raws)
    except DecodeError:
        return None


def _decoded_singly(
    channels: Sequence[Channel], raws: Sequence[bytes]
) -> tuple[list[Channel], list[object]]:
    """The messages that can be decoded, and their channels."""
    good: list[Channel] = []
    messages: list[object] = []
    for channel, raw in zip(channels, raws, strict=True):
        try:
            messages.append(channel.decode(raw))
        except DecodeError:
            continue
        good.append(channel)
    return good, messages


def _deliver_sorted(
    distinct: Sequence[Channel], channels: Sequence[Channel], messages: Sequence[object]
) -> None:
    """Pick the messages once for each set of channels somebody listens to, not for each sink."""
    bits = {channel: 1 << place for place, channel in enumerate(distinct)}
    wanted: dict[Sink, int] = {}
    for channel, bit in bits.items():
        for sink in channel.targets:
            wanted[sink] = wanted.get(sink, 0) | bit
    marked = list(zip(messages, map(bits.__getitem__, channels), strict=True))
    picked: dict[int, list[object]] = {}
    for sink, interest in wanted.items():
        its = picked.get(interest)
        if its is None:
            its = picked[interest] = [message for message, bit in marked if bit & interest]
        sink.deliver_many(its)
