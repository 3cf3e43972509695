"""What the script is told of a limit, and what it answers: a few bytes for each key."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from rtx.setting_groups import LimitSettings

TAKEN = struct.Struct(">dI")
"""Record of a hit that was taken: its time in microseconds, and the hits left."""

NOT_TAKEN = struct.Struct(">dIdId")
"""Any other: time, `NONE`, wait, hits left, and time until none counts; times in microseconds."""

NONE = 2**32 - 1

NEVER, FOREIGN = -1.0, -2.0
"""Waits that are none: the cost is above the limit; the key holds something else."""

_RULE = struct.Struct(">IQIB")
_COUNTER, _LOOK, _MORE = 1, 2, 4


def micros(settings: LimitSettings) -> int:
    """The window in microseconds."""
    return max(1, round(settings.per * 1_000_000))


def rule(
    settings: LimitSettings, limit: int, cost: int, *, take: bool = True, more: bool = False
) -> bytes:
    """A rule for one key; `more`: it goes together with the key after it."""
    kind = _COUNTER if settings.algorithm == "sliding_counter" else 0
    kind |= (0 if take else _LOOK) | (_MORE if more else 0)
    return _RULE.pack(limit, micros(settings), min(cost, NONE), kind)


def split(reply: bytes) -> Iterator[bytes]:
    """The records of a reply, in the order of the keys."""
    at = 0
    while at < len(reply):
        taken = TAKEN.unpack_from(reply, at)[1] != NONE
        end = at + (TAKEN.size if taken else NOT_TAKEN.size)
        yield reply[at:end]
        at = end
