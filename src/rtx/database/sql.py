"""The system of record in SQL: SQLite embedded, PostgreSQL in production, through SQLAlchemy.

A read is one statement, which makes each account consistent with its positions without a
transaction, and runs beside updates without waiting for them. An update first waits for its turn
in this process, in order of arrival and without holding a connection, and then takes the lock of
the database: the account's row on PostgreSQL, the file (`BEGIN IMMEDIATE`) on SQLite.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from decimal import Decimal
from itertools import groupby
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

import msgspec

from rtx.database.base import (
    AccountUpdate,
    Duplicate,
    check_margin,
    check_money,
    check_positive,
    check_side,
    summarize,
    total,
)
from rtx.errors import DatabaseUnavailable, MissingExtra, NotFound, SettingsError
from rtx.models import Account, Execution, Position, Side, SymbolSpec, now_ms

try:
    from sqlalchemy import (
        URL,
        Connection,
        CursorResult,
        Executable,
        event,
        func,
        make_url,
        select,
    )
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.dialects import sqlite as sqlite_dialect
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
except ImportError as error:
    raise MissingExtra("database", error.name or "greenlet") from error

from rtx.database import tables
from rtx.database.tables import accounts, executions, positions, symbols

T = TypeVar("T")

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
    ("does not exist", "create what is missing, or correct the database URL"),
    ("QueuePool", "every connection is busy; raise pool_size or keep updates shorter"),
)
# SQLite and PostgreSQL take some 32,000 parameters in a statement.
_BATCH = 10_000
# An advisory lock of PostgreSQL; any number does, if all who create the tables use the same.
_CREATING = 0x525458
# Execution option of the connections that are to change something.
_UPDATING = "rtx_updating"


class SqlDatabase:
    """A `Database` at a SQLAlchemy URL: SQLite through aiosqlite, PostgreSQL through asyncpg.

    `sqlite+aiosqlite:///file.db` is kept; `sqlite+aiosqlite://` is private and gone when closed.
    `timeout`, in seconds, bounds each wait: for a turn, a lock, a free connection, an answer.
    `pool_size` bounds the connections; updates use at most half of them, so that a read inside an
    update finds one. Raises `SettingsError` for a URL that cannot be used.

        async with SqlDatabase("sqlite+aiosqlite:///rtx.db") as database:
            async with database.update_account(1) as account:
                account.balance += Decimal("10.00")
    """

    def __init__(self, url: str, *, timeout: float = 5.0, pool_size: int = 10) -> None:
        self._engine: AsyncEngine | None = None
        if not 0 < timeout < math.inf:
            raise SettingsError(f"timeout is {timeout}; it is a number of seconds above 0")
        if pool_size < 2:
            raise SettingsError(f"pool_size is {pool_size}; it is at least 2")
        self._url = _parse(url)
        self._timeout = timeout
        self._pool_size = pool_size
        self._on_postgresql = self._url.get_backend_name() == tables.POSTGRESQL
        self._insert = postgresql.insert if self._on_postgresql else sqlite_dialect.insert
        self._directory: TemporaryDirectory[str] | None = None
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._updates = asyncio.Semaphore(pool_size // 2)
        self._in_use = 0
        self._returning: set[asyncio.Future[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"SqlDatabase({self._name!r})"

    def __del__(self) -> None:
        if self._engine is not None:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=1)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and create the tables that are missing; harmless when already open."""
        if self._engine is not None:
            return
        self._engine = self._create_engine()
        try:
            if not self._on_postgresql:
                with self._explained("be opened"):
                    await _finished(asyncio.to_thread(_prepare_file, self._engine, self._timeout))
            async with self._writing() as connection:
                if self._on_postgresql:
                    lock = select(func.pg_advisory_xact_lock(_CREATING))
                    await self._execute(connection, "lock its tables", lock)
                with self._explained("create its tables"):
                    await _finished(connection.run_sync(tables.metadata.create_all))
                    await _finished(connection.commit())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let running calls end, for at most `timeout` seconds, then close every connection."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._idle.wait()
        finally:
            await _finished(engine.dispose())
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    async def ping(self) -> None:
        # A constant would be answered without a look at the file.
        await self._rows("answer", select(accounts.c.id).limit(1))

    # --- reads -----------------------------------------------------------------------------

    async def accounts(self, ids: Sequence[int]) -> dict[int, Account]:
        found: dict[int, Account] = {}
        for some in _batches(filter(_fits, ids)):
            query = tables.select_accounts.where(accounts.c.id.in_(some))
            rows = await self._rows("read accounts", query)
            for (id_, number, balance), group in groupby(rows, key=lambda row: row[:3]):
                held = [row[3:] for row in group if row[3] is not None]
                margins, profits = [margin for margin, _ in held], [profit for _, profit in held]
                found[id_] = summarize(id_, number, balance, margins, profits)
        return found

    async def positions(self, account_ids: Sequence[int]) -> dict[int, tuple[Position, ...]]:
        found: dict[int, tuple[Position, ...]] = {}
        for some in _batches(filter(_fits, account_ids)):
            query = tables.select_positions.where(accounts.c.id.in_(some))
            rows = await self._rows("read positions", query)
            for account_id, group in groupby(rows, key=lambda row: row[0]):
                found[account_id] = tuple(Position(*row[1:]) for row in group if row[1] is not None)
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
        if not _fits(account_id) or limit <= 0:
            return []
        given = {"account": account_id, "limit": limit}
        rows = await self._rows("read executions", tables.select_executions, given)
        return [Execution(*row) for row in reversed(rows)]

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
        async with self._writing() as connection:
            try:
                ids = (await self._execute(connection, "add accounts", statement, values)).scalars()
            except DatabaseUnavailable as error:
                if isinstance(error.__cause__, IntegrityError):
                    raise Duplicate(
                        "an account number is taken already; give each account its own"
                    ) from error.__cause__
                raise
            with self._explained("store the accounts"):
                await _finished(connection.commit())
        return list(ids)

    async def add_symbols(self, specs: Iterable[SymbolSpec]) -> None:
        """Store symbol specs, all or none, in place of those of the same names."""
        values = [msgspec.structs.asdict(spec) for spec in specs]
        for value in values:
            if not _storable(value["symbol"]):
                raise ValueError(
                    f"symbol {value['symbol']!r} has characters that are not printable"
                )
        if not values:
            return
        insert = self._insert(symbols)
        statement = insert.on_conflict_do_update(
            index_elements=[symbols.c.symbol],
            set_={c.name: insert.excluded[c.name] for c in symbols.c if not c.primary_key},
        )
        async with self._writing() as connection:
            await self._execute(connection, "add symbols", statement, values)
            with self._explained("store the symbols"):
                await _finished(connection.commit())

    @asynccontextmanager
    async def update_account(self, account_id: int) -> AsyncIterator[AccountUpdate]:
        missing = NotFound(f"there is no account {account_id} in the database; create it first")
        if not _fits(account_id):
            raise missing
        async with self._writing(account_id) as connection:
            lock = select(accounts).where(accounts.c.id == account_id).with_for_update()
            row = (await self._execute(connection, "lock an account", lock)).one_or_none()
            if row is None:
                raise missing
            # Not joined to the lock: on PostgreSQL a statement that has waited for a row still
            # sees the other tables as they were before the wait.
            given = {"account": account_id}
            held = await self._execute(connection, "read positions", tables.select_held, given)
            update = _Update(self, connection, row, held)
            yield update
            await _finished(update._commit())

    # --- connections -----------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._url.set(query={}).render_as_string(hide_password=True)

    def _create_engine(self) -> AsyncEngine:
        url, seconds = self._url, self._timeout
        arguments: dict[str, float] = {"timeout": seconds}
        if self._on_postgresql:
            arguments["command_timeout"] = seconds
        elif url.database in (None, "", ":memory:"):
            # One connection is all that SQLite gives a database in memory, so that a reader would
            # see, and end, the transaction of the writer. A file of our own has none of that.
            self._directory = TemporaryDirectory(prefix="rtx-database-")
            url = url.set(database=f"{self._directory.name}/rtx.db")
        try:
            engine = create_async_engine(
                url,
                connect_args=arguments,
                isolation_level="AUTOCOMMIT",
                pool_size=self._pool_size,
                max_overflow=0,
                pool_timeout=seconds,
                pool_pre_ping=self._on_postgresql,
                hide_parameters=True,
            )
        except (SQLAlchemyError, TypeError):
            raise SettingsError(
                f"the database URL {self._name} has an option that is not understood"
            ) from None
        event.listen(engine.sync_engine, "begin", _begin)
        return engine

    @asynccontextmanager
    async def _connected(self, *, updating: bool = False) -> AsyncIterator[AsyncConnection]:
        engine = self._engine
        if engine is None:
            raise DatabaseUnavailable(f"the database {self._name} is not open; open it first")
        options: dict[str, Any] = {_UPDATING: updating}
        if updating and self._on_postgresql:
            options["isolation_level"] = "READ COMMITTED"
        self._in_use += 1
        self._idle.clear()
        # A task of its own: cancelled while it connects, a driver leaves a thread or socket behind.
        starting = asyncio.ensure_future(engine.execution_options(**options).connect().start())
        try:
            try:
                connection = await asyncio.shield(starting)
            except TypeError:
                raise SettingsError(
                    f"the database URL {self._name} has an option that its driver does not know"
                ) from None
            except Exception as error:
                raise self._unavailable("be reached", error) from error
            yield connection
        finally:
            returning = asyncio.ensure_future(self._give_back(starting, engine))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
            if starting.done():
                await _finished(returning)

    async def _give_back(self, starting: Awaitable[AsyncConnection], engine: AsyncEngine) -> None:
        """Roll back what is not committed, and close the connection if its pool is gone."""
        try:
            connection = await starting
            if self._engine is not engine:
                await connection.invalidate()
            await connection.close()
        except Exception:
            # The pool has dropped the connection; what failed before is the caller's news.
            pass
        finally:
            self._in_use -= 1
            if not self._in_use:
                self._idle.set()

    @asynccontextmanager
    async def _writing(self, account_id: int | None = None) -> AsyncIterator[AsyncConnection]:
        # SQLite has one writer at a time, PostgreSQL one for each account.
        turn = account_id if self._on_postgresql else 0
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._timeout):
                    if turn is not None:
                        lock = self._turns.setdefault(turn, asyncio.Lock())
                        await stack.enter_async_context(lock)
                    await stack.enter_async_context(self._updates)
            except TimeoutError:
                raise DatabaseUnavailable(
                    f"other updates of {self._name} did not end within {self._timeout:g} s; keep "
                    "updates short, and do not update an account inside its own update"
                ) from None
            yield await stack.enter_async_context(self._connected(updating=True))

    async def _rows(
        self, what: str, query: Executable, given: dict[str, int] | None = None
    ) -> list[Sequence[Any]]:
        async with self._connected() as connection:
            return list((await self._execute(connection, what, query, given)).all())

    async def _execute(
        self, connection: AsyncConnection, what: str, statement: Executable, given: Any = None
    ) -> CursorResult[Any]:
        with self._explained(what):
            running = connection.execute(statement, given)
            # Cut off, a statement of SQLite would keep its locks until its cursor is collected,
            # even beyond the connection.
            return await (running if self._on_postgresql else _finished(running))

    @contextmanager
    def _explained(self, what: str, remedy: str = "") -> Iterator[None]:
        """Turn what the driver raises, and nothing else, into `DatabaseUnavailable`."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._unavailable(what, error, remedy) from error

    def _unavailable(
        self, what: str, error: BaseException, remedy: str = ""
    ) -> DatabaseUnavailable:
        while isinstance(error.__cause__, Exception):
            error = error.__cause__
        nothing = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        reason = next(iter(str(error).splitlines()), "") or nothing
        remedies = (remedy for sign, remedy in _REMEDIES if sign in reason)
        usual = "check the disk" if not self._on_postgresql else "check that PostgreSQL is running"
        return DatabaseUnavailable(
            f"the database {self._name} could not {what}: {reason}; "
            f"{remedy or next(remedies, usual)}"
        )


class _Update:
    """An `AccountUpdate` on one SQL transaction."""

    def __init__(
        self,
        database: SqlDatabase,
        connection: AsyncConnection,
        row: Any,
        held: Iterable[Any],
    ) -> None:
        self._database = database
        self._connection = connection
        self._id: int = row.id
        self._account_number: str = row.account_number
        self._balance: Decimal = row.balance
        self._held = {row.id: (Position(*row[1:]), row.margin) for row in held}
        self._positions = tuple(position for position, _ in self._held.values())
        self._failure: BaseException | None = None

    @property
    def id(self) -> int:
        return self._id

    @property
    def account_number(self) -> str:
        return self._account_number

    @property
    def balance(self) -> Decimal:
        return self._balance

    @balance.setter
    def balance(self, value: Decimal) -> None:
        self._balance = check_money("balance", value)

    @property
    def positions(self) -> tuple[Position, ...]:
        return self._positions

    @property
    def margin(self) -> Decimal:
        return total(margin for _, margin in self._held.values())

    async def open_position(
        self, symbol: str, side: Side, volume: float, price: float, margin: Decimal
    ) -> Position:
        check_positive("volume", volume)
        check_positive("price", price)
        position = Position(0, symbol, check_side(side), volume, price, price, Decimal(0))
        values = msgspec.structs.asdict(position) | {
            "account_id": self._id,
            "margin": check_margin(margin),
            "opened_at": now_ms(),
        }
        del values["id"]
        statement = positions.insert().values(values).returning(positions.c.id)
        stored: int = (await self._run("open a position", statement)).scalar_one()
        position = msgspec.structs.replace(position, id=stored)
        self._held[stored] = (position, margin)
        return position

    async def close_position(self, position_id: int) -> None:
        self._open(position_id)
        await self._run("close a position", positions.delete().where(positions.c.id == position_id))
        del self._held[position_id]

    async def resize_position(
        self, position_id: int, volume: float, open_price: float, margin: Decimal
    ) -> Position:
        position, _ = self._open(position_id)
        changes = {
            "volume": check_positive("volume", volume),
            "open_price": check_positive("open_price", open_price),
        }
        await self._change(position_id, margin=check_margin(margin), **changes)
        position = msgspec.structs.replace(position, **changes)
        self._held[position_id] = (position, margin)
        return position

    async def mark_position(
        self, position_id: int, current_price: float, unrealized_pnl: Decimal
    ) -> None:
        position, margin = self._open(position_id)
        changes = {
            "current_price": check_positive("current_price", current_price),
            "unrealized_pnl": check_money("unrealized_pnl", unrealized_pnl),
        }
        await self._change(position_id, **changes)
        self._held[position_id] = (msgspec.structs.replace(position, **changes), margin)

    async def record_execution(self, execution: Execution) -> Execution:
        given = execution.order_id
        if given < 0 or not _fits(given):
            raise ValueError(f"order_id is {given}; it is positive, or 0 for a new one")
        check_side(execution.side)
        values = {c.name: getattr(execution, c.name) for c in _EXECUTION}
        highest = select(func.coalesce(func.max(executions.c.order_id), 0)).scalar_subquery()
        if not given:
            in_order = self._database._on_postgresql
            values["order_id"] = tables.order_ids.next_value() if in_order else highest + 1
        insert = self._database._insert(executions).values(account_id=self._id, **values)
        statement = insert.on_conflict_do_nothing(index_elements=[executions.c.order_id]).returning(
            executions.c.order_id
        )
        while True:
            stored = (await self._run("record an execution", statement)).scalar()
            if stored is not None:
                return msgspec.structs.replace(execution, order_id=stored)
            if given:
                raise Duplicate(
                    f"order {given} is recorded already; do not fill it twice, or give it order_id "
                    "0 for a new id"
                )
            # Ids that came from elsewhere are ahead of the sequence.
            skip = select(func.setval(tables.order_ids.name, highest))
            await self._run("draw an order id", skip)

    def _open(self, position_id: int) -> tuple[Position, Decimal]:
        try:
            return self._held[position_id]
        except KeyError:
            raise NotFound(
                f"account {self._id} has no open position {position_id}; it may have been closed"
            ) from None

    async def _change(self, position_id: int, **values: object) -> None:
        statement = positions.update().where(positions.c.id == position_id).values(**values)
        await self._run("change a position", statement)

    async def _run(self, what: str, statement: Executable) -> CursorResult[Any]:
        try:
            return await self._database._execute(self._connection, what, statement)
        except BaseException as error:
            # The transaction may be half undone by now, so what follows must not be committed.
            self._failure = error
            raise

    async def _commit(self) -> None:
        if self._failure is not None:
            raise DatabaseUnavailable(
                f"nothing of the update of account {self._id} was stored, because a part of it "
                "failed; do the whole update again"
            ) from self._failure
        values = {"balance": self._balance, "version": accounts.c.version + 1}
        await self._run(
            "store the balance", accounts.update().where(accounts.c.id == self._id).values(**values)
        )
        remedy = "it may be stored all the same: read the account before trying again"
        with self._database._explained("confirm the update", remedy):
            await self._connection.commit()


_EXECUTION = tables.columns_of(executions, Execution)


def _parse(url: str) -> URL:
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


def _prepare_file(engine: AsyncEngine, timeout: float) -> None:
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


def _begin(connection: Connection) -> None:
    """Take SQLite's write lock at the start, for a reader that turns writer can only fail."""
    if connection.dialect.name != "sqlite":
        return
    if connection.get_execution_options().get(_UPDATING):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _finished(work: Awaitable[T]) -> T:
    """Wait for the work's end even if cancelled meanwhile; the cancellation is raised after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()


def _fits(number: int) -> bool:
    """Whether an id can exist at all; the drivers refuse to look for one that cannot."""
    return -(2**63) <= number < 2**63


def _storable(name: str) -> bool:
    """Whether a symbol can be called so; PostgreSQL refuses to look for some other texts."""
    return name.isprintable()


def _batches(wanted: Iterable[T]) -> Iterator[list[T]]:
    items = list(dict.fromkeys(wanted))
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
