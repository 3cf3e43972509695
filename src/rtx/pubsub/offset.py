"""Positions in a log."""

from __future__ import annotations

from typing import NamedTuple


class Offset(NamedTuple):
    """A position in a log; `str()` gives `epoch:seq`, `parse` reads it."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Offset:
        """Read `epoch:seq`; raises `ValueError` for anything else."""
        epoch, colon, seq = text.rpartition(":")
        if not colon or not seq.isascii() or not seq.isdecimal() or len(seq) > 15:
            raise ValueError(f"a position is written epoch:seq, not {text!r}")
        return cls(epoch, int(seq))


NOWHERE = Offset("", 0)
"""The newest position of a log that does not exist yet."""
