"""Which version the tables of a database are of, and Alembic's steps from there to this one.

The version is kept in a table of its own name, so that a program that shares the database may use
Alembic for its own tables.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from rtx.errors import MissingExtra, SettingsError

HEAD = "0002"
"""The version of the tables that this code reads and writes."""

VERSION_TABLE = "rtx_schema_version"

_MIGRATIONS = Path(__file__).parent / "migrations"
_FIRST = "0001"
# What the first version created, before it wrote down any version.
_FIRST_TABLES = {
    "accounts": {"id", "account_number", "balance", "version"},
    "positions": {
        *("id", "account_id", "symbol", "side", "volume", "open_price", "current_price"),
        *("unrealized_pnl", "margin", "opened_at"),
    },
    "executions": {
        *("id", "account_id", "order_id", "position_id", "symbol", "side", "volume", "price"),
        "timestamp",
    },
    "symbols": {
        *("symbol", "description", "base", "quote", "digits", "contract_size", "margin_rate"),
        *("min_volume", "max_volume", "volume_step"),
    },
}
_LATER_TABLES = {"outbox"}


def revision(connection: Connection) -> str | None:
    """The version of the tables, None where none is written down."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return found


def migrate(connection: Connection, name: str) -> None:
    """Bring the tables of the database called `name` to `HEAD`, whatever they are now.

    The caller holds a lock against others who do the same, and commits. Raises `SettingsError` for
    tables of a later version, or of somebody else.
    """
    try:
        # Takes 0.1 s, which most starts can spare: only here.
        from alembic.operations import Operations
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory
    except ImportError as error:
        raise MissingExtra("database", error.name or "alembic") from error

    scripts = ScriptDirectory(str(_MIGRATIONS))
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    operations = Operations(context)
    current = revision(connection)
    if current is None and _is_first(connection, name):
        current = _FIRST
        context.stamp(scripts, current)
    if current is not None and current not in {step.revision for step in scripts.walk_revisions()}:
        raise SettingsError(
            f"the tables of the database {name} are of version {current}, which is later than "
            f"{HEAD}, the one this release knows; upgrade rtx-datalayer, or name another database"
        )
    for step in reversed(list(scripts.iterate_revisions(HEAD, current or "base"))):
        step.module.upgrade(operations)
        context.stamp(scripts, step.revision)


def _is_first(connection: Connection, name: str) -> bool:
    """Whether these are the first version's tables; False where there are none."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    ours = there & (_FIRST_TABLES.keys() | _LATER_TABLES)
    if not ours:
        return False
    if ours == _FIRST_TABLES.keys() and all(
        columns <= {column["name"] for column in inspector.get_columns(table)}
        for table, columns in _FIRST_TABLES.items()
    ):
        return True
    raise SettingsError(
        f"the database {name} has tables called {', '.join(sorted(ours))} that RTX did not make; "
        "give RTX a database or a schema of its own"
    )
