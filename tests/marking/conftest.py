"""A layer over a database file, whose accounts can be traded and whose prices can be set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

import rtx
from rtx.database.sql import SqlDatabase
from rtx.feeds import INSTRUMENTS
from rtx.models import Side
from rtx.setting_groups import MarketDataSettings, TTLSettings
from rtx.settings import Settings


@dataclass
class Book:
    """An account of 10,000 in the database, and the layer in front of it."""

    layer: rtx.DataLayer
    database: SqlDatabase
    account: int
    url: str

    async def quote(self, symbol: str, bid: float, ask: float) -> None:
        await self.layer.market_data.publish(rtx.Tick(symbol, bid=bid, ask=ask))

    async def open(
        self, symbol: str, side: Side, volume: float, price: float, margin: str = "100.00"
    ) -> rtx.Position:
        async with self.layer.accounts.update(self.account) as row:
            return await row.open_position(symbol, side, volume, price, Decimal(margin))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Late ticks are published, so that the board has to cope with them."""
    late = MarketDataSettings(in_order="off")
    return settings.model_copy(update={"market_data": late})


@pytest.fixture
def lasting(settings: Settings) -> Settings:
    """Prices that stay fresh for the length of a test."""
    return settings.model_copy(update={"ttl": TTLSettings(price=60.0)})


@pytest.fixture
async def book(lasting: Settings, tmp_path: Path) -> AsyncIterator[Book]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'book.sqlite3'}"
    database = SqlDatabase(url)
    async with rtx.open(lasting, database=database) as layer:
        await database.add_symbols(item.spec for item in INSTRUMENTS.values())
        [account] = await database.add_accounts([("RTX-000001", Decimal("10000.00"))])
        yield Book(layer, database, account, url)
