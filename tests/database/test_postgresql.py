"""What only PostgreSQL can do to us: end connections, lose answers, lock rows."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import make_url

from rtx.database import SqlDatabase
from rtx.errors import DatabaseUnavailable, SettingsError
from tests.database.samples import balance_of


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
    postgres_url: str,
) -> None:
    async with SqlDatabase(postgres_url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(5))])
        await asyncio.gather(*(database.ping() for _ in range(5)))
        await ask(postgres_url, _END_OTHERS)
        assert await balance_of(database, account_id) == 5


async def test_update_whose_connection_is_ended_is_unavailable_and_stores_nothing(
    postgres_url: str,
) -> None:
    async with SqlDatabase(postgres_url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(5))])

        async def update() -> None:
            async with database.update_account(account_id) as account:
                await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
                account.balance = Decimal(1)
                await ask(postgres_url, _END_OTHERS)

        with pytest.raises(DatabaseUnavailable) as caught:
            await update()
        assert caught.value.__cause__ is not None
        assert not caught.value.maybe_applied
        assert await balance_of(database, account_id) == 5
        assert await database.positions([account_id]) == {account_id: ()}


@pytest.mark.parametrize("arrives", [True, False], ids=["answer-lost", "commit-lost"])
async def test_connection_lost_during_the_commit_leaves_open_whether_it_happened(
    postgres_url: str, arrives: bool
) -> None:
    server = make_url(postgres_url)
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
    postgres_url: str,
) -> None:
    import asyncpg

    async with SqlDatabase(postgres_url, timeout=0.5) as database:
        one, two = await database.add_accounts([("A", Decimal(5)), ("B", Decimal(5))])
        other = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
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
    postgres_url: str,
) -> None:
    name = make_url(postgres_url).database
    url = postgres_url.replace(f"/{name}?", "/nowhere?")
    with pytest.raises(DatabaseUnavailable, match=r"nowhere.*correct the database URL"):
        await SqlDatabase(url).open()
    with pytest.raises(SettingsError, match="option"):
        await SqlDatabase(f"{url}&sslmode=require").open()
