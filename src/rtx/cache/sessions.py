"""User sessions: random tokens, of which the server holds only a hash.

Two keys, in different slots of a cluster, so that no step changes both:

- `session:{sha256 of the token}` has the session, and expires with it;
- `sessions:{user_id}` is the user's index: the hashes by time of creation, and the time up to which
  all sessions of the user are revoked.

A session counts while its key is there and it was created after that time; a reader looks at both.
That makes `revoke_all` one step, which ends a session whose entry was evicted or lost, and one that
is being created by somebody else. What is done after it, and what a crash leaves:

    create      entry, session, look at the index; leaves an entry without session, or a session
                whose token nobody was given
    revoke      session, entry; leaves an entry without session
    revoke_all  time, sessions, entries; leaves sessions that no longer count

An entry without session is dropped when the sessions are listed, or when it is as old as a session
can become; a session without entry is entered when it is read. Times of creation and revocation are
those of the server that has the index. A token has 256 random bits and is looked up by its hash, so
that nothing is compared with a secret piece by piece.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from rtx import codecs
from rtx.cache.base import Cache
from rtx.cache.breaker import Breaker
from rtx.cache.contract import CacheStats, Lookup
from rtx.errors import ConnectionLost, ServerError, SettingsError, Unavailable
from rtx.keys import Keys
from rtx.models import Session, now_ms
from rtx.setting_groups import SessionSettings
from rtx.wire import Caller, Reply, Script

_REVOKED = "revoked"
_CHUNK = 1_000
_USERS_AT_MOST = 10_000
_UNDER_WAY_MS = 60_000  # an entry without session may be one of a session that is being created
_PARTS = 20  # an extension must be worth a twentieth of the TTL, so that few reads write


@dataclass(slots=True)
class SessionStats(CacheStats):
    """Counters since the layer was opened; `revoked` counts sessions ended before their time."""

    extended: int = 0
    extend_failures: int = 0
    revoked: int = 0


class SessionCache(Cache[str, Session]):
    """Sessions by token, `session:{sha256 of the token}`, 24 hours.

    Redis is the only place that knows them: all methods raise `Unavailable` while it is away, and
    `ServerError` where it refuses. With `expiry = "sliding"` a read is a use, which gives the
    session its whole time again.
    """

    stats: SessionStats

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        settings: SessionSettings | None = None,
        *,
        breaker: Breaker | None = None,
    ) -> None:
        super().__init__(
            pool,
            lambda token: keys.session(_hash(token)),
            ttl,
            codecs.encode,
            codecs.decode_session,
            breaker=breaker,
            filled=False,
        )
        self.stats = SessionStats()
        settings = settings or SessionSettings()
        self._keys = keys
        self._full_ms = max(1, round(ttl * 1000))
        self._sliding = settings.expiry == "sliding"
        self._life_ms = max(
            self._full_ms, round(settings.max_age * 1000) if self._sliding else self._full_ms
        )
        self._users: dict[str, str] = {}  # by hash, so that one round trip reads both keys
        self._enter = Script.load("rtx.cache", "session_enter")
        self._revoke = Script.load("rtx.cache", "session_revoke")
        self._extend = Script.load("rtx.cache", "session_extend")

    # --- opening and reading ---------------------------------------------------------------

    async def create(self, user_id: str, accounts: Iterable[int]) -> tuple[str, Session]:
        """Open a session; returns the token, which is nowhere else, and the session."""
        index, may_use = self._keys.sessions(user_id), tuple(accounts)
        await self._breaker.attempt()
        while True:
            token = secrets.token_urlsafe(32)
            hashed = _hash(token)
            key = self._keys.session(hashed)
            began = time.monotonic()
            reply = await self._enter.run(self._pool, [index], hashed, 0, self._life_ms)
            created = cast(int, reply)
            session = Session(user_id, may_use, created, created + self._full_ms)
            # The key ends when the session says, however long the index took to answer.
            left = max(1, self._full_ms - round((time.monotonic() - began) * 1000))
            await self._pool.call("SET", key, self._encode(session), "PX", left)
            if await self._counts(hashed, session):
                self.stats.puts += 1
                self._remember(hashed, user_id)
                return token, session
            # All of the user's sessions were revoked meanwhile; this one comes after that.
            await self._pool.call("DEL", key)

    async def get(self, id: str) -> Session | None:
        """The session of a token, or None when it has ended or never was."""
        hashed = _hash(id)
        key = self._keys.session(hashed)
        user = self._users.get(hashed)
        known = [] if user is None else self._standing(hashed, user)
        raw, *standing = await self._ask([("GET", key), *known])
        session = self._read(raw)
        if session is not None:
            if session.user_id != user:
                standing = await self._ask(self._standing(hashed, session.user_id))
                self._remember(hashed, session.user_id)
            if not await self._counts(hashed, session, standing):
                session = None
        if session is None:
            self._users.pop(hashed, None)
            self.stats.misses += 1
            return None
        self.stats.hits += 1
        if self._sliding and self._is_due(session):
            return await self._extended(key, cast(bytes, raw), session)
        return session

    async def get_many(self, ids: Iterable[str]) -> dict[str, Session]:
        """The sessions of those tokens that have one, in the order asked."""
        wanted = list(dict.fromkeys(ids))
        found = await asyncio.gather(*map(self.get, wanted))
        pairs = zip(wanted, found, strict=True)
        return {token: session for token, session in pairs if session is not None}

    async def lookup(self, id: str) -> Lookup[Session] | None:
        """As `get`; sessions are read from the server only."""
        session = await self.get(id)
        return None if session is None else Lookup(session, "redis", None)

    async def get_or_load(
        self, id: str, load: Callable[[str], Awaitable[Session | None]]
    ) -> Session | None:
        """Not for sessions: raises `SettingsError`."""
        raise SettingsError("a session has no other source to be loaded from; make one with create")

    async def of_user(self, user_id: str) -> tuple[Session, ...]:
        """The sessions that a user has open, oldest first, without their tokens."""
        await self._breaker.attempt()
        index = self._keys.sessions(user_id)
        members = await self._pool.execute("ZRANGE", index, 0, -1, "WITHSCORES", idempotent=True)
        entries = {hash.decode(): score for hash, score in cast(list[tuple[bytes, float]], members)}
        revoked = entries.pop(_REVOKED, 0)
        hashes = list(entries)
        found: list[Session] = []
        ended: list[str] = []
        oldest = now_ms() - _UNDER_WAY_MS
        for start in range(0, len(hashes), _CHUNK):
            part = hashes[start : start + _CHUNK]
            keys = map(self._keys.session, part)
            raws = cast(list[Reply], await self._pool.execute("MGET", *keys, idempotent=True))
            for hashed, raw in zip(part, raws, strict=True):
                session = self._read(raw)
                if session is not None and session.created_at > revoked:
                    found.append(session)
                elif session is not None or (raw is None and entries[hashed] < oldest):
                    ended.append(hashed)
        with suppress(Unavailable, ServerError):  # the next one who lists them tidies as well
            await self._drop(index, ended)
        return tuple(sorted(found, key=lambda session: session.created_at))

    # --- ending ----------------------------------------------------------------------------

    async def revoke(self, token: str) -> bool:
        """End a session; False when there was none."""
        hashed = _hash(token)
        key = self._keys.session(hashed)
        self._users.pop(hashed, None)
        await self._breaker.attempt()
        [raw] = await self._ask([("GET", key)])
        session = self._read(raw)
        ended = bool(await self._pool.execute("DEL", key, idempotent=True))
        self.stats.revoked += ended
        if session is not None:
            with suppress(Unavailable, ServerError):  # it has ended; its entry is harmless
                await self._pool.call("ZREM", self._keys.sessions(session.user_id), hashed)
        return ended

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of a user; how many were open.

        They end together. An error leaves open whether they have: do it again.
        """
        index = self._keys.sessions(user_id)
        await self._breaker.attempt()
        reply = await self._revoke.run(self._pool, [index], self._life_ms)
        ended = await self._drop(index, [hash.decode() for hash in cast(list[bytes], reply)])
        self.stats.revoked += ended
        return ended

    async def _drop(self, index: str, hashes: Sequence[str]) -> int:
        """Delete sessions, then their entries; how many there were."""
        ended = 0
        for start in range(0, len(hashes), _CHUNK):
            part = hashes[start : start + _CHUNK]
            keys = map(self._keys.session, part)
            ended += cast(int, await self._pool.execute("DEL", *keys, idempotent=True))
            await self._pool.execute("ZREM", index, *part, idempotent=True)
        return ended

    # --- the two keys ----------------------------------------------------------------------

    def _standing(self, hashed: str, user_id: str) -> list[tuple[str, ...]]:
        """The commands whose replies `_counts` judges by."""
        index = self._keys.sessions(user_id)
        return [("ZSCORE", index, hashed), ("ZSCORE", index, _REVOKED)]

    async def _counts(
        self, hashed: str, session: Session, standing: Sequence[Reply] | None = None
    ) -> bool:
        """Whether a session has not been revoked; it then has an entry in the index."""
        if standing is None:
            standing = await self._ask(self._standing(hashed, session.user_id))
        entry, revoked = cast(tuple[float | None, float | None], tuple(standing))
        if revoked is not None and session.created_at <= revoked:
            return False
        if entry is not None:
            return True
        # The entry was evicted or lost, or another program made the session.
        index = self._keys.sessions(session.user_id)
        created, life = session.created_at, self._life_ms
        return bool(await self._enter.run(self._pool, [index], hashed, max(1, created), life))

    def _is_due(self, session: Session) -> bool:
        later = min(now_ms() + self._full_ms, session.created_at + self._life_ms)
        return later - session.expires_at >= self._full_ms / _PARTS

    async def _extended(self, key: str, raw: bytes, session: Session) -> Session | None:
        """The session with its whole time again; as it was, where that cannot be written."""
        latest = session.created_at + self._life_ms
        try:
            now = await self._extend.run(self._pool, [key], raw, self._full_ms, latest)
        except (Unavailable, ServerError):
            self.stats.extend_failures += 1
            return session
        if now == raw:
            return session
        self.stats.extended += now is not None
        return self._read(now)

    def _read(self, raw: Reply) -> Session | None:
        if raw is None:
            return None
        try:
            return self._decode(cast(bytes, raw))
        except (*codecs.DecodeError, TypeError, ValueError):
            self.stats.undecodable += 1
            return None

    async def _ask(self, commands: Sequence[tuple[str, ...]]) -> list[Reply]:
        """Read in one round trip; once more where the connection broke meanwhile."""
        breaker = self._breaker
        if not breaker.allows:
            await breaker.admit()
        try:
            try:
                replies = await self._pool.batch(commands)
            except ConnectionLost:
                replies = await self._pool.batch(commands)
        except Unavailable as error:
            breaker.failed(commands[0][1], error)
            raise
        for place, reply in enumerate(replies):
            if isinstance(reply, ServerError):
                if reply.prefix != "WRONGTYPE" or commands[place][0] != "GET":
                    raise reply
                replies[place] = b""  # no session can be read from it
        breaker.succeeded()
        return replies

    def _remember(self, hashed: str, user_id: str) -> None:
        if len(self._users) >= _USERS_AT_MOST:
            del self._users[next(iter(self._users))]
        self._users[hashed] = user_id


def _hash(token: str) -> str:
    # A header or a URL can have text that is no UTF-8; it is then nobody's token.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
