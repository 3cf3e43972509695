"""Prices that are gone when they are old, and sessions that only their tokens open."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings, TTLSettings
from tests.conftest import eventually


def price(symbol: str = "EURUSD", bid: float = 1.0) -> rtx.Price:
    return rtx.Price(symbol, bid=bid, ask=2.0, time=1_700_000_000_000)


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Prices live 100 ms and sessions 150 ms."""
    return settings.model_copy(update={"ttl": TTLSettings(price=0.1, session=0.15)})


async def test_a_price_vanishes_after_one_second(layer: rtx.DataLayer) -> None:
    started = time.monotonic()
    await layer.prices.put(price())
    assert await layer.prices.get("EURUSD") == price()

    async def gone() -> bool:
        return await layer.prices.get("EURUSD") is None

    await eventually(gone, within=5)
    assert time.monotonic() - started >= 0.99


async def test_a_published_price_vanishes_as_well(brief: Settings) -> None:
    async with rtx.open(brief) as layer:
        await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.0, ask=2.0))
        await layer.prices.put_many([price("GBPUSD")])

        async def gone() -> bool:
            return await layer.prices.get_many(["EURUSD", "GBPUSD"]) == {}

        await eventually(gone, within=5)


async def test_a_newer_price_lives_on(brief: Settings) -> None:
    async with rtx.open(brief) as layer:
        for number in range(20):
            await layer.prices.put(price(bid=1.0 + number / 1_000))
            await asyncio.sleep(0.01)
        assert await layer.prices.get("EURUSD") == price(bid=1.019)


async def test_of_several_prices_of_a_symbol_the_last_is_stored(layer: rtx.DataLayer) -> None:
    await layer.prices.put_many([price("A"), price("B"), price("A", bid=1.5)])
    assert await layer.prices.get_many(["B", "C", "A"]) == {"B": price("B"), "A": price("A", 1.5)}


async def test_one_bad_price_keeps_all_from_being_stored(layer: rtx.DataLayer) -> None:
    with pytest.raises(rtx.BadTick):
        await layer.prices.put_many([price("A"), price("B", bid=-1.0)])
    assert await layer.prices.get("A") is None


async def test_an_invalidated_price_is_not_fresh(layer: rtx.DataLayer) -> None:
    await layer.prices.put_many([price("A"), price("B")])
    await layer.prices.invalidate("A")
    assert list(await layer.prices.get_many(["A", "B"])) == ["B"]


async def test_a_session_opens_with_its_token_and_nothing_else(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    token, session = await layer.sessions.create("user-7", iter([1, 2]))
    other, _ = await layer.sessions.create("user-7", [])
    assert (session.user_id, session.accounts) == ("user-7", (1, 2))
    assert session.expires_at - session.created_at == 24 * 3_600_000
    assert token != other
    assert len(token) >= 43
    assert await layer.sessions.get(token) == session
    hashed = hashlib.sha256(token.encode()).hexdigest()
    for wrong in (hashed, token[:-1], token.upper(), "", "*", f"{token}\n", "Ü" * 50):
        assert await layer.sessions.get(wrong) is None
    for key in [key async for key in witness.scan_iter(f"{layer.keys.namespace}:*")]:
        value = await witness.get(key)
        for secret in (token, other):
            assert secret.encode() not in key
            assert secret.encode() not in value


async def test_a_revoked_session_is_over_everywhere(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    async with rtx.open(settings) as other:
        token, session = await layer.sessions.create("user-7", [1])
        assert await other.sessions.get(token) == session
        assert await other.sessions.revoke(token) is True
        assert await layer.sessions.get(token) is None
        assert await layer.sessions.revoke(token) is False
        assert await layer.sessions.revoke("no such token") is False


async def test_a_session_ends_by_itself(brief: Settings) -> None:
    async with rtx.open(brief) as layer:
        token, session = await layer.sessions.create("user-7", [1])
        assert session.expires_at - session.created_at == 150

        async def over() -> bool:
            return await layer.sessions.get(token) is None

        await eventually(over, within=5)
