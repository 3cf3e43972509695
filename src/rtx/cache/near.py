"""Decoded values kept in this process, and kept right by the server that they were read from.

Guarantees:

- a value is handed out only until its own deadline: the server's TTL, and at most `max_age`;
- a change on the server is known here when its push has arrived; a value that was changed more
  than two probe intervals ago (2 s) is never handed out, whatever has frozen or broken;
- when the tracked connection breaks, everything read over it is dropped before the next `get`;
- a fetch that an invalidation overtook is not kept, whichever of the two was seen first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar, cast

from rtx.cache.tracking import Link, Trust
from rtx.errors import ConnectFailed, PoolExhausted, ServerError, Unavailable
from rtx.topology.base import Homes
from rtx.wire import Connection, Reply

V = TypeVar("V")

_BYTES_PER_RAW = 5
_BYTES_PER_ENTRY = 300
_EVICTED_AT_ONCE = 256  # one part in so many of the budget
_SPARED_AT_ONCE = 1_000
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})
_NO_TTL = -1


@dataclass(slots=True)
class NearStats:
    """Counters since it was opened, and `entries` and `bytes` (estimated) as of now."""

    entries: int = 0
    bytes: int = 0
    evictions: int = 0
    invalidated: int = 0
    flushed: int = 0
    races: int = 0
    """Fetches that were not kept, because the key was invalidated meanwhile."""
    reconnects: int = 0


class _Entry:
    __slots__ = ("deadline", "size", "trust", "used", "value")

    def __init__(self, value: object, deadline: float, trust: Trust, size: int) -> None:
        self.value = value
        self.deadline = deadline
        self.trust = trust
        self.size = size
        self.used = False  # since it was stored, or last spared


class _Flight:
    """A fetch under way. While the near cache has it under its key, nothing was invalidated."""

    __slots__ = ("error", "trust", "value", "waiters")

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self.waiters: list[asyncio.Future[None]] = []
        self.value: object = None
        self.error: BaseException | None = None

    async def join(self) -> bool:
        """Wait for its end; False when whoever began it was cancelled. Raises what it raised."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        await waiter
        if isinstance(self.error, Exception):
            raise copy(self.error)  # a shared one would gather every reader's traceback
        return self.error is None

    def end(self, value: object, error: BaseException | None) -> None:
        self.value, self.error = value, error
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class NearCache:
    """Decoded values by key; the caches of a process and role share one, and its budget.

    `max_bytes` bounds the memory of keys, values and bookkeeping, as estimated from the length of
    the raw values. `max_age` (seconds) bounds how long a value is kept where its TTL is longer or
    missing. Every reader gets the same object, so decoders must give values that nobody changes.
    """

    def __init__(self, homes: Homes, *, max_bytes: int = 64 * 2**20, max_age: float = 60.0) -> None:
        self._homes = homes
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._entries: dict[str, _Entry] = {}  # the oldest first
        self._bytes = 0
        self._flights: dict[str, _Flight] = {}
        self._links: dict[Hashable, Link] = {}
        self._open = False
        self._past_reconnects = 0  # of links that are gone
        self._stats = NearStats()

    async def open(self) -> None:
        """Connect in the background; returns after the first attempt, and never raises."""
        self._open = True
        self._homes.on_change(self._follow)
        if not self._homes.sharded:
            link = self._link("")
            if link is not None:
                await link.tried.wait()

    async def close(self) -> None:
        """End the connections and drop everything; fetches under way end in `ConnectionLost`."""
        self._open = False
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links.clear()
        self._entries.clear()
        self._bytes = 0

    @property
    def ready(self) -> bool:
        """Whether every home that is in use has a tracked connection; see `serves`."""
        return bool(self._links) and all(link.up for link in self._links.values())

    @property
    def trouble(self) -> str:
        """Why values of some home are not kept; empty when nothing is wrong."""
        return next((link.trouble for link in self._links.values() if link.trouble), "")

    @property
    def stats(self) -> NearStats:
        stats = self._stats
        stats.entries, stats.bytes = len(self._entries), self._bytes
        now = sum(link.reconnects for link in self._links.values())
        stats.reconnects = self._past_reconnects + now
        return stats

    # --- reading ---------------------------------------------------------------------------

    def get(self, key: str) -> object | None:
        """The decoded value, or None when there is none that is fresh and known to be right."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = monotonic()  # not the loop's time, which stands still while a callback runs
        if now < entry.deadline and now < entry.trust.until:
            entry.used = True
            return entry.value
        return self._look_again(key, entry, now)

    def _look_again(self, key: str, entry: _Entry, now: float) -> object | None:
        link = entry.trust.link
        if now < entry.deadline and entry.trust is link.trust:
            return None  # the server has been silent: believed again after its next answer
        # A key that the last change of the topology left where it was is believed. Before earlier
        # changes it may have been elsewhere, and be back.
        stayed = entry.trust is link.trust.before and self._links.get(self._home(key)) is link
        if now >= entry.deadline or not stayed:
            self._forget(key)
            return None
        entry.trust = link.trust
        return entry.value if now < entry.trust.until else None

    def serves(self, key: str) -> bool:
        """Whether `fetch` can be sent now; if not, a connection to the key's home is being made."""
        link = self._link(key)
        return link is not None and link.up

    async def fetch(
        self, key: str, decode: Callable[[bytes], V], timeout: float | None = None
    ) -> V | None:
        """Read a key over the tracked connection and keep its value; None if there is none.

        Readers of one key share one call, which has the `timeout` (seconds) and `decode` of the
        first; when that one is cancelled the others make a call of their own. Raises `Unavailable`
        kinds, also where the key's cluster slot is moving, `ServerError` kinds, and what `decode`
        raises. Of these none says that the pool of the role would fail.
        """
        while (flight := self._flights.get(key)) is not None:
            if await flight.join():
                return cast("V | None", flight.value)
        link, connection = self._tracked(key)
        asked_at = monotonic()
        # Marked before it is sent: the push of a change may be handled before the reply's future
        # has its turn, and takes the mark away.
        flight = self._flights[key] = _Flight(link.trust)
        try:
            raw, left = await connection.batch((("GET", key), ("PTTL", key)), timeout)
            value = self._value(key, decode, raw)
        except BaseException as error:
            self._unmark(key, flight)
            flight.end(None, error)
            raise
        valid = self._unmark(key, flight)
        if value is not None:
            if valid:
                self._consider(key, value, len(raw), left, flight.trust, asked_at)  # type: ignore[arg-type]
            else:
                self._stats.races += 1
        if flight.waiters:
            flight.end(value, None)
        return value

    def drop(self, *keys: str) -> None:
        """Forget values; fetches of them that are under way are not kept."""
        for key in keys:
            self._flights.pop(key, None)
            self._forget(key)

    # --- fetching --------------------------------------------------------------------------

    def _tracked(self, key: str) -> tuple[Link, Connection]:
        """Where a key can be read, or an error that says why it cannot."""
        link = self._link(key)
        connection = link.connection if link is not None else None
        if link is None or connection is None:
            why = link.trouble if link is not None else "its home is not known"
            raise ConnectFailed(f"no tracked connection for {key}: {why}")
        if not connection.has_room:
            raise PoolExhausted(
                f"the tracked connection to {connection.address} has no room for another call "
                f"({connection.in_flight} in flight); read through the pool"
            )
        return link, connection

    def _unmark(self, key: str, flight: _Flight) -> bool:
        """End a flight; False when its key was invalidated meanwhile."""
        if self._flights.get(key) is not flight:
            return False
        del self._flights[key]
        return True

    def _value(self, key: str, decode: Callable[[bytes], V], raw: Reply) -> V | None:
        if isinstance(raw, ServerError):
            if raw.prefix in _ELSEWHERE:
                self._homes.moved(key.encode(), raw)
                raise Unavailable(f"{key} may be at another node now: {raw}")
            raise raw
        return None if raw is None else decode(raw)  # type: ignore[arg-type]

    def _consider(
        self, key: str, value: object, length: int, left: Reply, trust: Trust, asked_at: float
    ) -> None:
        """Keep a value if the server says how long it lives."""
        if isinstance(left, int) and (left > 0 or left == _NO_TTL):
            age = self._max_age if left == _NO_TTL else min(left / 1000, self._max_age)
            size = length * _BYTES_PER_RAW + len(key) + _BYTES_PER_ENTRY
            trust.link.trouble = ""
            self._keep(key, _Entry(value, asked_at + age, trust, size))
        elif isinstance(left, ServerError) and left.prefix not in _ELSEWHERE:
            trust.link.trouble = f"values cannot be kept, for PTTL was refused: {left}"

    # --- keeping ---------------------------------------------------------------------------

    def _keep(self, key: str, entry: _Entry) -> None:
        self._forget(key)
        if entry.size > self._max_bytes:
            return
        if self._bytes + entry.size > self._max_bytes:
            self._make_room(entry.size)
        self._entries[key] = entry
        self._bytes += entry.size

    def _forget(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._bytes -= entry.size
        return True

    def _make_room(self, size: int) -> None:
        """Drop the oldest, but spare once what was read since it was stored.

        Many at a time, because finding the oldest entries of a dict means to step over the places
        of those that were there before.
        """
        now = monotonic()
        excess = self._bytes + max(size, self._max_bytes // _EVICTED_AT_ONCE) - self._max_bytes
        may_spare = min(_SPARED_AT_ONCE, len(self._entries) // 2)
        victims: list[str] = []
        spared: list[str] = []
        for key, entry in self._entries.items():
            if excess <= 0:
                break
            if entry.used and now < entry.deadline and len(spared) < may_spare:
                spared.append(key)
            else:
                victims.append(key)
                excess -= entry.size
        for key in spared:  # among the youngest again
            entry = self._entries[key] = self._entries.pop(key)
            entry.used = False
        for key in victims:
            self._forget(key)
        self._stats.evictions += len(victims)

    # --- the server's word -----------------------------------------------------------------

    def _changed(self, key: str) -> None:
        self._flights.pop(key, None)
        self._stats.invalidated += self._forget(key)

    def _flushed(self, link: Link) -> None:
        self._stats.flushed += 1
        self._empty(link)

    def _empty(self, link: Link) -> None:
        """Forget everything that was read over a link."""
        entries, flights = self._entries, self._flights
        self._entries = {k: entry for k, entry in entries.items() if entry.trust.link is not link}
        self._flights = {k: each for k, each in flights.items() if each.trust.link is not link}
        self._bytes = sum(entry.size for entry in self._entries.values())

    # --- links -----------------------------------------------------------------------------

    def _home(self, key: str) -> Hashable | None:
        return self._homes.home(key.encode())

    def _link(self, key: str) -> Link | None:
        """The link to a key's home, which is made when it is needed first."""
        home = self._home(key)
        if home is None or not self._open:
            return None
        link = self._links.get(home)
        if link is None:
            link = self._links[home] = Link(
                self._homes,
                home,
                on_changed=self._changed,
                on_flushed=self._flushed,
                on_lost=self._empty,
                on_end=self._ended,
            )
        link.wanted = True
        return link

    def _ended(self, link: Link) -> None:
        self._past_reconnects += link.reconnects
        del self._links[link.home]

    def _follow(self) -> None:
        """The topology has changed: a key may have another home, which `get` looks up once."""
        for link in self._links.values():
            link.hurry()
            if self._homes.sharded:
                link.renew()
