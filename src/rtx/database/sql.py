"""The system of record in SQL: SQLite embedded, PostgreSQL in production, through SQLAlchemy.

A read is one statement, which makes each account consistent with its positions without a
transaction, and runs beside updates without waiting for them.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import groupby
from typing import Any, Self, TypeVar

import msgspec

from rtx.database.base import Owed, check_money, summarize
from rtx.errors import DatabaseUnavailable, Duplicate, MissingExtra, NotFound
from rtx.models import Account, Execution, Position, SymbolSpec, Versioned

try:
    from sqlalchemy import Executable, func, select, text
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.ext.asyncio import AsyncConnection  # noqa: F401 - fails without greenlet
except ImportError as error:
    raise MissingExtra("database", error.name or "greenlet") from error

from rtx.database import outbox, schema, tables
from rtx.database.connections import Connections, finished
from rtx.database.tables import accounts, symbols
from rtx.database.update import Update

T = TypeVar("T")

# SQLite and PostgreSQL take some 32,000 parameters in a statement.
_BATCH = 10_000
# An advisory lock of PostgreSQL; any number does, if all who change the tables use the same.
_MIGRATING = 0x525458


class SqlDatabase:
    """A `VersionedDatabase` and `Outbox` at a SQLAlchemy URL.

    SQLite through aiosqlite, PostgreSQL through asyncpg.

    `sqlite+aiosqlite:///file.db` is kept; `sqlite+aiosqlite://` is private and gone when closed.
    `timeout`, in seconds, bounds each wait: for a turn, a lock, a free connection, an answer.
    `pool_size` bounds the connections; updates use at most half of them, so that a read inside an
    update finds one. Raises `SettingsError` for a URL that cannot be used.

        async with SqlDatabase("sqlite+aiosqlite:///rtx.db") as database:
            async with database.update_account(1) as account:
                account.balance += Decimal("10.00")
    """

    def __init__(self, url: str, *, timeout: float = 5.0, pool_size: int = 10) -> None:
        self._connections = Connections(url, timeout, pool_size)

    def __repr__(self) -> str:
        return f"SqlDatabase({self._connections.name!r})"

    def __del__(self) -> None:
        connections = getattr(self, "_connections", None)  # none where the arguments were refused
        if connections is not None and connections.are_open:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=1)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, and create the tables or bring them up to date; harmless when already open.

        Raises `SettingsError` for tables of a later release, or of somebody else.
        """
        if self._connections.are_open:
            return
        try:
            await self._connections.open()
            if await self._revision() != schema.HEAD:
                await self._migrate()
        except BaseException:
            await self.close()
            raise

    async def _revision(self) -> str | None:
        async with self._connections.reading() as connection:
            with self._connections.explained("tell the version of its tables"):
                return await finished(connection.run_sync(schema.revision))

    async def _migrate(self) -> None:
        connections = self._connections
        async with connections.migrating() as connection:
            if connections.on_postgresql:
                limit = text(f"SET LOCAL lock_timeout = {round(connections.timeout * 1000)}")
                await connections.execute(connection, "limit its waits", limit)
                lock = select(func.pg_advisory_xact_lock(_MIGRATING))
                await connections.execute(connection, "lock its tables", lock)
            with connections.explained("create its tables"):
                await finished(connection.run_sync(schema.migrate, connections.name))
            await finished(connections.commit(connection, "create its tables"))

    async def close(self) -> None:
        """Let running calls end, for at most `timeout` seconds, then close every connection."""
        await self._connections.close()

    async def ping(self) -> None:
        # A constant would be answered without a look at the file.
        await self._rows("answer", select(accounts.c.id).limit(1))

    # --- reads -----------------------------------------------------------------------------

    async def accounts(self, ids: Sequence[int]) -> dict[int, Account]:
        found = await self.versioned_accounts(ids)
        return {id_: versioned.value for id_, versioned in found.items()}

    async def versioned_accounts(self, ids: Sequence[int]) -> dict[int, Versioned[Account]]:
        found: dict[int, Versioned[Account]] = {}
        for some in _batches(filter(tables.fits, ids)):
            query = tables.select_accounts.where(accounts.c.id.in_(some))
            rows = await self._rows("read accounts", query)
            for (id_, number, balance, version), group in groupby(rows, key=lambda row: row[:4]):
                held = [row[4:] for row in group if row[4] is not None]
                margins, profits = [margin for margin, _ in held], [profit for _, profit in held]
                account = summarize(id_, number, balance, margins, profits)
                found[id_] = Versioned(account, version)
        return found

    async def positions(self, account_ids: Sequence[int]) -> dict[int, tuple[Position, ...]]:
        found = await self.versioned_positions(account_ids)
        return {id_: versioned.value for id_, versioned in found.items()}

    async def versioned_positions(
        self, account_ids: Sequence[int]
    ) -> dict[int, Versioned[tuple[Position, ...]]]:
        found: dict[int, Versioned[tuple[Position, ...]]] = {}
        for some in _batches(filter(tables.fits, account_ids)):
            query = tables.select_positions.where(accounts.c.id.in_(some))
            rows = await self._rows("read positions", query)
            for (id_, version), group in groupby(rows, key=lambda row: row[:2]):
                positions = tuple(Position(*row[2:]) for row in group if row[2] is not None)
                found[id_] = Versioned(positions, version)
        return found

    async def symbols(self, names: Sequence[str] | None = None) -> dict[str, SymbolSpec]:
        rows: list[Sequence[Any]] = []
        if names is None:
            rows = await self._rows("read symbols", tables.select_symbols)
        for some in _batches(filter(_storable, names or ())):
            query = tables.select_symbols.where(symbols.c.symbol.in_(some))
            rows += await self._rows("read symbols", query)
        return {row[0]: SymbolSpec(*row) for row in rows}

    async def account_ids(self) -> list[int]:
        """Ids of all accounts, ascending."""
        query = select(accounts.c.id).order_by(accounts.c.id)
        return [row[0] for row in await self._rows("read accounts", query)]

    async def executions(self, account_id: int, limit: int = 100) -> list[Execution]:
        """The account's latest executions, at most `limit`, in the order of their recording."""
        if not tables.fits(account_id) or limit <= 0:
            return []
        given = {"account": account_id, "limit": limit}
        rows = await self._rows("read executions", tables.select_executions, given)
        return [Execution(*row) for row in reversed(rows)]

    async def _rows(
        self, what: str, query: Executable, given: dict[str, int] | None = None
    ) -> list[Sequence[Any]]:
        async with self._connections.reading() as connection:
            return list((await self._connections.execute(connection, what, query, given)).all())

    # --- writes ----------------------------------------------------------------------------

    async def add_accounts(self, new: Iterable[tuple[str, Decimal]]) -> list[int]:
        """Create accounts from (account number, balance), all or none; return their ids in order.

        Raises `Duplicate` when an account number is taken.
        """
        values = [
            {"account_number": number, "balance": check_money("balance", balance)}
            for number, balance in new
        ]
        if not values:
            return []
        statement = accounts.insert().returning(accounts.c.id, sort_by_parameter_order=True)
        async with self._connections.writing() as connection:
            try:
                added = await self._connections.execute(
                    connection, "add accounts", statement, values
                )
            except DatabaseUnavailable as error:
                if isinstance(error.__cause__, IntegrityError):
                    raise Duplicate(
                        "an account number is taken already; give each account its own"
                    ) from error.__cause__
                raise
            await finished(self._connections.commit(connection, "store the accounts"))
        return list(added.scalars())

    async def add_symbols(self, specs: Iterable[SymbolSpec]) -> None:
        """Store symbol specs, all or none, in place of those of the same names.

        The outbox has it that caches drop what they knew of them.
        """
        # In one order, so that two who add the same symbols do not wait for each other's.
        values = [msgspec.structs.asdict(spec) for spec in sorted(specs, key=_symbol)]
        for value in values:
            if not _storable(value["symbol"]):
                raise ValueError(
                    f"symbol {value['symbol']!r} has characters that are not printable"
                )
        if not values:
            return
        insert = self._connections.insert(symbols)
        statement = insert.on_conflict_do_update(
            index_elements=[symbols.c.symbol],
            set_={c.name: insert.excluded[c.name] for c in symbols.c if not c.primary_key},
        )
        async with self._connections.writing() as connection:
            await self._connections.execute(connection, "add symbols", statement, values)
            owing, given = outbox.owing_symbols(
                [value["symbol"] for value in values],
                on_postgresql=self._connections.on_postgresql,
            )
            await self._connections.execute(connection, "add symbols", owing, given)
            await finished(self._connections.commit(connection, "store the symbols"))

    @asynccontextmanager
    async def update_account(self, account_id: int) -> AsyncIterator[Update]:
        missing = NotFound(f"there is no account {account_id} in the database; create it first")
        if not tables.fits(account_id):
            raise missing
        async with self._connections.writing(account_id) as connection:
            lock = select(accounts).where(accounts.c.id == account_id).with_for_update()
            locked = await self._connections.execute(connection, "lock an account", lock)
            row = locked.one_or_none()
            if row is None:
                raise missing
            # Not joined to the lock: on PostgreSQL a statement that has waited for a row still
            # sees the other tables as they were before the wait.
            given = {"account": account_id}
            held = await self._connections.execute(
                connection, "read positions", tables.select_held, given
            )
            update = Update(self._connections, connection, row, held)
            yield update
            await finished(update.commit())

    # --- the outbox ------------------------------------------------------------------------

    async def owed(self, limit: int) -> list[Owed]:
        rows = await self._rows("read its outbox", outbox.select_owed, {"limit": limit})
        return [outbox.from_row(row) for row in rows]

    async def settled(self, ids: Sequence[int]) -> None:
        for some in _batches(ids):
            statement = outbox.settling(some, on_postgresql=self._connections.on_postgresql)
            async with self._connections.writing() as connection:
                await self._connections.execute(connection, "settle its outbox", statement)
                await finished(self._connections.commit(connection, "settle its outbox"))


def _symbol(spec: SymbolSpec) -> str:
    return spec.symbol


def _storable(name: str) -> bool:
    """Whether a symbol can be called so; PostgreSQL refuses to look for some other texts."""
    return name.isprintable()


def _batches(wanted: Iterable[T]) -> Iterator[list[T]]:
    items = list(dict.fromkeys(wanted))
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
