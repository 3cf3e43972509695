"""What sentinels say about the primary of one service, and which of it counts.

A sentinel's word has an epoch: the number of the failover that made the server a primary, which a
majority of sentinels gave to one of them alone. The higher epoch counts, so that a sentinel that
lags cannot lead back to a former primary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

from rtx.urls import Address
from rtx.wire.replies import Reply

NEWS = ("+switch-master", "+promoted-slave")
"""Channels of a sentinel whose messages are a reason to ask it."""

COURSE = ("+new-epoch", "+try-failover", "+selected-slave")
"""Channels on which the sentinel that leads a failover tells its course; see `Course`."""


@dataclass(frozen=True, slots=True)
class Word:
    """Where the primary is, by which configuration epoch."""

    epoch: int
    address: Address


class Council:
    """Weighs the words of the sentinels of one service. `known` is the one that counts."""

    def __init__(self, sentinels: int) -> None:
        self._sentinels = sentinels
        self._said: dict[Address, Word] = {}
        self._before: Word | None = None
        self.known: Word | None = None
        self.denied: Word | None = None
        """A word whose server is no primary by its own ROLE, or has long been silent."""

    @property
    def early(self) -> bool:
        """Whether `known` was taken from the server itself, and no sentinel has said it yet."""
        return self._before is not None

    def said_by(self, sentinel: Address) -> Word | None:
        """What a sentinel said last; None while it is silent."""
        return self._said.get(sentinel)

    def hear(self, sentinel: Address, word: Word) -> None:
        """A sentinel said this: it may be what counts from now on."""
        self._said[sentinel] = word
        known = self.known
        if known is None or (word.epoch > known.epoch and word != self.denied):
            self._take(word)
        elif word == known:
            self._before = None
        elif known == self.denied:
            self._overrule(known)

    def lose(self, sentinel: Address) -> None:
        """A sentinel does not answer: what it said does not count any more."""
        self._said.pop(sentinel, None)

    def is_news(self, word: Word) -> bool:
        """Whether a word is of a later failover than the one that counts."""
        known = self.known
        return known is not None and word.epoch > known.epoch and word != self.denied

    def hear_early(self, word: Word) -> None:
        """A server that was chosen in a failover said itself that it is the primary now."""
        if self.is_news(word):
            before = self._before or self.known
            self._take(word)
            self._before = before

    def recall(self) -> None:
        """No sentinel has said what was taken early: what counted before counts again."""
        if self._before is not None:
            self._take(self._before)

    def _overrule(self, known: Word) -> None:
        """What most sentinels say counts, whatever its epoch: theirs may have begun anew."""
        [(word, votes)] = Counter(self._said.values()).most_common(1)
        if votes > self._sentinels // 2 and word.address != known.address:
            self._take(word)

    def _take(self, word: Word) -> None:
        self.known, self._before = word, None


class Course:
    """Follows what one sentinel publishes, to learn of a failover's choice before its end.

    A sentinel that leads a failover tells its epoch, then for which service it is, and once most
    have voted for it the replica that it chose. About a second passes between the promotion and
    the moment that it notices and tells the new primary.
    """

    def __init__(self, service: str) -> None:
        self._service = service.encode()
        self._epoch: int | None = None
        self._leads: int | None = None  # the epoch of the failover of our service that it leads

    def hear(self, channel: Reply, payload: Reply) -> Word | None:
        """Take one message; returns which server is to become the primary, where it says that."""
        if not isinstance(payload, bytes):
            return None
        words = payload.split()
        match channel, words:
            case (b"+new-epoch", [number]) if number.isdigit():
                self._epoch = int(number)
            # It is published right after its epoch, whatever other services fail over.
            case (b"+try-failover", [b"master", name, _, _]) if name == self._service:
                self._leads = self._epoch
            case (b"+selected-slave", [b"slave", _, host, port, b"@", name, _, _]):
                if name == self._service and self._leads is not None and port.isdigit():
                    return Word(self._leads, _address(host, port))
        return None


def word_of(state: Reply, address: Reply) -> Word | None:
    """The word in the replies to SENTINEL MASTER and GET-MASTER-ADDR-BY-NAME; None without one.

    The sentinel that leads a failover counts up the epoch at the promotion, but names the former
    primary in SENTINEL MASTER until the other replicas follow the new one.
    """
    if not isinstance(state, dict):
        return None
    fields = cast(dict[bytes, bytes], state)
    epoch, host, port = (fields.get(name, b"") for name in (b"config-epoch", b"ip", b"port"))
    match address:
        case [bytes(named), bytes(at)]:
            host, port = named, at
    if not (epoch.isdigit() and port.isdigit()):
        return None
    return Word(int(epoch), _address(host, port))


def replicas_of(reply: Reply, *, eligible: bool = False) -> frozenset[Address]:
    """The addresses in the reply to SENTINEL REPLICAS; of the `eligible`, only of these.

    Eligible for promotion is one that is up, and whose priority is not 0.
    """
    several = reply if isinstance(reply, list) else []
    found = (cast(dict[bytes, bytes], item) for item in several if isinstance(item, dict))
    return frozenset(
        _address(fields.get(b"ip", b""), fields[b"port"])
        for fields in found
        if fields.get(b"port", b"").isdigit() and (not eligible or _is_eligible(fields))
    )


def _address(host: bytes, port: bytes) -> Address:
    return Address(host.decode("utf-8", "replace"), int(port))


def _is_eligible(fields: dict[bytes, bytes]) -> bool:
    flags = fields.get(b"flags", b"").split(b",")
    away = {b"s_down", b"o_down", b"disconnected"}
    return away.isdisjoint(flags) and fields.get(b"slave-priority") != b"0"
