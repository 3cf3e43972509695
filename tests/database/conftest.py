"""The databases that the tests run on: SQLite in a file, SQLite private, PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from rtx.database import SqlDatabase
from tests.database.postgres import NotHere, PostgresServer

PRIVATE = "sqlite+aiosqlite://"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests of this worker."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    except NotHere as error:
        pytest.skip(f"PostgreSQL is not here: {error}")
    finally:
        server.stop()


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of an empty database on PostgreSQL."""
    async with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite-file", "sqlite-private", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    return _url(request, tmp_path)


@pytest.fixture(params=["sqlite-file", "postgresql"])
def kept_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database that more than one process can open."""
    return _url(request, tmp_path)


def _url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite-file":
        return f"sqlite+aiosqlite:///{tmp_path}/rtx.db"
    if request.param == "sqlite-private":
        return PRIVATE
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def database(url: str) -> AsyncIterator[SqlDatabase]:
    async with SqlDatabase(url) as database:
        yield database


@pytest.fixture
async def account_id(database: SqlDatabase) -> int:
    (new,) = await database.add_accounts([("RTX-000001", Decimal("10000.00"))])
    return new
