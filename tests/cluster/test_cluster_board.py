"""The price board on a cluster, whose symbols are spread over the nodes."""

from __future__ import annotations

import pytest

import rtx
from rtx.errors import NotInCluster
from rtx.setting_groups import TTLSettings
from rtx.settings import Settings
from tests.conftest import eventually

SYMBOLS = [f"SYM{number:02d}" for number in range(40)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Prices that stay fresh for the length of a test."""
    return settings.model_copy(update={"ttl": TTLSettings(price=60.0)})


async def test_named_symbols_of_all_nodes_are_on_the_board(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    await other.prices.put_many(rtx.Price(name, bid=1.0, ask=2.0) for name in SYMBOLS[:20])
    layer.board.follow(*SYMBOLS)
    await layer.board.ready()
    assert list(layer.board.get_many(SYMBOLS)) == SYMBOLS[:20]
    await other.market_data.publish_many(rtx.Tick(name, bid=1.5, ask=2.0) for name in SYMBOLS)

    def all_there() -> bool:
        prices = layer.board.get_many(SYMBOLS)
        return len(prices) == 40 and all(price.bid == 1.5 for price in prices.values())

    await eventually(all_there)


async def test_all_symbols_at_once_are_refused_and_nothing_else_is_hurt(
    layer: rtx.DataLayer,
) -> None:
    layer.board.follow("EURUSD")
    with pytest.raises(NotInCluster, match="name the symbols"):
        layer.board.follow("*", "GBPUSD")
    layer.board.follow("GBPUSD")
    await layer.board.ready()
    await layer.market_data.publish(rtx.Tick("GBPUSD", bid=1.0, ask=2.0))
    await eventually(lambda: layer.board.get("GBPUSD"))
