"""The server's side of a cache: what is asked of it, and with which keys.

Each value may have companions in its cluster slot: a lease, which says who may fill it, and the
newest version of its row that is known. A fill is stored only while its lease is held; whoever
writes or invalidates deletes the lease, and with it every fill that is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias, cast
from zlib import crc32

from rtx.errors import RtxError, ServerError
from rtx.keys import Keys
from rtx.wire import Caller, Reply, Script
from rtx.wire.options import Argument

CHUNK = 1_000
"""Keys in one round trip, so that no call holds a connection or the server for long."""

Call: TypeAlias = tuple[Script, Sequence[str], Sequence[Argument]]
"""A script, its keys and its arguments."""

ACQUIRE, FILL, ABSENT, RENEW, RELEASE, LOOK, PUT, REMEMBER, SWAP = (
    Script.load("rtx.cache", name)
    for name in ("acquire", "fill", "absent", "renew", "release", "look", "put", "remember", "swap")
)

_VERSION_MS = 600_000  # longer than any load or write that still has an older row in its hands
_SPREAD = 0.1 / 2**32


class State(IntEnum):
    """What came of a claim to fill a value."""

    VALUE = 1
    ABSENT = 2
    GRANTED = 3
    HELD = 4


class Claim(NamedTuple):
    """A state, with the value if there is one, or whether a key of another kind is in its place."""

    state: State
    raw: bytes = b""
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Debt:
    """An invalidation: the version that it makes known, and whether the key has companions."""

    version: int
    companions: bool


class Remote:
    """Scripts on the server for one kind of value; `ttl` and `lease` in seconds.

    With `companions` whoever writes ends leases. Times to live are then up to a tenth shorter, by
    the key's own share, so that what was stored together does not expire together. Each method is
    one round trip, raises `Unavailable` kinds, and returns single errors of the server in the place
    of replies.
    """

    def __init__(
        self, pool: Caller, ttl: float, lease: float, absent_ttl: float, *, companions: bool
    ) -> None:
        self._pool = pool
        self._ttl_ms = max(1, round(ttl * 1000))
        self._lease_ms = max(1, round(lease * 1000))
        self._absent_ms = max(1, round(absent_ttl * 1000))
        self._companions = companions

    def ttl_ms(self, key: str) -> int:
        """Milliseconds that a value lives when it is stored under this key."""
        if not self._companions:
            return self._ttl_ms
        return max(1, round(self._ttl_ms * (1 - crc32(key.encode()) * _SPREAD)))

    # --- filling ---------------------------------------------------------------------------

    async def acquire(
        self,
        keys: Iterable[str],
        token: str,
        timeout: float,
        unreadable: Mapping[str, bytes],
        *,
        refresh: bool = False,
    ) -> list[Claim | ServerError]:
        """Read values, or claim to fill them; what is in `unreadable` counts as no value."""
        claim = (token, self._lease_ms, "refresh" if refresh else "get")
        replies = await run_all(
            self._pool,
            [
                (
                    ACQUIRE,
                    (key, Keys.lease(key)),
                    (*claim, unreadable[key]) if key in unreadable else claim,
                )
                for key in keys
            ],
            timeout,
        )
        return [reply if isinstance(reply, ServerError) else _claim(reply) for reply in replies]

    async def fill(
        self,
        values: Iterable[tuple[str, bytes | None, int]],
        token: str,
        timeout: float,
        unreadable: Mapping[str, bytes],
    ) -> list[Reply]:
        """Store (key, value, version), None for what does not exist.

        1 stored, 0 the lease has been lost or somebody else's value is there, -1 a newer version is
        known.
        """
        calls: list[Call] = []
        for key, raw, version in values:
            names = (key, Keys.lease(key), Keys.version(key))
            if raw is None:
                calls.append((ABSENT, names[:2], (token, self._absent_ms)))
            else:
                stored = (token, version, raw, self.ttl_ms(key), _VERSION_MS)
                over = () if self._companions else ("vacant", unreadable.get(key, b""))
                calls.append((FILL, names, (*stored, *over)))
        return await run_all(self._pool, calls, timeout)

    async def renew(self, keys: Iterable[str], token: str, timeout: float) -> None:
        """Keep leases for as long again."""
        again = (token, self._lease_ms)
        await run_all(self._pool, [(RENEW, (Keys.lease(k),), again) for k in keys], timeout)

    async def release(self, keys: Iterable[str], token: str, timeout: float) -> None:
        """Give leases back without values."""
        calls: list[Call] = [(RELEASE, (Keys.lease(key),), (token,)) for key in keys]
        await run_all(self._pool, calls, timeout)

    async def look(self, key: str, timeout: float | None) -> tuple[Reply, Reply, Reply]:
        """A value, its time left in milliseconds, and its version; raises `ServerError` too."""
        if self._companions:
            [reply] = await run_all(self._pool, [(LOOK, (key, Keys.version(key)), ())], timeout)
        else:
            reply = [*await self._pool.batch([("GET", key), ("PTTL", key)], timeout), None]
        for part in (reply, *reply) if isinstance(reply, list) else (reply,):
            if isinstance(part, ServerError):
                raise part
        raw, left, version = cast("list[Reply]", reply)
        return raw, left, version

    # --- writing ---------------------------------------------------------------------------

    async def put(
        self, values: Iterable[tuple[str, bytes, int]], timeout: float | None
    ) -> list[Reply]:
        """Store (key, value, version) over what is there: 1, or 0 if a newer version is known."""
        calls: list[Call] = []
        for key, raw, version in values:
            names = (key, Keys.lease(key), Keys.version(key))
            calls.append((PUT, names, (raw, self.ttl_ms(key), version, _VERSION_MS)))
        return await run_all(self._pool, calls, timeout)

    async def set(
        self, values: Iterable[tuple[str, bytes, int]], timeout: float | None
    ) -> list[Reply]:
        """The same where there are no companions."""
        commands = [("SET", key, raw, "PX", self.ttl_ms(key)) for key, raw, _ in values]
        return await self._pool.batch(commands, timeout)

    async def swap(self, key: str, old: bytes, new: bytes, timeout: float | None) -> bool:
        """Change a value if it is still `old`; raises `ServerError` too."""
        call: Call = (SWAP, (key,), (old, new, self.ttl_ms(key)))
        [reply] = await run_all(self._pool, [call], timeout)
        if isinstance(reply, ServerError):
            raise reply
        return reply == 1


async def drop(pool: Caller, debts: Mapping[str, Debt], timeout: float) -> None:
    """Invalidate keys, in one round trip; raises unless all of them are known to be gone.

    The lease goes before the value: in a cluster they are two commands, and a fill between them is
    refused, or deleted with the value.
    """
    names = [
        name
        for key, debt in debts.items()
        for name in ((Keys.lease(key), key) if debt.companions else (key,))
    ]
    versions: list[Call] = [
        (REMEMBER, (Keys.version(key),), (debt.version, _VERSION_MS))
        for key, debt in debts.items()
        if debt.version
    ]
    if not versions:
        await pool.call("DEL", *names, timeout=timeout)
        return
    # Commands of one key each, which a cluster carries out even while it moves their slot.
    deleting = [("DEL", name) for name in names]
    replies = await pool.batch([*map(_packed, versions), *deleting], timeout)
    for reply in replies[len(versions) :]:
        if isinstance(reply, ServerError):
            raise reply
    unknown = [call for call, reply in zip(versions, replies, strict=False) if _is_unknown(reply)]
    if unknown:
        # A version that is not remembered makes nothing wrong, unlike a value that is not deleted.
        with suppress(RtxError):
            await pool.batch([*map(_whole, unknown)], timeout)


async def run_all(pool: Caller, calls: Sequence[Call], timeout: float | None = None) -> list[Reply]:
    """Run scripts in one round trip; the replies have the errors in them."""
    replies = await pool.batch([*map(_packed, calls)], timeout)
    unknown = [place for place, reply in enumerate(replies) if _is_unknown(reply)]
    if unknown:  # to a server that was restarted, or has just been promoted
        again = await pool.batch([_whole(calls[place]) for place in unknown], timeout)
        for place, reply in zip(unknown, again, strict=True):
            replies[place] = reply
    return replies


def _packed(call: Call) -> tuple[Argument, ...]:
    script, keys, arguments = call
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _whole(call: Call) -> tuple[Argument, ...]:
    script, keys, arguments = call
    return ("EVAL", script.text, len(keys), *keys, *arguments)


def _is_unknown(reply: Reply) -> bool:
    return isinstance(reply, ServerError) and reply.prefix == "NOSCRIPT"


def _claim(reply: Reply) -> Claim:
    state, *rest = cast("list[int | bytes]", reply)
    if state == State.VALUE:
        return Claim(State.VALUE, raw=cast(bytes, rest[0]))
    return Claim(State(cast(int, state)), broken=bool(rest and rest[0]))
