"""An order through every part of the layer."""

from __future__ import annotations

from decimal import Decimal

import pytest

import rtx
from rtx.demo.announcer import Announcer
from rtx.demo.risk import RiskWatch
from rtx.gateway.orders import MarketOrder, OrderRejected
from rtx.models import Side
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.demo.conftest import Desk


async def rejected(desk: Desk, symbol: str, side: Side, volume: float) -> OrderRejected:
    with pytest.raises(OrderRejected) as caught:
        await desk.broker.place(desk.account, MarketOrder(symbol, side, volume))
    return caught.value


async def test_a_purchase_fills_at_the_ask_and_is_published_and_cached(desk: Desk) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1002)
    async with desk.layer.executions.subscribe(desk.account) as fills:
        await fills.ready()
        fill = await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 0.5))
        assert await anext(fills) == fill
    assert (fill.price, fill.volume, fill.seq) == (1.1002, 0.5, 1)
    assert fill.order_id > 0
    positions = await desk.layer.positions.get(desk.account)
    assert positions is not None
    assert [(item.id, item.side, item.volume) for item in positions] == [
        (fill.position_id, "BUY", 0.5)
    ]
    account = await desk.layer.accounts.get(desk.account)
    assert account is not None
    assert (account.margin, account.open_positions) == (Decimal("550.10"), 1)
    assert [item.order_id for item in await desk.database.executions(desk.account)] == [
        fill.order_id
    ]


async def test_the_opposite_order_closes_the_position_and_books_its_profit(desk: Desk) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1002)
    await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 1.0))
    await desk.quote("EURUSD", 1.1012, 1.1014)
    await desk.broker.place(desk.account, MarketOrder("EURUSD", "SELL", 1.0))
    account = await desk.layer.accounts.get(desk.account)
    assert account is not None
    assert account.balance == account.equity == Decimal("10100.00")
    assert (account.margin, account.open_positions) == (0, 0)


async def test_orders_add_up_reduce_and_turn_round(desk: Desk) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1000)
    for side, volume in (("BUY", 0.1), ("BUY", 0.2), ("SELL", 0.1), ("SELL", 0.5)):
        await desk.broker.place(desk.account, MarketOrder("EURUSD", side, volume))  # type: ignore[arg-type]
    positions = await desk.layer.positions.get(desk.account)
    assert positions is not None
    assert [(item.side, item.volume) for item in positions] == [("SELL", 0.3)]
    account = await desk.layer.accounts.get(desk.account)
    assert account is not None
    assert account.balance == Decimal("10000.00")
    assert account.margin == Decimal("330.00")


async def test_adding_averages_the_open_price(desk: Desk) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1000)
    await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 1.0))
    await desk.quote("EURUSD", 1.1010, 1.1010)
    await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 3.0))
    positions = await desk.layer.positions.get(desk.account)
    assert positions is not None
    assert positions[0].open_price == pytest.approx(1.10075)
    assert positions[0].unrealized_pnl == Decimal("100.00")


async def test_an_order_beyond_the_free_margin_is_refused_and_changes_nothing(desk: Desk) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1002)
    error = await rejected(desk, "EURUSD", "BUY", 10.0)
    assert error.code == "no_money"
    assert "11002.00" in str(error)
    assert await desk.database.executions(desk.account) == []
    assert await desk.layer.positions.get(desk.account) == ()


async def test_the_margin_is_checked_again_under_the_lock(desk: Desk) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1000)
    await desk.layer.accounts.get(desk.account)
    async with desk.database.update_account(desk.account) as row:  # behind the cache's back
        row.balance = Decimal("100.00")
    error = await rejected(desk, "EURUSD", "BUY", 1.0)
    assert error.code == "no_money"
    assert await desk.database.executions(desk.account) == []


async def test_a_stale_price_is_refused(desk: Desk) -> None:
    error = await rejected(desk, "EURUSD", "BUY", 0.1)
    assert (error.code, error.retryable) == ("stale_price", True)


async def test_a_cross_without_its_conversion_price_is_refused(desk: Desk) -> None:
    await desk.quote("EURGBP", 0.8600, 0.8602)
    assert (await rejected(desk, "EURGBP", "BUY", 0.1)).code == "stale_price"
    await desk.quote("GBPUSD", 1.2500, 1.2500)
    await desk.broker.place(desk.account, MarketOrder("EURGBP", "BUY", 0.1))
    account = await desk.layer.accounts.get(desk.account)
    assert account is not None
    assert account.margin == Decimal("107.52")


@pytest.mark.parametrize("volume", [0.001, 0.015, 1000.0])
async def test_a_volume_off_the_steps_is_refused(desk: Desk, volume: float) -> None:
    await desk.quote("EURUSD", 1.1000, 1.1002)
    assert (await rejected(desk, "EURUSD", "BUY", volume)).code == "bad_volume"


async def test_unknown_symbols_and_accounts_are_refused(desk: Desk) -> None:
    assert (await rejected(desk, "NOSUCH", "BUY", 0.1)).code == "unknown_symbol"
    await desk.quote("EURUSD", 1.1, 1.1)
    with pytest.raises(OrderRejected, match="no account 999"):
        await desk.broker.place(999, MarketOrder("EURUSD", "BUY", 0.1))


async def test_the_eleventh_order_in_a_second_is_refused(desk: Desk) -> None:
    await desk.layer.limits.orders.hit(desk.account, cost=10)
    await desk.quote("EURUSD", 1.1, 1.1)
    error = await rejected(desk, "EURUSD", "BUY", 0.1)
    assert error.code == "limit_exceeded"
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 1


async def test_a_fill_that_cannot_be_announced_is_owed_and_announced_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.quote("EURUSD", 1.1, 1.1)
    publish = desk.layer.executions.publish

    async def unsure(
        account_id: int | str, execution: rtx.Execution, *, key: str, deadline: float
    ) -> rtx.Offset:
        await publish(account_id, execution, key=key)  # it was published, but the answer is lost
        raise rtx.Unavailable("cut off", maybe_applied=True)

    monkeypatch.setattr(desk.layer.executions, "publish", unsure)
    fill = await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 0.1))
    assert fill.seq == 0
    monkeypatch.undo()
    later = await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 0.1))
    assert desk.announcer.owed == 2
    await desk.announcer.settle()
    assert desk.announcer.owed == 0
    history = await desk.layer.executions.history(desk.account)
    assert [item.order_id for item in history.messages] == [fill.order_id, later.order_id]


async def test_orders_are_refused_while_redis_is_away_and_reads_go_on(
    desk: Desk, own_server: ServerProcess
) -> None:
    await desk.quote("EURUSD", 1.1, 1.1)
    own_server.kill()
    with pytest.raises(rtx.Unavailable):
        await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 0.1))
    account = await desk.layer.accounts.get(desk.account)
    assert account is not None
    assert account.balance == Decimal("10000.00")
    await own_server.wait()
    await own_server.start()

    async def ready() -> bool:
        return (await desk.layer.health()).ready

    await eventually(ready)
    await desk.quote("EURUSD", 1.1, 1.1)
    assert (await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 0.1))).seq == 1


async def test_a_margin_call_comes_once_until_the_account_has_recovered(desk: Desk) -> None:
    watch = RiskWatch(desk.layer, Announcer(desk.layer), lambda _: None)
    await desk.quote("EURUSD", 1.1000, 1.1000)
    await desk.broker.place(desk.account, MarketOrder("EURUSD", "BUY", 9.0))

    async def alerts_after(price: float) -> int:
        await desk.quote("EURUSD", price, price)
        await watch.check([desk.account])
        return len((await desk.layer.alerts.history(desk.account)).messages)

    assert await alerts_after(1.1000) == 0
    assert await alerts_after(1.0980) == 1  # equity 8,200 of 9,900 margin
    assert await alerts_after(1.0979) == 1
    assert await alerts_after(1.1010) == 1
    assert await alerts_after(1.0980) == 2
    [first, _] = (await desk.layer.alerts.history(desk.account)).messages
    assert (first.kind, first.severity) == ("margin_call", "critical")
    account = await desk.layer.accounts.get(desk.account)
    assert account is not None
    assert account.equity == Decimal("8200.00")
    assert account.margin_level == Decimal("82.83")


async def test_more_owed_fills_than_are_kept_is_told_and_counted(
    desk: Desk, own_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtx.demo.announcer._OWED_AT_MOST", 2)
    told: list[str] = []
    announcer = Announcer(desk.layer, told.append)
    own_server.kill()
    await own_server.wait()
    for order_id in (1, 2, 3, 4):
        fill = rtx.Execution(order_id, 1, "EURUSD", "BUY", 0.1, 1.1)
        assert await announcer.execution(desk.account, fill) == fill
    assert announcer.owed == 2
    assert announcer.dropped == 2
    assert len(told) == 1
    assert "only in the database" in told[0]
