"""User sessions: random tokens, of which the server holds only a hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from rtx import codecs
from rtx.cache.base import Cache
from rtx.keys import Keys
from rtx.models import Session, now_ms
from rtx.wire import Caller


class SessionCache(Cache[str, Session]):
    """Sessions by token, `session:{sha256 of the token}`, 24 hours.

    Redis is the only place that knows them: all methods raise `Unavailable` while it is away.
    """

    def __init__(self, pool: Caller, keys: Keys, ttl: float) -> None:
        super().__init__(
            pool,
            lambda token: keys.session(hashlib.sha256(token.encode()).hexdigest()),
            ttl,
            codecs.encode,
            codecs.decode_session,
        )
        self._ttl = ttl

    async def create(self, user_id: str, accounts: Iterable[int]) -> tuple[str, Session]:
        """Open a session; returns the token, which is nowhere else, and the session."""
        token = secrets.token_urlsafe(32)
        now = now_ms()
        session = Session(user_id, tuple(accounts), now, now + round(self._ttl * 1000))
        await self._store({token: session})
        return token, session

    async def revoke(self, token: str) -> bool:
        """End a session; False when there was none."""
        return bool(await self._pool.execute("DEL", self._key(token), idempotent=True))
