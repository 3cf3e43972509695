"""The tables are created, taken over and brought up to date, whoever opens them and how often."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from rtx.database import SqlDatabase, schema, tables
from rtx.database.sql import _MIGRATING
from rtx.errors import DatabaseUnavailable, MissingExtra, SettingsError
from rtx.models import Execution
from tests.database.conftest import PRIVATE
from tests.database.postgres import PostgresServer

T = TypeVar("T")
FORMER = Path(__file__).parent / "former"


async def inside(url: str, work: Callable[[Connection], T]) -> T:
    """Do some work in a transaction, as another program."""
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


async def run(url: str, *statements: str) -> None:
    def execute(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await inside(url, execute)


async def make_former(url: str) -> None:
    """The tables of release 0.1.0, with an account, a position, a fill and a symbol in them."""
    name = "sqlite" if url.startswith("sqlite") else "postgresql"
    ddl = (FORMER / f"{name}.sql").read_text().split(";\n")
    await run(
        url,
        *(statement for statement in ddl if statement.strip()),
        "INSERT INTO accounts (id, account_number, balance, version) VALUES (1, 'A', '9.90', 7)",
        "INSERT INTO accounts (id, account_number, balance, version) VALUES (2, 'B', '0.00', 0)",
        "INSERT INTO positions (account_id, symbol, side, volume, open_price, current_price,"
        " unrealized_pnl, margin, opened_at) VALUES (1, 'EURUSD', 'BUY', 1, 1.1, 1.2, '0.10',"
        " '2.00', 5)",
        "INSERT INTO executions (account_id, order_id, position_id, symbol, side, volume, price,"
        " timestamp) VALUES (1, 40, 1, 'EURUSD', 'BUY', 1, 1.1, 5)",
        "INSERT INTO symbols VALUES ('EURUSD', 'Euro', 'EUR', 'USD', 5, 100000, 0.01, 0.01, 100,"
        " 0.01)",
    )


def description(connection: Connection) -> object:
    """All that the database itself says of our tables, its checks and defaults included."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(
            text("SELECT type, tbl_name, sql FROM sqlite_master WHERE tbl_name <> :versions"),
            {"versions": schema.VERSION_TABLE},
        )
        return sorted((*row[:2], " ".join((row[2] or "").split())) for row in rows)
    found: list[Any] = []
    for query in (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT table_name, column_name, data_type, is_nullable, column_default,"
        " ordinal_position::text FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT sequencename, data_type::text, start_value::text FROM pg_sequences"
        " WHERE schemaname = 'public'",
    ):
        rows = connection.execute(text(query))
        found += sorted(tuple(row) for row in rows if schema.VERSION_TABLE not in str(row[0]))
    return found


def differences(connection: Connection) -> list[Any]:
    options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, tables.metadata))


@pytest.mark.parametrize("before", ["empty", "former"])
async def test_the_tables_after_all_steps_are_those_of_the_code(
    kept_url: str, before: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    if before == "former":
        await make_former(kept_url)
    async with SqlDatabase(kept_url):
        pass
    assert await inside(kept_url, differences) == []
    assert await inside(kept_url, schema.revision) == schema.HEAD
    found = await inside(kept_url, description)

    if kept_url.startswith("sqlite"):
        plain = f"sqlite+aiosqlite:///{tmp_path}/plain.db"
        await inside(plain, tables.metadata.create_all)
        assert found == await inside(plain, description)
    else:
        async with postgres_server.database() as plain:
            await inside(plain, tables.metadata.create_all)
            assert found == await inside(plain, description)


def test_the_version_that_the_code_wants_is_the_last_step() -> None:
    scripts = ScriptDirectory(str(schema._MIGRATIONS))
    assert scripts.get_current_head() == schema.HEAD
    assert len(scripts.get_heads()) == 1


async def test_tables_of_the_former_release_are_taken_over_with_their_data(kept_url: str) -> None:
    await make_former(kept_url)
    for _ in range(2):
        async with SqlDatabase(kept_url) as database:
            accounts = await database.versioned_accounts([1, 2])
            assert accounts[1].version == 7
            assert accounts[1].value.equity == Decimal("10.00")
            assert accounts[2].version == 1, "0 says that there is no version"
            (position,) = (await database.positions([1]))[1]
            assert position.unrealized_pnl == Decimal("0.10")
            (fill,) = await database.executions(1)
            assert fill.order_id == 40
            assert list(await database.symbols()) == ["EURUSD"]
            assert await database.owed(10) == []
    async with SqlDatabase(kept_url) as database:
        async with database.update_account(1) as account:
            assert account.version == 8
            opened = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
        assert opened.id > position.id


async def test_tables_that_are_up_to_date_are_opened_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/rtx.db"
    program = (
        "import asyncio, sys, time\n"
        "from rtx.database import SqlDatabase\n"
        "async def main():\n"
        "    started = time.perf_counter()\n"
        f"    async with SqlDatabase({url!r}): pass\n"
        "    print(f'{time.perf_counter() - started:.3f} s', 'alembic' in sys.modules)\n"
        "asyncio.run(main())\n"
    )

    async def opened() -> tuple[str, bool]:
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, check=True
        )
        *seconds, used = done.stdout.decode().split()
        return " ".join(seconds), used == "True"

    first, second = await opened(), await opened()
    print(f"open and close: {first[0]} the first time, {second[0]} the second")
    assert first[1]
    assert not second[1]


async def test_a_missing_alembic_is_a_missing_extra_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/rtx.db"
    async with SqlDatabase(url):
        pass
    for name in [name for name in sys.modules if name.startswith("alembic")]:
        monkeypatch.setitem(sys.modules, name, None)
    async with SqlDatabase(url):
        pass
    with pytest.raises(MissingExtra, match=r"rtx-datalayer\[database\]"):
        await SqlDatabase(f"sqlite+aiosqlite:///{tmp_path}/other.db").open()


async def test_tables_of_a_later_release_are_refused(kept_url: str) -> None:
    async with SqlDatabase(kept_url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(1))])
    await run(kept_url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"version 9999.*upgrade rtx-datalayer"):
        await SqlDatabase(kept_url).open()
    await run(kept_url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '{schema.HEAD}'")
    async with SqlDatabase(kept_url) as database:
        assert list(await database.accounts([account_id])) == [account_id]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE accounts (id INTEGER, owner TEXT)",
        "CREATE TABLE outbox (message TEXT)",
        "CREATE TABLE symbols (symbol TEXT)",
    ],
)
async def test_tables_of_somebody_else_are_refused_and_left_alone(
    kept_url: str, statement: str
) -> None:
    await run(kept_url, statement)
    with pytest.raises(SettingsError, match="that RTX did not make"):
        await SqlDatabase(kept_url).open()
    names = await inside(kept_url, lambda connection: inspect(connection).get_table_names())
    assert names == [statement.split()[2]]


async def test_other_tables_beside_ours_are_left_alone(kept_url: str) -> None:
    """Another program may keep its own, and their versions by Alembic too."""
    await run(
        kept_url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('theirs')",
        "CREATE TABLE orders (id INTEGER)",
    )
    async with SqlDatabase(kept_url) as database:
        await database.ping()
    theirs = await inside(
        kept_url, lambda connection: connection.scalar(text("SELECT * FROM alembic_version"))
    )
    assert theirs == "theirs"


async def test_a_step_that_fails_changes_nothing(
    kept_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_former(kept_url)
    before = await inside(kept_url, description)
    execute = Operations.execute

    def fail(operations: Operations, statement: Any, **options: Any) -> None:
        if "UPDATE accounts" in str(statement):
            statement = text("UPDATE no_such_table SET version = 1")
        execute(operations, statement, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "execute", fail)
        with pytest.raises(DatabaseUnavailable, match="create its tables"):
            await SqlDatabase(kept_url).open()
    assert await inside(kept_url, description) == before
    assert await inside(kept_url, schema.revision) is None
    async with SqlDatabase(kept_url) as database:
        assert set(await database.accounts([1, 2])) == {1, 2}


def _open(url: str) -> None:
    async def opened() -> None:
        async with SqlDatabase(url, timeout=30.0) as database:
            await database.ping()

    asyncio.run(opened())


async def test_several_processes_take_over_at_once(kept_url: str) -> None:
    await make_former(kept_url)
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_open, args=(kept_url,)) for _ in range(2)]
    for other in others:
        other.start()
    databases = [SqlDatabase(kept_url, timeout=30.0) for _ in range(4)]
    try:
        await asyncio.gather(*(database.open() for database in databases))
        for other in others:
            await asyncio.to_thread(other.join)
        assert [other.exitcode for other in others] == [0, 0]
        assert (await databases[0].versioned_accounts([2]))[2].version == 1
    finally:
        await asyncio.gather(*(database.close() for database in databases))
    assert await inside(kept_url, differences) == []


async def test_private_databases_opened_at_once_do_not_mix() -> None:
    databases = [SqlDatabase(PRIVATE) for _ in range(5)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        assert await database.add_accounts([("A", Decimal(1))]) == [1]
        await database.close()


async def test_a_migration_elsewhere_is_waited_for_no_longer_than_the_timeout(
    postgres_url: str,
) -> None:
    import asyncpg

    other = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    try:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING)
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable, match="try again when that is done"):
                await SqlDatabase(postgres_url, timeout=0.3).open()
            print(f"given up after {time.monotonic() - started:.3f} s")
    finally:
        await other.close()
    async with SqlDatabase(postgres_url) as database:
        await database.ping()


async def test_a_user_who_may_not_create_tables_opens_those_that_are_up_to_date(
    postgres_server: PostgresServer,
) -> None:
    async with postgres_server.database() as url:
        name = make_url(url).database or ""
        await postgres_server.run("DROP ROLE IF EXISTS clerk", "CREATE ROLE clerk LOGIN")
        clerk = url.replace("postgres@", "clerk@")
        with pytest.raises(DatabaseUnavailable, match=r"permission denied.*grant this user"):
            await SqlDatabase(clerk).open()
        async with SqlDatabase(url) as owner:
            (account_id,) = await owner.add_accounts([("A", Decimal(1))])
        await postgres_server.run(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk",
            "GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA public TO clerk",
            name=name,
        )
        async with SqlDatabase(clerk) as database:
            async with database.update_account(account_id) as account:
                await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
                await account.record_execution(Execution(1, 1, "EURUSD", "BUY", 1.0, 1.1))
                await account.record_execution(Execution(0, 1, "EURUSD", "BUY", 1.0, 1.1))
            await database.settled([account.outbox_id])
        await postgres_server.run("DROP OWNED BY clerk", name=name)
    await postgres_server.run("DROP ROLE clerk")
