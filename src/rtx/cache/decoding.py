"""Decoding a value once, however often it is read between two of its changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

V = TypeVar("V")

_LARGE = 4_096  # bytes; larger values would make the memory that a count bounds no bound at all


def remembering(decode: Callable[[bytes], V], count: int) -> Callable[[bytes], V]:
    """A decoder that keeps the last `count` values by their bytes; 0 keeps none.

    The same bytes give the same object, so the values must be immutable. What the server has
    decides, as ever: only the work of decoding is saved, a tenth of which is left. For values of
    a few hundred bytes each; a failure to decode is not kept.
    """
    return lru_cache(count)(decode) if count else decode


def remembering_small(decode: Callable[[bytes], V], count: int) -> Callable[[bytes], V]:
    """The same for values of any size; those above 4 KiB are decoded each time."""
    if not count:
        return decode
    kept = lru_cache(count)(decode)
    return lambda raw: kept(raw) if len(raw) <= _LARGE else decode(raw)
