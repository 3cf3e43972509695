"""What caches give and take: results that say where they are from, edits, counters."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Literal, TypeAlias, TypeVar

from rtx.timing import Timing

K = TypeVar("K")
V = TypeVar("V")

Source: TypeAlias = Literal["near", "redis", "database"]
"""Where a value was read: in this process, on the server, or in the system of record."""

_KEPT_AT_MOST = 10_000
_SAMPLED = 16
"""Hits for each that is timed: timing all of them makes a hit 13 % dearer, one in 16 about 1 %."""


@dataclass(slots=True)
class CacheStats:
    """Counters since the layer was opened.

    `misses` did not find a value on the server; `fallbacks` were answered by the database because
    the server did not answer; `loads` are the ids that the database was asked for. Of values that
    cannot be decoded `get_many` counts only those that a database then replaces where a key is of
    another kind. `waited` were filled by another process; `absent_hits` are known not to exist.
    """

    hits: int = 0
    near_hits: int = 0
    misses: int = 0
    loads: int = 0
    fallbacks: int = 0
    puts: int = 0
    invalidations: int = 0
    undecodable: int = 0
    fill_failures: int = 0
    stale_fills_refused: int = 0
    older_versions_refused: int = 0
    waited: int = 0
    absent_hits: int = 0
    early_refreshes: int = 0
    late: int = 0
    stale_served: int = 0
    invalidations_owed: int = 0


@dataclass(slots=True)
class ReadTimes:
    """How long reads took, by how they ended.

    `hit`: answered by the server; of single reads about one in 16 is timed, drawn by lot so that no
    rhythm of the reader is favoured. `miss`: the server had nothing, with the load where there is a
    database. `fallback`: answered by the database in place of the server. Near hits are not timed.
    """

    hit: Timing = field(default_factory=Timing)
    miss: Timing = field(default_factory=Timing)
    fallback: Timing = field(default_factory=Timing)
    due: int = 1
    """The count of hits at which the next one is timed."""

    def sample(self, hits: int, began: float) -> None:
        """Time the read that began then, and draw the next one to be timed."""
        self.hit.take(monotonic() - began)
        self.due = hits + random.randrange(1, 2 * _SAMPLED)


@dataclass(frozen=True, slots=True)
class Lookup(Generic[V]):
    """A value and where it is from.

    `age` is in seconds since it was stored or read, None where that is not known; `version` is that
    of its row, 0 where that is not known, as far as nobody stored the value but RTX; `stale` says
    that everything else is away and that this is what was seen last.
    """

    value: V
    source: Source
    age: float | None
    version: int = 0
    stale: bool = False


@dataclass(slots=True)
class Found(Generic[V]):
    """What came of a read: a `Lookup`, or None as the value for what does not exist.

    `moment` is when it was asked for: it has all that was written before.
    """

    value: V | None
    version: int
    source: Source
    moment: int
    age: float | None = 0.0
    stale: bool = False


@dataclass(slots=True)
class Edit(Generic[V]):
    """A value that is being changed: set `value` to the new one."""

    value: V


class Kept(Generic[K, V]):
    """The values seen last, for when nothing else is to be had; 10,000 at most."""

    def __init__(self) -> None:
        self._seen: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def keep(self, id: K, value: V) -> None:
        """Remember a value as of now."""
        self._seen[id] = (value, monotonic())
        self._seen.move_to_end(id)
        if len(self._seen) > _KEPT_AT_MOST:
            self._seen.popitem(last=False)

    def forget(self, id: K) -> None:
        """Drop a value that is known to be wrong by now."""
        self._seen.pop(id, None)

    def get(self, id: K) -> tuple[V, float] | None:
        """A value and its age in seconds."""
        found = self._seen.get(id)
        return None if found is None else (found[0], monotonic() - found[1])


def value_of(found: Mapping[K, Found[V]], id: K) -> V | None:
    """The value of an id, or None."""
    one = found.get(id)
    return None if one is None else one.value


def values_of(found: Mapping[K, Found[V]]) -> dict[K, V]:
    """The values of those ids that have one."""
    return {id: one.value for id, one in found.items() if one.value is not None}
