"""The system of record behind the caches: what it promises, and SQL databases that keep it.

Needs no database package until `SqlDatabase` is used: implement `Database` for a system of your
own, or install `rtx-datalayer[database]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtx.database.base import (
    AccountUpdate,
    Database,
    Outbox,
    Owed,
    OwingUpdate,
    VersionedDatabase,
    VersionedUpdate,
    check_money,
    summarize,
)
from rtx.database.relay import Relay
from rtx.errors import Duplicate

if TYPE_CHECKING:
    from rtx.database.sql import SqlDatabase

__all__ = [
    "AccountUpdate",
    "Database",
    "Duplicate",
    "Outbox",
    "Owed",
    "OwingUpdate",
    "Relay",
    "SqlDatabase",
    "VersionedDatabase",
    "VersionedUpdate",
    "check_money",
    "summarize",
]


def __getattr__(name: str) -> object:
    if name == "SqlDatabase":
        from rtx.database.sql import SqlDatabase

        return SqlDatabase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
