"""Caches on every server: what is kept, for how long, and what redis-py sees of it."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import rtx
from rtx.models import Account, Position, Price, SymbolSpec
from tests.conformance.deployments import Deployment
from tests.conformance.servers import everywhere
from tests.conftest import eventually

pytestmark = everywhere


def account(number: int) -> Account:
    money = [Decimal(text) for text in ("10000.00", "10250.00", "500.00", "9750.00", "2050.00")]
    return Account(number, f"RTX-{number:06d}", *money, 3)


def position(number: int) -> Position:
    return Position(number, "EURUSD", "BUY", 1.0, 1.0950, 1.0955, Decimal("50.00"))


def spec(symbol: str) -> SymbolSpec:
    return SymbolSpec(symbol, "a symbol", symbol[:3], symbol[3:], 5, 100_000.0, 0.01)


async def test_values_live_as_long_as_the_contract_says(
    deployment: Deployment, layer: rtx.DataLayer, namespace: str
) -> None:
    await layer.accounts.put(account(1))
    await layer.positions.put(1, [position(12345)])
    await layer.symbols.put(spec("EURUSD"))
    token, _ = await layer.sessions.create("ann", [1])
    hashed = hashlib.sha256(token.encode()).hexdigest()
    async with deployment.client() as witness:
        for key, seconds in {
            "account:1": 60,
            "positions:1": 30,
            "symbol:EURUSD": 3600,
            f"session:{hashed}": 86_400,
        }.items():
            left = await witness.pttl(f"{namespace}:{key}")
            # Up to a tenth shorter, so that what was stored together does not expire together.
            assert seconds * 900 - 10_000 < left <= seconds * 1000, key

        async def left_of_a_price() -> int:
            await layer.prices.put(Price("BTCUSD", bid=95000.5, ask=95001.5))
            return max(0, await witness.pttl(f"{namespace}:price:BTCUSD"))

        assert await eventually(left_of_a_price) <= 1000
        assert json.loads(await witness.get(f"{namespace}:account:1")) == {
            "id": 1,
            "account_number": "RTX-000001",
            "balance": 10000.0,
            "equity": 10250.0,
            "margin": 500.0,
            "free_margin": 9750.0,
            "margin_level": 2050.0,
            "open_positions": 3,
        }
        assert token.encode() not in await witness.get(f"{namespace}:session:{hashed}")


async def test_every_cache_puts_gets_and_invalidates(
    deployment: Deployment, namespace: str
) -> None:
    async with rtx.open(deployment.settings(namespace, ttl={"price": 60})) as layer:
        numbers = range(1, 41)
        symbols = [f"SYM{number:03d}" for number in numbers]
        await layer.accounts.put_many(map(account, numbers))
        await layer.positions.put_many({number: [position(number)] for number in numbers})
        await layer.symbols.put_many(map(spec, symbols))
        await layer.prices.put_many([Price(name, bid=1.0, ask=2.0) for name in symbols])
        tokens = [(await layer.sessions.create("ann", [number]))[0] for number in range(3)]

        assert await layer.accounts.get(7) == account(7)
        assert await layer.positions.get(7) == (position(7),)
        assert await layer.symbols.get("SYM007") == spec("SYM007")
        price = await layer.prices.get("SYM007")
        assert price is not None
        assert (price.bid, price.mid, price.ask) == (1.0, 1.5, 2.0)

        asked = [*reversed(symbols), "MISSING"]
        assert list(await layer.prices.get_many(asked)) == asked[:-1]
        assert list(await layer.symbols.get_many(asked)) == asked[:-1]
        assert list(await layer.accounts.get_many([99, *numbers])) == [*numbers]
        assert list(await layer.positions.get_many([99, *numbers])) == [*numbers]
        assert [*(await layer.sessions.get_many([*tokens, "no token"]))] == tokens

        await layer.accounts.invalidate(*range(1, 21))
        await layer.positions.invalidate(*range(1, 21))
        await layer.symbols.invalidate(*symbols[:20])
        await layer.prices.invalidate(*symbols[:20])
        assert await layer.sessions.revoke(tokens[0])
        assert not await layer.sessions.revoke(tokens[0])
        assert [*(await layer.accounts.get_many(numbers))] == [*range(21, 41)]
        assert [*(await layer.positions.get_many(numbers))] == [*range(21, 41)]
        assert [*(await layer.symbols.get_many(symbols))] == symbols[20:]
        assert [*(await layer.prices.get_many(symbols))] == symbols[20:]
        assert await layer.sessions.get(tokens[0]) is None


async def test_what_another_program_wrote_is_read(
    deployment: Deployment, layer: rtx.DataLayer, namespace: str
) -> None:
    text = '{"symbol":"EURUSD","time":1768732245123,"bid":1.5,"ask":1.75,"venue":"X"}'
    async with deployment.client() as witness:
        await witness.set(f"{namespace}:price:EURUSD", text, ex=60)
        await witness.set(f"{namespace}:price:BROKEN", b"\x00\xff not JSON", ex=60)
    found = await layer.prices.get_many(["EURUSD", "BROKEN"])
    assert found == {"EURUSD": Price("EURUSD", 1.5, 1.75, 1768732245123)}
    assert layer.prices.stats.undecodable == 1
