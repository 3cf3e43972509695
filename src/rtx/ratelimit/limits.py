"""The named limits: by name, several together, and changed at run time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from rtx.errors import RtxError, SettingsError, Unavailable
from rtx.keys import Keys
from rtx.ratelimit.base import Decision, Id
from rtx.ratelimit.concurrency import Concurrency
from rtx.ratelimit.decider import Decider
from rtx.ratelimit.definitions import Definitions, DefinitionStore
from rtx.ratelimit.limit import NamedLimit, bad_cost
from rtx.ratelimit.outages import Outages
from rtx.ratelimit.together import Part, Together, decisive
from rtx.setting_groups import ConcurrencySettings, LimiterSettings, LimitSettings
from rtx.topology.slots import key_slot
from rtx.wire import Caller

_log = logging.getLogger("rtx.ratelimit")

_LOOK_EVERY = 0.5  # a change is in force everywhere within this and a round trip

Wanted: TypeAlias = tuple[str, Id] | tuple[str, Id, int]
"""A limit's name, an id, and the cost of the hit, 1 if left out."""


class _NoSuchLimit(SettingsError, KeyError):
    """A mapping's `in` and `get` wait for a `KeyError`."""

    __str__ = Exception.__str__


class Limits(Mapping[str, NamedLimit]):
    """The named limits, by name or as attributes: `limits.orders`, `limits["api"]`.

    In use from `open` to `close`, both of which the layer does. A task of its own looks twice a
    second whether definitions were changed.
    """

    def __init__(
        self,
        caller: Caller,
        keys: Keys,
        named: Mapping[str, LimitSettings],
        limiter: LimiterSettings,
        *,
        one_server: bool,
        concurrency: Mapping[str, ConcurrencySettings] | None = None,
    ) -> None:
        place_of = _one_place if one_server else _slot
        self._caller = caller
        self._keys = keys
        self._named = named
        self._limiter = limiter
        self._decider = Decider(caller, limiter.deadline, one_server=one_server)
        self._outages = Outages(place_of)
        self._together = Together(self._decider, self._outages, place_of)
        self.concurrency = Concurrency(caller, keys, concurrency or {}, limiter, self._outages)
        """Limits of how many at once: `limits.concurrency["reports"].hold(id)`."""
        self._store = DefinitionStore(caller, keys)
        self._definitions = Definitions()
        self._refreshing = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._limits: dict[str, NamedLimit] = {}
        self._apply(self._definitions)

    async def open(self) -> None:
        """Read the definitions, and go on looking; what cannot be read is read later."""
        await self._look()
        self._watcher = asyncio.create_task(self._watch(), name="rtx-limits-watch")

    async def close(self) -> None:
        """End the task and the calls that are under way."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.concurrency.close()
        await self._decider.close()
        await self._together.close()

    def hurry(self) -> None:
        """The server was heard of: hits are sent again, if they were not."""
        self._outages.hurry()

    # --- by name ---------------------------------------------------------------------------

    def __getitem__(self, name: str) -> NamedLimit:
        try:
            return self._limits[name]
        except KeyError:
            known = ", ".join(self._limits)
            raise _NoSuchLimit(
                f"no limit is named {name!r}; there are {known}; add [limits.{name}] to rtx.toml"
            ) from None

    def __getattr__(self, name: str) -> NamedLimit:
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

    # --- several together ------------------------------------------------------------------

    async def check(self, *wanted: Wanted) -> Decision:
        """Hit several limits: all of them, or none.

            await limits.check(("api", user), ("orders", account), ("lots", account, 3))

        On one server it is one atomic call. In a cluster it is one for each slot, with what was
        taken given back on a denial (see `rtx.ratelimit.together`). Of several limits that deny,
        the decision is that of the longest wait; if all allow, that of the fewest hits left. Never
        raises because of a server. Raises `SettingsError` for an unknown name, `ValueError` for a
        cost below 1, for the same limit and id twice, and for nothing at all.
        """
        return decisive(await self.check_each(*wanted))

    async def check_each(self, *wanted: Wanted) -> list[Decision]:
        """The same with the decision of each limit: of all if they allowed, else of those known.

        What was not taken, because another limit denied, has the hits that are left all the same.
        """
        parts: dict[str, Part] = {}
        for name, id, *costs in wanted:
            limit, cost = self[name], costs[0] if costs else 1
            if cost < 1:
                raise bad_cost(cost)
            key = limit.key_of(id)
            if key in parts:
                raise ValueError(f"{name!r} is named twice for {id!r}; give it a cost of both")
            parts[key] = Part(limit, id, cost, key)
        if not parts:
            raise ValueError("name at least one limit, such as ('orders', 1)")
        return await self._together.check(list(parts.values()))

    # --- changed at run time ---------------------------------------------------------------

    async def define(
        self,
        name: str,
        *,
        limit: int,
        per: float | str | None = None,
        algorithm: Literal["sliding_log", "sliding_counter"] | None = None,
        when_down: Literal["closed", "open", "local"] | None = None,
    ) -> None:
        """Change a limit, or make one, for all processes, for good; in force within a second.

        What is left out stays as it is, for a new limit as the settings' defaults have it. Hits
        that were counted stay counted: a limit that shrinks denies until enough of them have left.
        When the window grows, hits that had left the old one are not known any more.

        Raises `SettingsError` for values that make no limit and for another algorithm than before,
        whose hits could not be told; `Unavailable`, `ServerError`.
        """
        before = self._limits.get(name)
        given: dict[str, Any] = {"limit": limit, "per": per}
        given.update(algorithm=algorithm, when_down=when_down)
        values = {field: value for field, value in given.items() if value is not None}
        if before is not None:
            values = {**before.settings.model_dump(), **values}
        try:
            settings = LimitSettings.model_validate(values)
        except ValidationError as error:
            raise SettingsError(f"limit {name!r}: {error.errors()[0]['msg']}") from None
        if before is not None and settings.algorithm != before.settings.algorithm:
            raise SettingsError(
                f"limit {name!r} counts with {before.settings.algorithm}, and another algorithm "
                "cannot read that; define a limit of another name"
            )
        await self._store.define(name, settings)
        await self._refresh()

    async def undefine(self, name: str) -> None:
        """Go back to what the settings say; a limit that they do not know is gone.

        Raises `Unavailable`, `ServerError`.
        """
        await self._store.define(name, None)
        await self._refresh()

    async def override(self, name: str, id: Id, *, limit: int | None) -> None:
        """Give one id a limit of its own, for all processes, for good; None takes it away.

        In force within a second. All of them are in the memory of every process: thousands, not
        millions. Raises `SettingsError`, `Unavailable`, `ServerError`.
        """
        settings = self[name].settings
        if limit is not None:
            try:
                LimitSettings.model_validate({**settings.model_dump(), "limit": limit})
            except ValidationError as error:
                raise SettingsError(f"limit {name!r}: {error.errors()[0]['msg']}") from None
        await self._store.override(name, id, limit)
        await self._refresh()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await self._look()

    async def _look(self) -> None:
        try:
            await self._refresh()
        except RtxError as error:  # the definitions in force stay in force
            if isinstance(error, Unavailable):
                self._outages.lasts(self._keys.limit_config())
            _log.debug("the definitions of limits cannot be read: %s", error)

    async def _refresh(self) -> None:
        async with self._refreshing:
            changed = await self._store.changed(self._definitions)
            if changed is not None:
                self._definitions = changed
                self._apply(changed)

    def _apply(self, definitions: Definitions) -> None:
        named = {**self._named, **definitions.limits}
        limits = {}
        for name, settings in named.items():
            overrides = definitions.overrides.get(name, {})
            limit = self._limits.get(name)
            if limit is None:
                limit = NamedLimit(
                    name,
                    settings,
                    self._limiter,
                    self._keys,
                    self._caller,
                    self._decider,
                    self._outages,
                )
            if limit.settings != settings or limit.overrides != overrides:
                limit.redefine(settings, overrides)
            limits[name] = limit
        self._limits = limits


def _one_place(_: str) -> int:
    return 0


def _slot(key: str) -> int:
    return key_slot(key.encode())
