"""From a URL to an engine for SQLite or PostgreSQL, and from a driver's failure to a remedy."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rtx.database.tables import POSTGRESQL
from rtx.errors import DatabaseUnavailable, MissingExtra, SettingsError

UPDATING = "rtx_updating"
"""Execution option of the connections that are to change something."""

_FORMS = (
    "sqlite+aiosqlite:///file.db, sqlite+aiosqlite:// (gone when closed) or "
    "postgresql+asyncpg://user:password@host:5432/name"
)
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_REMEDIES = (
    ("database is locked", "another process is writing for too long; let it finish or end it"),
    ("not a database", "the file is damaged or something else; restore it or name another"),
    ("malformed", "the file is damaged; restore it from a backup"),
    ("unable to open", "check that its directory exists and that this user may write there"),
    ("readonly", "check that this user may write the file and its directory"),
    ("disk is full", "free some space"),
    ("authentication failed", "check the user and the password in the database URL"),
    ("lock timeout", "another process holds it for too long; try again when that is done"),
    ("permission denied", "grant this user what it needs, or have one who may create the tables"),
    ("does not exist", "create what is missing, or correct the database URL"),
    ("QueuePool", "every connection is busy; raise pool_size or keep updates shorter"),
)


def parse_url(url: str) -> URL:
    """The URL with its driver named; raise `SettingsError` or `MissingExtra`."""
    try:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
        name = parsed.database or ":memory:"
        if parsed.query.get("mode") == "memory" or (":memory:" in name and name != ":memory:"):
            raise ValueError("a memory database that connections share locks readers out")
        dialect = parsed.get_dialect()
        dialect().create_connect_args(parsed)
        dialect.import_dbapi()
        return parsed
    except ImportError as error:
        raise MissingExtra("database", error.name or "the database driver") from error
    except (SQLAlchemyError, ValueError, KeyError):
        # The driver's words may repeat parts of a password.
        raise SettingsError(f"the database URL cannot be understood; use {_FORMS}") from None


def on_postgresql(url: URL) -> bool:
    """Whether the database is PostgreSQL; else it is SQLite."""
    return url.get_backend_name() == POSTGRESQL


def is_private(url: URL) -> bool:
    """Whether the URL names no place: a database of this process alone, gone when closed."""
    return not on_postgresql(url) and url.database in (None, "", ":memory:")


def name_of(url: URL) -> str:
    """The URL for messages, without any password."""
    return url.set(query={}).render_as_string(hide_password=True)


def create_engine(
    url: URL,
    file: str | None,
    *,
    timeout: float,
    pool_size: int,
    statement_timeout: float | None = None,
) -> AsyncEngine:
    """An engine without connections yet, on `file` in place of the URL's; raise `SettingsError`.

    `timeout`, in seconds, bounds the waits for a lock, a free connection and, unless there is a
    `statement_timeout`, an answer of PostgreSQL.
    """
    arguments = {"timeout": timeout}
    if on_postgresql(url):
        arguments["command_timeout"] = statement_timeout or timeout
    try:
        engine = create_async_engine(
            url if file is None else url.set(database=file),
            connect_args=arguments,
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout,
            pool_pre_ping=on_postgresql(url),
            hide_parameters=True,
        )
    except (SQLAlchemyError, TypeError):
        raise SettingsError(
            f"the database URL {name_of(url)} has an option that is not understood"
        ) from None
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    """Take SQLite's write lock at the start, for a reader that turns writer can only fail."""
    if connection.dialect.name != "sqlite":
        return
    if connection.get_execution_options().get(UPDATING):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def prepare_file(engine: AsyncEngine, timeout: float) -> None:
    """Have SQLite's readers and writer not wait for each other; the file remembers it.

    Runs in a thread of its own, for aiosqlite leaves its thread behind when a file cannot be
    opened.
    """
    (path, *_), options = engine.dialect.create_connect_args(engine.url)
    uri = bool(options.get("uri"))
    end = time.monotonic() + timeout
    with closing(sqlite3.connect(path, timeout=timeout, uri=uri)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite does not wait here for another process that does the same.
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.01)


def unavailable(
    url: URL, what: str, error: BaseException, remedy: str = "", *, maybe_applied: bool = False
) -> DatabaseUnavailable:
    """The error to raise when the driver's `error` kept the database from doing `what`.

    Without a `remedy` the message has the usual one for such an error.
    """
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    nothing = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    reason = next(iter(str(error).splitlines()), "") or nothing
    remedies = (remedy for sign, remedy in _REMEDIES if sign in reason)
    usual = "check that PostgreSQL is running" if on_postgresql(url) else "check the disk"
    return DatabaseUnavailable(
        f"the database {name_of(url)} could not {what}: {reason}; "
        f"{remedy or next(remedies, usual)}",
        maybe_applied=maybe_applied,
    )
