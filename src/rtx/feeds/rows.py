"""One quote as a file holds it."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A quote of a file: plain symbol (None when the file has none), epoch ms, bid and ask.

    `received` is when a capture received it, in epoch ms, where that differs from its own time.
    """

    symbol: str | None
    time: int
    bid: float
    ask: float
    received: int | None = None
