"""A broker over a real layer, a real server and a database file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

import rtx
from rtx.database.sql import SqlDatabase
from rtx.demo.announcer import Announcer
from rtx.demo.broker import PaperBroker
from rtx.feeds import INSTRUMENTS
from rtx.settings import Settings
from rtx.topology.process import ServerProcess


@dataclass
class Desk:
    """The parts that a broker's test looks at."""

    layer: rtx.DataLayer
    database: SqlDatabase
    broker: PaperBroker
    announcer: Announcer
    account: int

    async def quote(self, symbol: str, bid: float, ask: float) -> None:
        await self.layer.market_data.publish(rtx.Tick(symbol, bid=bid, ask=ask))


@pytest.fixture
async def desk(own_server: ServerProcess, tmp_path: Path) -> AsyncIterator[Desk]:
    # Prices stay fresh for the length of a test; that they go stale is tested where it matters.
    settings = Settings.load(url=own_server.url, ttl={"price": 30.0})
    database = SqlDatabase(f"sqlite+aiosqlite:///{tmp_path / 'desk.sqlite3'}")
    async with rtx.open(settings, database=database) as layer:
        await database.add_symbols(item.spec for item in INSTRUMENTS.values())
        [account] = await database.add_accounts([("RTX-000001", Decimal("10000.00"))])
        announcer = Announcer(layer)
        yield Desk(layer, database, PaperBroker(layer, announcer), announcer, account)
