"""Limits that are changed at run time: kept in Redis, the same for all processes.

The hash `ratelimit:config` has a field `limit:{name}` with a definition as JSON, a field
`override:{name}:{id}` with a number for each id that has a limit of its own, and `version`, which
every change sets to the server's time. A process reads the version twice a second, and the rest
when that has changed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from rtx.errors import SettingsError
from rtx.keys import Keys
from rtx.ratelimit.base import Id
from rtx.setting_groups import LimitSettings
from rtx.wire import Caller, Script

_log = logging.getLogger("rtx.ratelimit")

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Definitions:
    """What was changed: definitions by name, limits of single ids by name and id."""

    version: bytes | None = None
    limits: Mapping[str, LimitSettings] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class DefinitionStore:
    """Reads and writes the definitions; raises `Unavailable`, `ServerError`."""

    def __init__(self, caller: Caller, keys: Keys) -> None:
        self._caller = caller
        self._key = keys.limit_config()
        self._script = Script.load("rtx.ratelimit", "define")

    async def changed(self, since: Definitions) -> Definitions | None:
        """The definitions, if they have changed; None if they have not."""
        version = await self._caller.call("HGET", self._key, "version")
        if version == since.version:
            return None
        flat = cast(dict[bytes, bytes], await self._caller.call("HGETALL", self._key))
        limits: dict[str, LimitSettings] = {}
        overrides: dict[str, dict[str, int]] = {}
        for raw, value in flat.items():
            entry = raw.decode(errors="replace")
            kind, _, rest = entry.partition(":")
            try:
                if kind == "limit":
                    limits[rest] = LimitSettings.model_validate_json(value)
                elif kind == "override":
                    name, _, id = rest.partition(":")
                    overrides.setdefault(name, {})[id] = max(1, int(value))
            except ValueError as error:
                _log.warning("%s has no sense in %s: %s", self._key, entry, error)
        return Definitions(flat.get(b"version"), limits, overrides)

    async def define(self, name: str, settings: LimitSettings | None) -> None:
        """Store a definition, or drop it."""
        value = settings.model_dump_json() if settings is not None else ""
        await self._script.run(self._caller, [self._key], f"limit:{checked(name)}", value)

    async def override(self, name: str, id: Id, limit: int | None) -> None:
        """Store an id's own limit, or drop it."""
        value = "" if limit is None else str(limit)
        await self._script.run(self._caller, [self._key], f"override:{checked(name)}:{id}", value)


def checked(name: str) -> str:
    """The name, if it can be one; raises `SettingsError`."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be changed at run time: use letters, digits, _ . and - in its name"
        )
    return name
