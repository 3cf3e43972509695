"""Cluster slots: which slot a key has, and which node has a slot."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from dataclasses import dataclass

from rtx.urls import Address

SLOTS = 16_384


def key_slot(key: bytes) -> int:
    """The slot of a key or channel: CRC16 of its hash tag, or of all of it."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots `first` to `last`, both included, and the primary that has them."""

    first: int
    last: int
    primary: Address


@dataclass(frozen=True, slots=True)
class SlotMap:
    """The slots of a cluster as one node sees them, in their order.

    `links` are the pairs of a primary and a replica of its.
    """

    ranges: tuple[SlotRange, ...]
    links: frozenset[tuple[Address, Address]]

    @property
    def replicas(self) -> set[Address]:
        """All replicas."""
        return {replica for _, replica in self.links}

    @property
    def primaries(self) -> tuple[Address, ...]:
        """The nodes that have slots, each once."""
        return tuple(dict.fromkeys(part.primary for part in self.ranges))

    @property
    def covered(self) -> int:
        """How many slots have a node."""
        return sum(part.last - part.first + 1 for part in self.ranges)

    def owners(self) -> list[Address | None]:
        """The primary of each slot."""
        owners: list[Address | None] = [None] * SLOTS
        for part in self.ranges:
            owners[part.first : part.last + 1] = [part.primary] * (part.last - part.first + 1)
        return owners

    @classmethod
    def of(cls, ranges: Iterable[SlotRange], links: Iterable[tuple[Address, Address]]) -> SlotMap:
        """Ranges in the order of their slots."""
        return cls(tuple(sorted(ranges, key=lambda part: part.first)), frozenset(links))
