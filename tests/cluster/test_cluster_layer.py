"""Everything that a layer offers works on a cluster as on one server."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal

import pytest

import rtx
from rtx.errors import NotInCluster
from rtx.models import Account, Alert, Execution, Price, Session, SymbolSpec, Tick
from rtx.pubsub import Offset
from rtx.wire import Caller

SYMBOLS = [f"SYM{number:02d}" for number in range(40)]


def quote(symbol: str, number: int = 1) -> Tick:
    return Tick(symbol, bid=float(number), ask=number + 0.5, lp="LP")


def fill(number: int) -> Execution:
    return Execution(order_id=number, position_id=1, symbol="X", side="BUY", volume=1.0, price=1.0)


async def take(subscription: rtx.Subscription, count: int) -> list:  # type: ignore[type-arg]
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(count)]


async def test_prices_of_many_nodes_come_in_the_order_asked(layer: rtx.DataLayer) -> None:
    await layer.prices.put_many([Price(s, bid=1.0 + n, ask=2.0 + n) for n, s in enumerate(SYMBOLS)])
    asked = [*reversed(SYMBOLS), "MISSING"]
    found = await layer.prices.get_many(asked)
    assert list(found) == asked[:-1]
    assert all(found[s].bid == 1.0 + n for n, s in enumerate(SYMBOLS))
    await layer.prices.invalidate(*SYMBOLS[:10])
    assert set(await layer.prices.get_many(SYMBOLS)) == set(SYMBOLS[10:])


async def test_accounts_positions_symbols_and_sessions(layer: rtx.DataLayer) -> None:
    zero = Decimal(0)
    accounts = [Account(n, "RTX", zero, zero, zero, zero, zero, 0) for n in range(20)]
    await layer.accounts.put_many(accounts)
    assert list((await layer.accounts.get_many(range(20))).values()) == accounts
    await layer.positions.put(1, [])
    assert await layer.positions.get(1) == ()
    spec = SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000.0, 0.01)
    await layer.symbols.put(spec)
    assert await layer.symbols.get("EURUSD") == spec
    token, session = await layer.sessions.create("user", [1])
    found = await layer.sessions.get(token)
    assert isinstance(found, Session)
    assert found == session
    assert await layer.sessions.revoke(token)
    assert await layer.sessions.get(token) is None


async def test_replies_of_a_batch_keep_their_places(caller: Caller, namespace: str) -> None:
    keys = [f"{namespace}:{n}" for n in range(300)]
    commands: list[tuple[str | int, ...]] = [("SET", key, n) for n, key in enumerate(keys)]
    commands.insert(150, ("LPUSH", keys[0], "not a list"))
    replies = await caller.batch(commands)
    error = replies.pop(150)
    assert isinstance(error, rtx.errors.ServerError)
    assert error.prefix == "WRONGTYPE"
    assert replies == [b"OK"] * 300 or replies == ["OK"] * 300
    assert await caller.call("MGET", *keys) == [b"%d" % n for n in range(300)]
    assert await caller.call("EXISTS", *keys, f"{namespace}:none") == 300
    assert await caller.call("DEL", *keys[:100], f"{namespace}:none") == 100
    assert await caller.call("UNLINK", *keys) == 200


async def test_ten_orders_in_any_second(layer: rtx.DataLayer) -> None:
    for account in range(6):
        decisions = await asyncio.gather(*(layer.limits.orders.hit(account) for _ in range(15)))
        assert sum(decision.allowed for decision in decisions) == 10
        await layer.limits.orders.reset(account)
        assert (await layer.limits.orders.peek(account)).remaining == 10
    assert (await layer.limits.orders.hit(9, cost=11)).retry_after == math.inf


async def test_market_data_begins_with_the_price_and_misses_nothing(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    await other.market_data.publish_many([quote(symbol) for symbol in SYMBOLS])
    async with layer.market_data.subscribe(*SYMBOLS) as ticks:
        await ticks.ready()
        first = await take(ticks, len(SYMBOLS))
        assert {tick.symbol: tick.bid for tick in first} == dict.fromkeys(SYMBOLS, 1.0)
        for number in range(2, 12):
            published = await other.market_data.publish_many([quote(s, number) for s in SYMBOLS])
            assert published.count == len(SYMBOLS)
        live = await take(ticks, 10 * len(SYMBOLS))
        for symbol in SYMBOLS:
            assert [t.bid for t in live if t.symbol == symbol] == [float(n) for n in range(2, 12)]
    assert layer.hub.stats.connects <= 3


async def test_executions_are_recovered_from_the_log(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    for account in range(1, 7):
        offsets = [await other.executions.publish(account, fill(n)) for n in range(1, 6)]
        async with layer.executions.subscribe(account, after=offsets[1]) as fills:
            await fills.ready()
            assert fills.recovered
            await other.executions.publish(account, fill(6))
            assert [item.seq for item in await take(fills, 4)] == [3, 4, 5, 6]
        history = await layer.executions.history(account, after=Offset(offsets[0].epoch, 4))
        assert [item.order_id for item in history.messages] == [5, 6]


async def test_alerts_of_an_account_and_of_the_system(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    async with layer.alerts.subscribe(1) as own, layer.alerts.subscribe("system") as system:
        await own.ready()
        await system.ready()
        await other.alerts.publish(1, Alert(kind="margin_call", severity="critical", message="m"))
        await other.alerts.publish("system", Alert(kind="halt", severity="info", message="s"))
        assert (await take(own, 1))[0].message == "m"
        assert (await take(system, 1))[0].message == "s"


async def test_all_symbols_at_once_are_refused_with_the_alternative(layer: rtx.DataLayer) -> None:
    with pytest.raises(NotInCluster, match="name the symbols"):
        layer.market_data.subscribe("*")


async def test_a_thousand_channels_are_subscribed_and_left(layer: rtx.DataLayer) -> None:
    many = [f"S{number}" for number in range(1_000)]
    started = asyncio.get_running_loop().time()
    async with layer.market_data.subscribe(*many, snapshot=False) as ticks:
        await ticks.ready()
        print(f"1,000 sharded channels in {asyncio.get_running_loop().time() - started:.3f} s")
        await layer.market_data.publish_many([quote(symbol) for symbol in many])
        assert {tick.symbol for tick in await take(ticks, 1_000)} == set(many)
    assert layer.hub.stats.channels == 0


async def test_leaving_and_coming_back_at_once_misses_nothing(layer: rtx.DataLayer) -> None:
    for number in range(1, 30):
        async with layer.market_data.subscribe("BACK", snapshot=False) as ticks:
            await ticks.ready()
            await layer.market_data.publish(quote("BACK", number))
            assert (await take(ticks, 1))[0].bid == number


async def test_health_and_counters_cover_all_nodes(layer: rtx.DataLayer) -> None:
    health = await layer.health()
    assert health.ready, health
    await layer.prices.put_many([Price(s, bid=1.0, ask=2.0) for s in SYMBOLS])
    assert layer.stats()["wire.cache"]["connections"] >= 3
