"""Connections to an SQL database: who may have one, in which turn, and how it is given back.

An update first waits for its turn in this process, in order of arrival and without holding a
connection, and then takes the lock of the database: the account's row on PostgreSQL, the file
(`BEGIN IMMEDIATE`) on SQLite.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import CursorResult, Executable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rtx.database import engine as engines
from rtx.errors import DatabaseUnavailable, SettingsError

T = TypeVar("T")

# Changing the tables of a large database takes longer than any other statement.
_MIGRATION_TIMEOUT = 600.0


class Connections:
    """The connections to the database at a URL; the arguments are those of `SqlDatabase`."""

    def __init__(self, url: str, timeout: float, pool_size: int) -> None:
        if not 0 < timeout < math.inf:
            raise SettingsError(f"timeout is {timeout}; it is a number of seconds above 0")
        if pool_size < 2:
            raise SettingsError(f"pool_size is {pool_size}; it is at least 2")
        self._url = engines.parse_url(url)
        self._pool_size = pool_size
        self.name = engines.name_of(self._url)
        self.timeout = timeout
        self.on_postgresql = engines.on_postgresql(self._url)
        self.insert = postgresql.insert if self.on_postgresql else sqlite.insert
        self._engine: AsyncEngine | None = None
        self._directory: TemporaryDirectory[str] | None = None
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._updates = asyncio.Semaphore(pool_size // 2)
        self._in_use = 0
        self._returning: set[asyncio.Future[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def are_open(self) -> bool:
        """Whether connections are given out."""
        return self._engine is not None

    async def open(self) -> None:
        """Make ready to connect, and have SQLite open its file; if that fails, `close`."""
        file = None
        if engines.is_private(self._url):
            # One connection is all that SQLite gives a database in memory, so that a reader would
            # see, and end, the transaction of the writer. A file of our own has none of that.
            self._directory = TemporaryDirectory(prefix="rtx-database-")
            file = f"{self._directory.name}/rtx.db"
        self._engine = engines.create_engine(
            self._url, file, timeout=self.timeout, pool_size=self._pool_size
        )
        if not self.on_postgresql:
            with self.explained("be opened"):
                await finished(asyncio.to_thread(engines.prepare_file, self._engine, self.timeout))

    async def close(self) -> None:
        """Let those in use be given back, for at most `timeout` seconds, then close them all."""
        engine, self._engine = self._engine, None
        directory, self._directory = self._directory, None
        try:
            if engine is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.timeout):
                        await self._idle.wait()
        finally:
            if engine is not None:
                await finished(engine.dispose())
            if directory is not None:
                directory.cleanup()

    # --- one connection --------------------------------------------------------------------

    @asynccontextmanager
    async def writing(self, account_id: int | None = None) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction, in its turn; what is not committed is rolled back."""
        # SQLite has one writer at a time, PostgreSQL one for each account.
        turn = account_id if self.on_postgresql else 0
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.timeout):
                    if turn is not None:
                        lock = self._turns.setdefault(turn, asyncio.Lock())
                        await stack.enter_async_context(lock)
                    await stack.enter_async_context(self._updates)
            except TimeoutError:
                raise DatabaseUnavailable(
                    f"other updates of {self.name} did not end within {self.timeout:g} s; keep "
                    "updates short, and do not update an account inside its own update"
                ) from None
            yield await stack.enter_async_context(self._connected(updating=True))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which every statement is a transaction of its own."""
        async with self._connected(updating=False) as connection:
            yield connection

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """A connection as from `writing`, whose statements may take ten minutes."""
        if not self.on_postgresql:
            async with self.writing() as connection:
                yield connection
            return
        engine = engines.create_engine(
            self._url,
            None,
            timeout=self.timeout,
            pool_size=1,
            statement_timeout=_MIGRATION_TIMEOUT,
        )
        try:
            async with self._connected(updating=True, engine=engine) as connection:
                yield connection
        finally:
            await finished(engine.dispose())

    @asynccontextmanager
    async def _connected(
        self, *, updating: bool, engine: AsyncEngine | None = None
    ) -> AsyncIterator[AsyncConnection]:
        engine = engine or self._engine
        if engine is None:
            raise DatabaseUnavailable(f"the database {self.name} is not open; open it first")
        options: dict[str, Any] = {engines.UPDATING: updating}
        if updating and self.on_postgresql:
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
                    f"the database URL {self.name} has an option that its driver does not know"
                ) from None
            except Exception as error:
                raise engines.unavailable(self._url, "be reached", error) from error
            yield connection
        finally:
            returning = asyncio.ensure_future(self._give_back(starting, engine))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
            if starting.done():
                await finished(returning)

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

    # --- work on a connection --------------------------------------------------------------

    async def execute(
        self, connection: AsyncConnection, what: str, statement: Executable, given: Any = None
    ) -> CursorResult[Any]:
        """Execute a statement; raise `DatabaseUnavailable`, which says that it could not `what`."""
        with self.explained(what):
            running = connection.execute(statement, given)
            # Cut off, a statement of SQLite would keep its locks until its cursor is collected,
            # even beyond the connection.
            return await (running if self.on_postgresql else finished(running))

    async def commit(self, connection: AsyncConnection, what: str, remedy: str = "") -> None:
        """Commit; raise `DatabaseUnavailable`, after which it may be committed nevertheless.

        To be awaited to its end, with `finished`.
        """
        with self.explained(what, remedy, maybe_applied=True):
            await connection.commit()

    @contextmanager
    def explained(
        self, what: str, remedy: str = "", *, maybe_applied: bool = False
    ) -> Iterator[None]:
        """Turn what the driver raises, and nothing else, into `DatabaseUnavailable`."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise engines.unavailable(
                self._url, what, error, remedy, maybe_applied=maybe_applied
            ) from error


async def finished(work: Awaitable[T]) -> T:
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
