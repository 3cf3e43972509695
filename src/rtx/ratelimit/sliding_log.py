"""Exact limits: a log of hit times on the server, read and written by one script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from rtx.errors import ServerError, SettingsError, Unavailable
from rtx.keys import Keys
from rtx.ratelimit.base import Decision, LimitStats
from rtx.settings import LimitSettings
from rtx.wire import Caller, Script


class Limit:
    """One named limit, `ratelimit:{name}:{id}`: at most `limit` hits in any `per` seconds."""

    def __init__(
        self, pool: Caller, key: Callable[[int | str], str], settings: LimitSettings, script: Script
    ) -> None:
        self._pool = pool
        self._key = key
        self._script = script
        self._window = max(1, round(settings.per * 1_000_000))
        self.limit = settings.limit
        """Hits allowed in a window."""
        self.per = settings.per
        """The window in seconds."""
        self.stats = LimitStats()

    async def hit(self, id: int | str, cost: int = 1) -> Decision:
        """Take `cost` hits if they all fit, else none.

        Raises `Unavailable` when Redis is away; with `maybe_applied` the hits may have been taken.
        """
        decision = await self._decide(id, cost, take=True)
        if decision.allowed:
            self.stats.allowed += 1
        else:
            self.stats.denied += 1
        return decision

    async def peek(self, id: int | str, cost: int = 1) -> Decision:
        """What `hit` would answer now, without taking anything. Raises `Unavailable`."""
        return await self._decide(id, cost, take=False)

    async def remaining(self, id: int | str) -> int:
        """Hits left in the window that ends now. Raises `Unavailable`."""
        return (await self.peek(id)).remaining

    async def reset(self, id: int | str) -> None:
        """Forget all hits of an id. Raises `Unavailable`."""
        await self._pool.execute("DEL", self._key(id), idempotent=True)

    async def _decide(self, id: int | str, cost: int, *, take: bool) -> Decision:
        if cost < 1:
            raise ValueError(f"the cost of a hit is 1 or more, not {cost}")
        try:
            reply = await self._script.run(
                self._pool, [self._key(id)], self.limit, self._window, cost, int(take)
            )
        except (Unavailable, ServerError):
            self.stats.errors += 1
            raise
        allowed, remaining, wait, reset = cast(list[int], reply)
        retry_after = math.inf if wait < 0 else wait / 1e6
        return Decision(allowed == 1, self.limit, remaining, retry_after, reset / 1e6)


class Limits(Mapping[str, Limit]):
    """The named limits, by name or as attributes: `limits.orders`, `limits["api"]`."""

    def __init__(self, pool: Caller, keys: Keys, named: Mapping[str, LimitSettings]) -> None:
        script = Script.load("rtx.ratelimit", "sliding_log")

        def key_of(name: str) -> Callable[[int | str], str]:
            return lambda id: keys.limit(name, id)

        self._limits = {
            name: Limit(pool, key_of(name), settings, script) for name, settings in named.items()
        }

    def __getitem__(self, name: str) -> Limit:
        try:
            return self._limits[name]
        except KeyError:
            known = ", ".join(self._limits)
            raise SettingsError(
                f"no limit is named {name!r}; there are {known}; add [limits.{name}] to rtx.toml"
            ) from None

    def __getattr__(self, name: str) -> Limit:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def names(self) -> list[str]:
        """The names of all limits."""
        return list(self._limits)
