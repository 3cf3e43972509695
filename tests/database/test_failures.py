"""A database that cannot answer: typed errors, causes, remedies, and no password in sight."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sqlite3
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pytest

from rtx.database import SqlDatabase
from rtx.errors import DatabaseUnavailable, MissingExtra


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "rtx.db"
    path.write_bytes(b"certainly not a database" * 1000)
    with pytest.raises(DatabaseUnavailable, match=r"not a database; .*restore it") as caught:
        await SqlDatabase(url_of(path)).open()
    assert isinstance(caught.value.__cause__, Exception)
    assert caught.value.retryable


async def test_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "rtx.db"):
        with pytest.raises(DatabaseUnavailable, match="check that its directory exists"):
            await SqlDatabase(url_of(path)).open()


async def test_file_damaged_while_open_is_unavailable_for_every_call(tmp_path: Path) -> None:
    path = tmp_path / "rtx.db"
    async with SqlDatabase(url_of(path)) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(1))])
    async with SqlDatabase(url_of(path)) as database:
        path.write_bytes(b"\xa5" * path.stat().st_size)
        for call in (
            database.ping(),
            database.accounts([account_id]),
            database.positions([account_id]),
            database.symbols(),
            database.executions(account_id),
            database.account_ids(),
            database.add_accounts([("B", Decimal(1))]),
            database.update_account(account_id).__aenter__(),
        ):
            with pytest.raises(DatabaseUnavailable) as caught:
                await call
            assert caught.value.__cause__ is not None


async def test_file_locked_by_another_program_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "rtx.db"
    async with SqlDatabase(url_of(path)) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(0))])
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(0.2, other.execute, ["COMMIT"])
            release.start()
            async with database.update_account(account_id) as account:
                account.balance = Decimal(1)
            release.join()
        finally:
            other.close()
        assert (await database.accounts([account_id]))[account_id].balance == 1


async def test_file_locked_for_too_long_is_unavailable_but_still_read(tmp_path: Path) -> None:
    path = tmp_path / "rtx.db"
    async with SqlDatabase(url_of(path), timeout=0.1) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(0))])
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseUnavailable, match=r"locked; another process"):
                async with database.update_account(account_id):
                    pytest.fail("entered")
            assert await database.positions([account_id]) == {account_id: ()}
        finally:
            other.close()


def _deposit(url: str, account_id: int, times: int) -> None:
    async def deposit() -> None:
        async with SqlDatabase(url, timeout=20.0) as database:
            for _ in range(times):
                async with database.update_account(account_id) as account:
                    account.balance += Decimal("1.00")

    asyncio.run(deposit())


async def test_updates_of_several_processes_lose_no_cent(tmp_path: Path) -> None:
    url = url_of(tmp_path / "rtx.db")
    async with SqlDatabase(url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal("0.00"))])
        spawn = multiprocessing.get_context("spawn")
        writers = [spawn.Process(target=_deposit, args=(url, account_id, 10)) for _ in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            await asyncio.to_thread(writer.join)
        assert [writer.exitcode for writer in writers] == [0, 0]
        balance = (await database.accounts([account_id]))[account_id].balance
        assert balance == Decimal("20.00")


async def test_refused_port_is_unavailable_and_names_the_server_without_the_password() -> None:
    with socket.socket() as held:  # bound but not listening, so that connecting is refused
        held.bind(("127.0.0.1", 0))
        url = f"postgresql+asyncpg://trader:hush-hush@127.0.0.1:{held.getsockname()[1]}/rtx"
        database = SqlDatabase(url)
        with pytest.raises(DatabaseUnavailable, match="check that PostgreSQL is running") as caught:
            await database.open()
    assert "trader:***@127.0.0.1" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hush" not in str(error)
        error = error.__cause__ or error.__context__


async def test_server_that_never_answers_is_unavailable_after_the_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql+asyncpg://u:p@127.0.0.1:{silent.getsockname()[1]}/rtx"
        async with asyncio.timeout(10):
            with pytest.raises(DatabaseUnavailable, match="no answer in time"):
                await SqlDatabase(url, timeout=0.2).open()


def test_contract_is_importable_without_the_database_packages() -> None:
    program = (
        "import sys\n"
        "for name in ('sqlalchemy', 'aiosqlite', 'asyncpg', 'greenlet'): sys.modules[name] = None\n"
        "import rtx.database\n"
        "from rtx.errors import MissingExtra\n"
        "assert rtx.database.Database and rtx.database.AccountUpdate\n"
        "try: rtx.database.SqlDatabase\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "sqlalchemy is not installed" in done.stdout
    assert "rtx-datalayer[database]" in done.stdout


def test_missing_driver_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, driver in (("sqlite://", "aiosqlite"), ("postgresql://h/d", "asyncpg")):
        monkeypatch.setitem(sys.modules, driver, None)
        with pytest.raises(MissingExtra, match=rf"{driver} is not installed"):
            SqlDatabase(url)


async def test_database_collected_unclosed_warns() -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    await database.open()
    with pytest.warns(ResourceWarning, match="never closed"):
        database.__del__()
    await database.close()


def test_unknown_name_in_the_package_is_an_attribute_error() -> None:
    import rtx.database

    with pytest.raises(AttributeError, match="Nothing"):
        _ = rtx.database.Nothing  # type: ignore[attr-defined]


async def test_private_database_leaves_nothing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def left() -> list[Path]:
        return list(tmp_path.iterdir())

    database = SqlDatabase("sqlite+aiosqlite:///:memory:")
    async with database:
        await database.add_accounts([("A", Decimal(1))])
        assert left()
    assert not left()
    async with database:
        assert await database.account_ids() == []
