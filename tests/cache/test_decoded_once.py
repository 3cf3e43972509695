"""What was decoded before is not decoded again, and what has changed is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
import redis.asyncio as redis_py
from msgspec import inspect

import rtx
from rtx import codecs
from rtx.cache.decoding import remembering, remembering_small
from rtx.models import Account, Position, Price, SymbolSpec
from rtx.settings import Settings

ACCOUNT = Account(1, "A-1", Decimal("10.10"), Decimal(10), Decimal(0), Decimal(10), Decimal(0), 0)


async def test_the_same_bytes_give_the_same_object(layer: rtx.DataLayer) -> None:
    await layer.accounts.put(ACCOUNT)
    first = await layer.accounts.get(1)
    assert first == ACCOUNT
    assert await layer.accounts.get(1) is first
    assert (await layer.accounts.get_many([1]))[1] is first


async def test_a_change_by_any_program_is_read_at_once(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    await layer.accounts.put(ACCOUNT)
    await layer.accounts.get(1)
    changed = msgspec.structs.replace(ACCOUNT, balance=Decimal("10.11"))
    await witness.set(layer.keys.account(1), codecs.encode(changed), px=5_000)
    assert await layer.accounts.get(1) == changed
    await witness.delete(layer.keys.account(1))
    assert await layer.accounts.get(1) is None


async def test_the_way_a_number_is_written_stays_its_own(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    seen = []
    for text in (b"10.10", b"10.1", b"10.100"):
        raw = codecs.encode(ACCOUNT).replace(b'"balance":10.10', b'"balance":' + text)
        await witness.set(layer.keys.account(1), raw, px=5_000)
        account = await layer.accounts.get(1)
        assert account is not None
        seen.append(str(account.balance))
    assert seen == ["10.10", "10.1", "10.100"]


async def test_a_value_that_cannot_be_decoded_is_counted_each_time(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    await witness.set(layer.keys.price("EURUSD"), b"{", px=5_000)
    for _ in range(3):
        assert await layer.prices.get("EURUSD") is None
    assert layer.prices.stats.undecodable == 3


@pytest.mark.parametrize("count", [0, 4])
async def test_decoding_anew_can_be_asked_for(settings: Settings, count: int) -> None:
    cache = settings.cache.model_copy(update={"decoded": count})
    async with rtx.open(settings.model_copy(update={"cache": cache})) as layer:
        price = Price("EURUSD", 1.1, 1.2)
        await layer.prices.put(price)
        one, other = await layer.prices.get("EURUSD"), await layer.prices.get("EURUSD")
        assert one == other == price
        assert (one is other) == bool(count)


@pytest.mark.parametrize("kind", [Account, Price, SymbolSpec, tuple[Position, ...]])
def test_what_all_readers_share_cannot_be_changed_by_one(kind: Any) -> None:
    plain = inspect.IntType, inspect.FloatType, inspect.StrType, inspect.DecimalType
    seen = 0

    def check(what: inspect.Type) -> None:
        nonlocal seen
        seen += 1
        if isinstance(what, inspect.VarTupleType):
            check(what.item_type)
        elif isinstance(what, inspect.StructType):
            assert what.cls.__struct_config__.frozen
            for field in what.fields:
                check(field.type)
        else:
            assert isinstance(what, (*plain, inspect.LiteralType)), what

    check(inspect.type_info(kind))
    assert seen > 4


def test_no_more_is_kept_than_the_count_and_the_latest_stay() -> None:
    decoded: list[bytes] = []

    def decode(raw: bytes) -> bytes:
        decoded.append(raw)
        return raw

    once = remembering(decode, 2)
    for raw in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert once(raw) == raw
    assert decoded == [b"a", b"b", b"c", b"b"]


def test_large_values_are_decoded_each_time() -> None:
    decoded: list[int] = []

    def decode(raw: bytes) -> int:
        decoded.append(len(raw))
        return len(raw)

    once = remembering_small(decode, 10)
    for size in (4_096, 4_097):
        for _ in range(2):
            assert once(b"x" * size) == size
    assert decoded == [4_096, 4_097, 4_097]
