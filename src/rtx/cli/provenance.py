"""Where each setting comes from, and all that is wrong with them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rtx.errors import RtxError, SettingsError
from rtx.settings import Settings
from rtx.topology import Roles


@dataclass(frozen=True, slots=True)
class Origins:
    """Settings by dotted name in their order, and the place that each was set in."""

    values: list[tuple[str, object]]
    places: dict[str, str]


def settings_file() -> Path | None:
    """The settings file that is read, if there is one."""
    path = Path(os.environ.get("RTX_CONFIG") or "rtx.toml")
    return path if path.exists() else None


def origins(settings: Settings, given: Mapping[str, str]) -> Origins:
    """Every setting and its origin: an option, a variable, a file or the default.

    `given` maps names to the options that set them.
    """
    path = settings_file()
    in_file = dict(_leaves(tomllib.loads(path.read_text("utf-8")))) if path is not None else {}
    variables = {name.upper(): name for name in os.environ}
    dumped = settings.model_dump(mode="json")
    dumped["limits"] = {name: limit.model_dump() for name, limit in settings.named_limits.items()}
    values = list(_leaves(dumped))
    places: dict[str, str] = {}
    for name, _ in values:
        place = given.get(name) or _variable(name, variables)
        if place is None:
            place = str(path) if _within(name, in_file) else "default"
        places[name] = place
    return Origins(values, places)


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _within(name: str, leaves: Mapping[str, object]) -> bool:
    return any(leaf == name or leaf.startswith(f"{name}.") for leaf in leaves)


def _variable(name: str, variables: Mapping[str, str]) -> str | None:
    """The variable that sets a name, or a part that holds it as JSON."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        found = variables.get("RTX_" + "__".join(parts[:length]).upper())
        if found is not None:
            return found
    return None


def problems() -> list[str]:
    """Everything that is wrong with the settings in force; empty when they can be used."""
    found: list[str] = []
    try:
        settings = Settings.load()
    except SettingsError as error:
        cause = error.__context__
        if isinstance(cause, ValidationError):
            return _sentences(cause)
        found.append(str(error))
        if "unknown environment variable" in str(error):
            try:
                Settings()
            except ValidationError as invalid:
                found += _sentences(invalid)
            except (SettingsError, ValueError) as other:
                found.append(str(other))
        return found
    for check in (_topology, _users, _database):
        try:
            check(settings)
        except RtxError as error:
            found.append(str(error))
    return found


def _sentences(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_input=False, include_url=False):
        where = ".".join(map(str, item["loc"]))
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "unknown field; `rtx config render` lists all that there are"
        lines.append(f"{where}: {text}" if where else text)
    return lines


def _topology(settings: Settings) -> None:
    Roles(settings)


def _users(settings: Settings) -> None:
    if settings.gateway.users:
        from rtx.gateway.passwords import Passwords

        Passwords(settings.gateway.users)


def _database(settings: Settings) -> None:
    if settings.database_url is not None:
        from rtx.database.sql import SqlDatabase

        SqlDatabase(settings.database_url.get_secret_value())
