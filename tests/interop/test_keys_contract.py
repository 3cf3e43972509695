"""Every key of the contract, as another program reads and writes it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from decimal import Decimal

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.models import now_ms

TIME = 1_768_732_245_123  # 2026-01-18T10:30:45.123Z

ACCOUNT = rtx.Account(
    1,
    "RTX-000001",
    Decimal("10000.00"),
    Decimal("10250.00"),
    Decimal("500.00"),
    Decimal("9750.00"),
    Decimal("2050.00"),
    3,
)
PRICE = rtx.Price("BTCUSD", bid=95000.50, ask=95001.50, time=TIME)
POSITION = rtx.Position(12345, "EURUSD", "BUY", 1.0, 1.0950, 1.0955, Decimal("50.00"))
SYMBOL = rtx.SymbolSpec("EURUSD", "Euro / US Dollar", "EUR", "USD", 5, 100_000.0, 0.01)

Databases = Callable[[int], redis_py.Redis]


def exactly(raw: bytes) -> list[tuple[str, object]]:
    """Fields in order, with numbers as they are spelled."""
    found: list[tuple[str, object]] = json.loads(
        raw, parse_float=Spelled, parse_int=Spelled, object_pairs_hook=list
    )
    return found


class Spelled(str):
    """A JSON number, as against a string with the same letters."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spelled) and str.__eq__(self, other)

    __hash__ = str.__hash__


n = Spelled


# --- what we write ---------------------------------------------------------------------------


async def test_an_account_is_written_with_exact_money(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await plain.accounts.put(ACCOUNT)
    raw = await database(0).get("account:1")
    assert exactly(raw) == [
        ("id", n("1")),
        ("account_number", "RTX-000001"),
        ("balance", n("10000.00")),
        ("equity", n("10250.00")),
        ("margin", n("500.00")),
        ("free_margin", n("9750.00")),
        ("margin_level", n("2050.00")),
        ("open_positions", n("3")),
    ]


async def test_a_price_is_written_with_iso_time_mid_and_spread(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await plain.prices.put(PRICE)
    raw = await database(0).get("price:BTCUSD")
    assert exactly(raw) == [
        ("symbol", "BTCUSD"),
        ("time", "2026-01-18T10:30:45.123Z"),
        ("bid", n("95000.5")),
        ("ask", n("95001.5")),
        ("mid", n("95001.0")),
        ("spread", n("1.0")),
    ]


async def test_a_published_tick_writes_the_same_price(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await plain.prices.put(PRICE)
    put = await database(0).get("price:BTCUSD")
    await database(0).delete("price:BTCUSD")
    await plain.market_data.publish(rtx.Tick("BTCUSD", time=TIME, bid=95000.5, ask=95001.5))
    assert await database(0).get("price:BTCUSD") == put


async def test_positions_are_written_as_an_array(plain: rtx.DataLayer, database: Databases) -> None:
    await plain.positions.put(1, [POSITION])
    await plain.positions.put(2, [])
    raw = await database(0).get("positions:1")
    assert exactly(raw) == [
        [
            ("id", n("12345")),
            ("symbol", "EURUSD"),
            ("side", "BUY"),
            ("volume", n("1.0")),
            ("open_price", n("1.095")),
            ("current_price", n("1.0955")),
            ("unrealized_pnl", n("50.00")),
        ]
    ]
    assert await database(0).get("positions:2") == b"[]"


async def test_a_symbol_spec_is_written_with_all_its_fields(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await plain.symbols.put(SYMBOL)
    assert json.loads(await database(0).get("symbol:EURUSD")) == {
        "symbol": "EURUSD",
        "description": "Euro / US Dollar",
        "base": "EUR",
        "quote": "USD",
        "digits": 5,
        "contract_size": 100_000.0,
        "margin_rate": 0.01,
        "min_volume": 0.01,
        "max_volume": 100.0,
        "volume_step": 0.01,
    }


async def test_a_session_is_found_by_the_hash_of_its_token_only(
    plain: rtx.DataLayer, database: Databases
) -> None:
    before = now_ms()
    token, session = await plain.sessions.create("user-7", [1, 2])
    hashed = hashlib.sha256(token.encode()).hexdigest()
    assert sorted(await database(0).keys("*")) == [
        f"session:{hashed}".encode(),
        b"sessions:user-7",
    ]
    assert await database(0).zrange("sessions:user-7", 0, -1, withscores=True) == [
        (hashed.encode(), session.created_at)
    ]
    raw = await database(0).get(f"session:{hashed}")
    assert token.encode() not in raw
    found = json.loads(raw)
    assert found == {
        "user_id": "user-7",
        "accounts": [1, 2],
        "created_at": session.created_at,
        "expires_at": session.created_at + 24 * 3600 * 1000,
    }
    assert before <= session.created_at <= now_ms()


async def test_every_value_has_the_ttl_of_the_contract(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await plain.accounts.put(ACCOUNT)
    await plain.positions.put(1, [POSITION])
    await plain.symbols.put(SYMBOL)
    token, _ = await plain.sessions.create("user-7", [1])
    hashed = hashlib.sha256(token.encode()).hexdigest()
    await plain.prices.put(PRICE)
    ttls = {
        "price:BTCUSD": 1_000,
        "positions:1": 30_000,
        "account:1": 60_000,
        "symbol:EURUSD": 3_600_000,
        f"session:{hashed}": 86_400_000,
    }
    left = {key: await database(0).pttl(key) for key in ttls}
    exact = (f"session:{hashed}", "price:BTCUSD")
    for key, ttl in ttls.items():
        # The others are up to a tenth shorter. Two seconds of slack for a busy machine; a price may
        # be gone by then.
        least = ttl if key in exact else 0.9 * ttl
        assert least - 2_000 < left[key] <= ttl, left


async def test_each_role_keeps_to_its_own_database(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await plain.accounts.put(ACCOUNT)
    await plain.positions.put(1, [POSITION])
    await plain.executions.publish(1, rtx.Execution(7, 8, "EURUSD", "BUY", 1.0, 1.1))
    await plain.alerts.publish("system", rtx.Alert("maintenance", "info", "soon"))
    await plain.limits.api.hit("user-7")
    await plain.limits.orders.hit(1)
    names = [sorted(key.decode() for key in await database(db).keys("*")) for db in range(4)]
    assert names == [
        ["account:1", "positions:1"],
        [
            "{alerts:system}:log",
            "{alerts:system}:meta",
            "{executions:1}:log",
            "{executions:1}:meta",
        ],
        ["ratelimit:api:user-7", "ratelimit:orders:1"],
        [],
    ]


async def test_a_namespace_is_in_front_of_every_name(
    layer: rtx.DataLayer, namespace: str, shared_server: str
) -> None:
    await layer.accounts.put(ACCOUNT)
    await layer.executions.publish(1, rtx.Execution(7, 8, "EURUSD", "BUY", 1.0, 1.1))
    await layer.limits.orders.hit(1)
    names = []
    for db in range(3):
        async with redis_py.Redis.from_url(shared_server, db=db) as client:
            names.append({key.decode() async for key in client.scan_iter(f"*{namespace}:*")})
    assert names == [
        {f"{namespace}:account:1"},
        {f"{{{namespace}:executions:1}}:log", f"{{{namespace}:executions:1}}:meta"},
        {f"{namespace}:ratelimit:orders:1"},
    ]


async def test_a_limit_is_a_head_and_the_times_of_its_hits_in_four_bytes_each(
    plain: rtx.DataLayer, database: Databases
) -> None:
    decision = await plain.limits.orders.hit(1, cost=3)
    log = await database(2).get("ratelimit:orders:1")
    assert log is not None
    expiry, high, size, *times = struct.unpack(">I3sB3I", log)
    time = int.from_bytes(high, "big") * 2**32 + times[-1]
    assert (time, size, times) == (round(decision.at * 1e6), 4, [times[0]] * 3)
    seconds, micros = await database(2).time()
    assert 0 <= seconds * 1_000_000 + micros - time < 5_000_000
    assert 1_000 <= (expiry - time // 1000) % 2**32 <= 2_000


# --- what others write -----------------------------------------------------------------------


async def test_we_read_an_account_with_other_fields_spellings_and_order(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await database(0).set(
        "account:1",
        '{"open_positions": 3, "currency": "USD", "id": 1, "account_number": "RTX-000001",'
        ' "balance": 10000, "equity": "10250.00", "margin": 5e2, "free_margin": 9750.0,'
        ' "margin_level": 2050.00, "owner": {"name": "A"}}',
    )
    account = await plain.accounts.get(1)
    assert account == ACCOUNT
    assert account is not None
    assert isinstance(account.balance, Decimal)


@pytest.mark.parametrize(
    "money", ["0.1", "0.10", "12345678901234567.89", "-0.01", "1e-7", "0.3000000000000000000001"]
)
async def test_money_of_others_is_read_and_written_digit_for_digit(
    plain: rtx.DataLayer, database: Databases, money: str
) -> None:
    raw = (
        f'{{"id":1,"account_number":"A","balance":{money},"equity":{money},"margin":0,'
        f'"free_margin":{money},"margin_level":0,"open_positions":0}}'
    )
    await database(0).set("account:1", raw)
    account = await plain.accounts.get(1)
    assert account is not None
    assert account.balance == Decimal(money)
    await plain.accounts.put(account)
    again = dict(exactly(await database(0).get("account:1")))
    assert Decimal(str(again["balance"])) == Decimal(money)


@pytest.mark.parametrize(
    "time",
    [
        '"2026-01-18T10:30:45.123Z"',
        '"2026-01-18T10:30:45.123+00:00"',
        '"2026-01-18T12:30:45.123+02:00"',
        '"2026-01-18T10:30:45.123"',
        '"2026-01-18T10:30:45.123000Z"',
        '"2026-01-18 10:30:45.123"',
        "1768732245123",
    ],
)
async def test_we_read_a_price_whose_time_is_iso_or_epoch_milliseconds(
    plain: rtx.DataLayer, database: Databases, time: str
) -> None:
    await database(0).set(
        "price:BTCUSD", f'{{"symbol":"BTCUSD","time":{time},"bid":95000.5,"ask":95001.5,"v":2}}'
    )
    assert await plain.prices.get("BTCUSD") == PRICE


async def test_we_read_whole_numbers_where_prices_are_floats(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await database(0).set("price:BTCUSD", '{"symbol":"BTCUSD","time":1,"bid":95000,"ask":95001}')
    price = await plain.prices.get("BTCUSD")
    assert price == rtx.Price("BTCUSD", bid=95000.0, ask=95001.0, time=1)
    assert price is not None
    assert isinstance(price.bid, float)
    await database(0).set(
        "positions:1",
        '[{"id":1,"symbol":"EURUSD","side":"SELL","volume":1,"open_price":1,"current_price":2,'
        '"unrealized_pnl":-5,"swap":0}]',
    )
    assert await plain.positions.get(1) == (
        rtx.Position(1, "EURUSD", "SELL", 1.0, 1.0, 2.0, Decimal(-5)),
    )


async def test_we_read_a_symbol_spec_without_its_optional_fields(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await database(0).set(
        "symbol:EURUSD",
        '{"symbol":"EURUSD","description":"Euro / US Dollar","base":"EUR","quote":"USD",'
        '"digits":5,"contract_size":100000,"margin_rate":0.01,"session":"24x5"}',
    )
    assert await plain.symbols.get("EURUSD") == SYMBOL


async def test_a_session_ended_by_another_program_is_over(
    plain: rtx.DataLayer, database: Databases
) -> None:
    token, session = await plain.sessions.create("user-7", [1])
    assert await plain.sessions.get(token) == session
    await database(0).delete(f"session:{hashlib.sha256(token.encode()).hexdigest()}")
    assert await plain.sessions.get(token) is None


async def test_values_of_two_layers_and_many_keys_are_read_in_one_mget(
    plain: rtx.DataLayer, database: Databases
) -> None:
    await database(0).mset(
        {
            f"price:S{i}": f'{{"symbol":"S{i}","time":{TIME + i},"bid":{i}.5,"ask":{i + 1}}}'
            for i in range(50)
        }
    )
    prices = await plain.prices.get_many(f"S{i}" for i in range(60))
    assert list(prices) == [f"S{i}" for i in range(50)]
    assert prices["S49"] == rtx.Price("S49", bid=49.5, ask=50.0, time=TIME + 49)
