"""A layer that evaluates alert rules, and what was published of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import rtx
from rtx.alerts import AlertEngine, AlertRule
from rtx.setting_groups import TTLSettings
from rtx.settings import Settings


def above(id: str = "r", threshold: float = 1.1, **more: object) -> AlertRule:
    """A rule of account 1 on the bid of EURUSD, changed as asked."""
    given: dict[str, object] = {
        "id": id,
        "account_id": 1,
        "kind": "price_above",
        "symbol": "EURUSD",
        "side": "bid",
        "threshold": threshold,
        **more,
    }
    return AlertRule(**given)  # type: ignore[arg-type]


async def quote(layer: rtx.DataLayer, bid: float, *, symbol: str = "EURUSD") -> None:
    await layer.market_data.publish(rtx.Tick(symbol, bid=bid, ask=round(bid + 0.0002, 5)))


async def alerted(layer: rtx.DataLayer, account: int | str = 1) -> list[str]:
    """The ids of the rules that have fired, as the log has them."""
    history = await layer.alerts.history(account, limit=1_000)
    return [alert.rule for alert in history.messages]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Prices stay fresh for the length of a test, however busy the machine is."""
    return settings.model_copy(update={"ttl": TTLSettings(price=60.0)})


@pytest.fixture
async def engine(layer: rtx.DataLayer) -> AsyncIterator[AlertEngine]:
    async with layer.alert_rules.engine() as running:
        yield running
