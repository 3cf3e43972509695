"""The JSON of every model, byte for byte where it is a contract, and money that stays exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtx import codecs
from rtx.errors import BadTick
from rtx.models import (
    Account,
    Alert,
    Execution,
    Position,
    Price,
    Session,
    SymbolSpec,
    Tick,
    check_quote,
)

ACCOUNT = (
    b'{"id":1,"account_number":"RTX-000001","balance":10000.00,"equity":10250.00,"margin":500.00,'
    b'"free_margin":9750.00,"margin_level":2050.00,"open_positions":3}'
)
PRICE = (
    b'{"symbol":"BTCUSD","time":"2026-01-18T10:30:45.123Z","bid":95000.5,"ask":95001.5,'
    b'"mid":95001.0,"spread":1.0}'
)
POSITION = (
    b'{"id":12345,"symbol":"EURUSD","side":"BUY","volume":1.0,"open_price":1.095,'
    b'"current_price":1.0955,"unrealized_pnl":50.00}'
)
TICK = (
    b'{"type":"tick","symbol":"BTCUSD","time":1705575045123,"bid":95000.5,"ask":95001.5,'
    b'"lp":"OANDA"}'
)
EXECUTION = (
    b'{"type":"execution","order_id":67890,"position_id":12345,"symbol":"EURUSD","side":"BUY",'
    b'"volume":1.0,"price":1.095,"timestamp":1705575045123,"seq":42,"epoch":"e1"}'
)
ALERT = (
    b'{"type":"alert","kind":"margin_call","severity":"critical","message":"Margin level 80 %",'
    b'"timestamp":1705575045123,"seq":7,"epoch":"e1"}'
)
TIME = 1768732245123

account = Account(
    1,
    "RTX-000001",
    *map(Decimal, ("10000.00", "10250.00", "500.00", "9750.00", "2050.00")),
    open_positions=3,
)
position = Position(12345, "EURUSD", "BUY", 1.0, 1.095, 1.0955, Decimal("50.00"))
tick = Tick("BTCUSD", time=1705575045123, bid=95000.5, ask=95001.5, lp="OANDA")
execution = Execution(
    67890, 12345, "EURUSD", "BUY", 1.0, 1.095, timestamp=1705575045123, seq=42, epoch="e1"
)
alert = Alert(
    "margin_call", "critical", "Margin level 80 %", timestamp=1705575045123, seq=7, epoch="e1"
)


@pytest.mark.parametrize(
    ("model", "raw", "decode"),
    [
        (account, ACCOUNT, codecs.decode_account),
        ((position,), b"[" + POSITION + b"]", codecs.decode_positions),
        ((), b"[]", codecs.decode_positions),
        (tick, TICK, codecs.decode_tick),
        (execution, EXECUTION, codecs.decode_execution),
        (alert, ALERT, codecs.decode_alert),
    ],
    ids=["account", "positions", "no_positions", "tick", "execution", "alert"],
)
def test_the_json_is_the_contracts_byte_for_byte(
    model: object, raw: bytes, decode: Callable[[bytes], object]
) -> None:
    assert codecs.encode(model) == raw
    assert decode(raw) == model


def test_the_json_of_a_price_is_the_contracts_byte_for_byte() -> None:
    assert codecs.encode_price("BTCUSD", 95000.5, 95001.5, TIME) == PRICE
    assert codecs.decode_price(PRICE) == Price("BTCUSD", 95000.5, 95001.5, TIME)


def test_an_unpublished_execution_has_no_place_in_the_log_yet() -> None:
    raw = codecs.encode(Execution(1, 2, "EURUSD", "SELL", 0.5, 1.1, timestamp=3))
    assert set(json.loads(raw)) == {
        *("type", "order_id", "position_id", "symbol", "side", "volume", "price", "timestamp")
    }


@pytest.mark.parametrize(
    "raw",
    [ACCOUNT, PRICE, TICK, EXECUTION, ALERT],
    ids=["account", "price", "tick", "execution", "alert"],
)
def test_fields_of_later_versions_are_ignored_on_reading(raw: bytes) -> None:
    decode = {
        ACCOUNT: codecs.decode_account,
        PRICE: codecs.decode_price,
        TICK: codecs.decode_tick,
        EXECUTION: codecs.decode_execution,
        ALERT: codecs.decode_alert,
    }[raw]
    later = raw[:-1] + b',"later":{"nested":[1,2,{"x":null}]}}'
    assert decode(later) == decode(raw)  # type: ignore[operator]


@pytest.mark.parametrize(
    "decode",
    [
        codecs.decode_account,
        codecs.decode_positions,
        codecs.decode_price,
        codecs.decode_symbol,
        codecs.decode_session,
        codecs.decode_tick,
        codecs.decode_execution,
        codecs.decode_alert,
    ],
)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{}",
        b"[{}]",
        b"5",
        b"\xff\xfe",
        b'{"id":',
        b'{"id":"one"}',
        b'{"id":' + b"9" * 5000 + b"}",
        b'{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"type":"other"}',
        b'{"symbol":"X","time":"yesterday","bid":1,"ask":2}',
        b'{"symbol":"X","time":"2026-13-01T00:00:00Z","bid":1,"ask":2}',
        b'{"symbol":"X","time":1e400,"bid":1,"ask":2}',
        b'{"symbol":"X","time":1,"bid":null,"ask":2}',
    ],
    ids=range(15),
)
def test_what_cannot_be_decoded_is_one_kind_of_error(
    decode: Callable[[bytes], object], raw: bytes
) -> None:
    with pytest.raises(codecs.DecodeError):
        decode(raw)


# --- money ---------------------------------------------------------------------------------

money = st.decimals(allow_nan=False, allow_infinity=False, places=None) | st.decimals(
    min_value=-(10**15), max_value=10**15, places=2
)


@given(balance=money, margin=money)
def test_money_is_written_and_read_digit_for_digit(balance: Decimal, margin: Decimal) -> None:
    before = msgspec.structs.replace(account, balance=balance, margin=margin)
    raw = codecs.encode(before)
    after = codecs.decode_account(raw)
    assert after == before
    assert after.balance.as_tuple() == balance.as_tuple(), "trailing zeros are digits too"
    other = json.loads(raw, parse_float=Decimal, parse_int=Decimal)
    assert other["balance"] == balance
    assert other["margin"] == margin


MONEY_FIELDS = ("balance", "equity", "margin", "free_margin", "margin_level")


@pytest.mark.parametrize("bad", ["NaN", "-sNaN123", "Infinity", "-Infinity"])
def test_money_that_is_no_finite_number_is_not_written(bad: str) -> None:
    for field in MONEY_FIELDS:
        broken = msgspec.structs.replace(account, **{field: Decimal(bad)})
        for content in (broken, [broken], {"account": broken}):
            with pytest.raises(ValueError, match="NaN or infinite"):
                codecs.encode(content)
    with pytest.raises(ValueError, match="NaN or infinite"):
        codecs.encode((position, msgspec.structs.replace(position, unrealized_pnl=Decimal(bad))))


@pytest.mark.parametrize(
    "bad", ['"NaN"', '"-snan7"', '"Infinity"', '"-inf"', "NaN", "Infinity", '"1E+1000"', "1e99999"]
)
def test_money_that_is_no_finite_number_is_not_read(bad: str) -> None:
    for field in MONEY_FIELDS:
        good = b'"%s":%s' % (field.encode(), str(getattr(account, field)).encode())
        assert good in ACCOUNT
        with pytest.raises(codecs.DecodeError):
            codecs.decode_account(ACCOUNT.replace(good, f'"{field}":{bad}'.encode()))
    broken = POSITION.replace(b"50.00", bad.encode())
    with pytest.raises(codecs.DecodeError):
        codecs.decode_positions(b"[" + POSITION + b"," + broken + b"]")


def test_names_and_texts_may_look_like_no_number() -> None:
    for text in ("NaN", "Infinity", '"NaN"', "-Infinity, NaN"):
        named = msgspec.structs.replace(account, account_number=text)
        assert codecs.decode_account(codecs.encode(named)) == named
        warning = msgspec.structs.replace(alert, message=text)
        assert codecs.decode_alert(codecs.encode(warning)) == warning


def test_money_in_strings_of_other_writers_is_read_exactly() -> None:
    raw = ACCOUNT.replace(b"10000.00", b'"10000.00"')
    assert codecs.decode_account(raw).balance.as_tuple() == account.balance.as_tuple()


@given(st.lists(st.decimals(min_value=-(10**9), max_value=10**9, places=2), max_size=20))
def test_sums_of_money_survive_the_cache(amounts: list[Decimal]) -> None:
    positions = tuple(
        msgspec.structs.replace(position, unrealized_pnl=amount) for amount in amounts
    )
    back = codecs.decode_positions(codecs.encode(positions))
    assert sum(each.unrealized_pnl for each in back) == sum(amounts)


@given(
    volume=st.floats(allow_nan=False, allow_infinity=False),
    price=st.floats(allow_nan=False, allow_infinity=False),
)
def test_floats_are_written_so_that_they_read_the_same(volume: float, price: float) -> None:
    before = msgspec.structs.replace(execution, volume=volume, price=price)
    assert codecs.decode_execution(codecs.encode(before)) == before


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_in_an_alert_arrives_as_it_was(text: str) -> None:
    before = msgspec.structs.replace(alert, message=text)
    assert codecs.decode_alert(codecs.encode(before)) == before


# --- time ----------------------------------------------------------------------------------

times = st.integers(0, 253_402_300_799_999)


@given(st.lists(times, min_size=1, max_size=5))
def test_times_are_written_in_iso_and_read_back_to_the_millisecond(several: list[int]) -> None:
    for time in [*several, *(time ^ 1 for time in several if time > 1)]:
        text = codecs.iso(time)
        expected = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time)
        assert text == expected.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time % 1000:03d}Z"
        assert codecs.from_iso(text) == time
        price = codecs.decode_price(codecs.encode_price("X", 1.0, 2.0, time))
        assert price.time == time


@given(
    time=st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)),
    minutes=st.integers(-14 * 60, 14 * 60),
)
def test_times_of_any_zone_are_read(time: datetime, minutes: int) -> None:
    time = time.replace(microsecond=time.microsecond // 1000 * 1000)
    local = time.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    raw = b'{"symbol":"X","time":"%s","bid":1,"ask":2}' % local.isoformat().encode()
    since = local - datetime.fromtimestamp(0, UTC)
    assert codecs.decode_price(raw).time == since // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ('"2026-01-18T10:30:45.123Z"', TIME),
        ('"2026-01-18T10:30:45.123"', TIME),
        ('"2026-01-18T10:30:45.123456Z"', TIME),
        ('"2026-01-18T12:30:45.123+02:00"', TIME),
        ('"2026-01-18T10:30:45Z"', TIME - 123),
        ("1768732245123", TIME),
        ("1768732245123.0", TIME),
        ("1768732245122.7", TIME),
        ("1.768732245123e12", TIME),
    ],
)
def test_other_writers_times_are_read(written: str, time: int) -> None:
    raw = f'{{"symbol":"X","time":{written},"bid":1,"ask":2,"mid":7}}'
    assert codecs.decode_price(raw.encode()).time == time
    raw = f'{{"type":"tick","symbol":"X","time":{written},"bid":1,"ask":2}}'
    assert codecs.decode_tick(raw.encode()) == Tick("X", time=time, bid=1.0, ask=2.0)


@pytest.mark.parametrize("written", ["-1", "-1.5", "253402300800000", "1e300", '"1969-12-31"'])
def test_times_that_cannot_be_written_are_not_read(written: str) -> None:
    with pytest.raises(codecs.DecodeError):
        codecs.decode_price(f'{{"symbol":"X","time":{written},"bid":1,"ask":2}}'.encode())


# --- quotes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bid", "ask", "reason"),
    [
        (2.0, 1.0, "crossed"),
        (0.0, 1.0, "not_positive"),
        (-1.0, 1.0, "not_positive"),
        (1.0, -1.0, "not_positive"),
        (math.nan, 1.0, "not_finite"),
        (1.0, math.nan, "not_finite"),
        (1.0, math.inf, "not_finite"),
        (-math.inf, 1.0, "not_finite"),
    ],
)
def test_a_bad_quote_is_refused_with_its_reason(bid: float, ask: float, reason: str) -> None:
    with pytest.raises(BadTick, match="fix the source or filter it out") as refused:
        check_quote("EURUSD", bid, ask)
    assert refused.value.reason == reason
    assert "EURUSD" in str(refused.value)


positive = st.floats(min_value=1e-6, max_value=1e9)


@given(one=positive, other=positive)
def test_mid_lies_between_and_spread_is_not_negative(one: float, other: float) -> None:
    bid, ask = sorted((one, other))
    check_quote("X", bid, ask)
    price = Price("X", bid, ask)
    written = json.loads(codecs.encode_price("X", bid, ask, 0))
    assert (written["mid"], written["spread"]) == (price.mid, price.spread)
    assert price.spread >= 0
    unit = 1e-10 if ask < 1e4 else 1e-6  # what the last of the written decimals counts
    assert bid - unit <= price.mid <= ask + unit


def test_equal_quotes_are_good() -> None:
    check_quote("X", 1.0, 1.0)
    assert Price("X", 1.0, 1.0).spread == 0.0


def test_models_are_frozen_and_other_models_round_trip() -> None:
    spec = SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000.0, 0.01)
    session = Session("user-7", (1, 2), 1, 2)
    assert codecs.decode_symbol(codecs.encode(spec)) == spec
    assert codecs.decode_session(codecs.encode(session)) == session
    for model in (account, position, tick, execution, alert, spec, session):
        with pytest.raises(AttributeError):
            model.symbol = "other"  # type: ignore[misc,union-attr]
