"""The gateway's `market_data:*` in a cluster, which has no patterns: all known symbols."""

from __future__ import annotations

import asyncio
import json

import rtx
from rtx.database.sql import SqlDatabase
from rtx.gateway.symbols import KnownSymbols
from rtx.gateway.ticks import TickHub
from rtx.models import SymbolSpec, Tick
from tests.conftest import eventually


class Client:
    """Takes what the hub sends, as an outbox does."""

    def __init__(self) -> None:
        self.all_symbols = False
        self.texts: list[str] = []

    def put(self, text: str) -> None:
        self.texts.append(text)

    def offer(self, batch: object) -> None:
        self.texts.extend(batch.texts)  # type: ignore[attr-defined]

    def prices(self, symbol: str) -> list[float]:
        messages = map(json.loads, self.texts)
        return [each["bid"] for each in messages if each.get("symbol") == symbol]


async def test_all_symbols_of_the_database_are_followed(
    settings: rtx.Settings, other: rtx.DataLayer
) -> None:
    symbols = ["EURUSD", "GBPUSD", "BTCUSD", "XAUUSD"]
    async with rtx.open(settings, database=SqlDatabase("sqlite+aiosqlite://")) as layer:
        assert isinstance(layer.database, SqlDatabase)
        await layer.database.add_symbols(
            [SymbolSpec(name, name, name[:3], "USD", 5, 100_000.0, 0.01) for name in symbols]
        )
        hub = TickHub(layer, KnownSymbols(layer))
        client = Client()
        try:
            hub.join("*", client)  # type: ignore[arg-type]
            await eventually(lambda: any("subscribed" in text for text in client.texts))
            for number in (1, 2, 3):
                await other.market_data.publish_many(
                    [Tick(name, bid=float(number), ask=number + 1.0) for name in symbols]
                )
            await eventually(
                lambda: all(client.prices(name)[-3:] == [1.0, 2.0, 3.0] for name in symbols)
            )
        finally:
            await hub.close()
        await asyncio.sleep(0)
