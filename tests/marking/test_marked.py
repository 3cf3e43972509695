"""Accounts and positions at the latest prices, to the cent as the database would have them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from decimal import Decimal

import msgspec
import pytest
import redis.asyncio as redis_py

import rtx
from rtx.cache import Lookup
from rtx.database.sql import SqlDatabase
from rtx.feeds import INSTRUMENTS
from rtx.marking import MarkedAccount, MarkedPosition, valuation
from rtx.models import Side
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.cache.memory import MemoryDatabase, account, position
from tests.conftest import eventually
from tests.marking.conftest import Book


async def mark(book: Book) -> MarkedAccount:
    found = await book.layer.marked.account(book.account)
    assert found is not None
    return found


async def mark_in_the_database(book: Book, *symbols: str) -> rtx.Account:
    """Value every position there at the cached prices; the account as the database then has it."""
    prices = await book.layer.prices.get_many(symbols)
    async with book.database.update_account(book.account) as row:
        for held in row.positions:
            value = valuation.marked(held, INSTRUMENTS[held.symbol].spec, prices)
            assert value is not None
            await row.mark_position(held.id, *value)
    return (await book.database.accounts([book.account]))[book.account]


# --- figures ---------------------------------------------------------------------------------


async def test_equity_and_margin_level_are_at_the_latest_price(book: Book) -> None:
    bought = await book.open("EURUSD", "BUY", 1.0, 1.1000, margin="1100.00")
    await book.quote("EURUSD", 1.1012, 1.1014)
    found = await mark(book)
    assert found.account == rtx.Account(
        id=book.account,
        account_number="RTX-000001",
        balance=Decimal("10000.00"),
        equity=Decimal("10120.00"),
        margin=Decimal("1100.00"),
        free_margin=Decimal("9020.00"),
        margin_level=Decimal("920.00"),
        open_positions=1,
    )
    [marked] = found.positions
    assert marked.position == msgspec.structs.replace(
        bought, current_price=1.1012, unrealized_pnl=Decimal("120.00")
    )
    assert not marked.stale
    price = await book.layer.prices.get("EURUSD")
    assert price is not None
    assert marked.price_time == price.time
    assert (found.stale, found.consistent) == (frozenset(), True)
    assert await book.layer.marked.positions(book.account) == found.positions
    await book.quote("EURUSD", 1.0990, 1.0992)
    assert (await mark(book)).account.equity == Decimal("9900.00")
    # What is cached is as the database has it: nobody's marks are written.
    cached = await book.layer.accounts.get(book.account)
    assert cached is not None
    assert cached.equity == Decimal("10000.00")


async def test_what_is_marked_equals_the_databases_own_sums(
    book: Book, seeded: random.Random
) -> None:
    symbols = ["EURUSD", "USDJPY", "EURGBP", "XAUUSD", "GBPUSD"]
    sides: list[Side] = ["BUY", "SELL"]
    for number in range(12):
        symbol = seeded.choice(symbols)
        opened = INSTRUMENTS[symbol].price * seeded.uniform(0.9, 1.1)
        volume = round(seeded.uniform(0.01, 50), seeded.choice([2, 8]))
        await book.open(symbol, seeded.choice(sides), volume, opened, margin=f"{number * 100}.07")
        for name in symbols:
            bid = INSTRUMENTS[name].price * seeded.uniform(0.9, 1.1)
            await book.quote(name, bid, bid * 1.0001)
        found = await mark(book)
        expected = await mark_in_the_database(book, *symbols)
        assert found.account == expected
        assert rtx.codecs.encode(found.account) == rtx.codecs.encode(expected)
        positions = tuple(marked.position for marked in found.positions)
        assert positions == (await book.database.positions([book.account]))[book.account]
        assert not found.stale


async def test_an_account_without_positions_is_as_it_is(book: Book) -> None:
    found = await mark(book)
    assert found.account == await book.layer.accounts.get(book.account)
    assert found.positions == ()
    assert await book.layer.marked.positions(book.account) == ()


async def test_an_account_that_is_not_there_is_none(book: Book) -> None:
    assert await book.layer.marked.account(999) is None
    assert await book.layer.marked.positions(999) is None


async def test_the_boards_price_goes_before_the_cached_one(
    book: Book, witness: redis_py.Redis
) -> None:
    await book.open("EURUSD", "BUY", 1.0, 1.1)
    book.layer.board.follow("EURUSD")
    await book.layer.board.ready()
    await book.quote("EURUSD", 1.1010, 1.1011)
    await eventually(lambda: book.layer.board.get("EURUSD"))
    await witness.delete(book.layer.keys.price("EURUSD"))
    assert (await mark(book)).account.equity == Decimal("10100.00")


# --- stale -----------------------------------------------------------------------------------


async def test_without_a_fresh_price_a_position_stays_as_it_was_and_is_called_stale(
    book: Book,
) -> None:
    await book.open("EURUSD", "BUY", 1.0, 1.1)
    other = await book.open("GBPUSD", "SELL", 1.0, 1.25)
    async with book.layer.accounts.update(book.account) as row:
        await row.mark_position(other.id, 1.2490, Decimal("100.00"))
    await book.quote("EURUSD", 1.1010, 1.1011)
    found = await mark(book)
    assert found.stale == {"GBPUSD"}
    assert found.account.equity == Decimal("10200.00")
    stale = msgspec.structs.replace(other, current_price=1.2490, unrealized_pnl=Decimal("100.00"))
    assert found.positions[1] == MarkedPosition(stale, True, None)
    assert not found.positions[0].stale
    assert book.layer.marked.stats.stale == 1


async def test_a_conversion_that_is_missing_makes_it_stale_and_not_wrong(book: Book) -> None:
    await book.open("EURGBP", "BUY", 1.0, 0.86)
    await book.quote("EURGBP", 0.8700, 0.8702)
    found = await mark(book)
    assert found.stale == {"EURGBP"}
    assert found.account.equity == Decimal("10000.00")
    await book.quote("GBPUSD", 1.2500, 1.2500)
    found = await mark(book)
    assert found.stale == frozenset()
    assert found.account.equity == Decimal("11250.00")


async def test_a_symbol_without_a_spec_is_stale(book: Book) -> None:
    await book.open("NOSUCH", "BUY", 1.0, 1.0)
    await book.quote("NOSUCH", 2.0, 2.0)
    assert (await mark(book)).stale == {"NOSUCH"}


async def test_while_redis_is_away_the_databases_marks_are_given_as_stale(
    own_server: ServerProcess,
) -> None:
    records = MemoryDatabase([account(1)])
    hold(records, position(1))
    settings = Settings.load(url=own_server.url, ttl={"price": 60.0})
    async with rtx.open(settings, database=records) as layer:
        own_server.kill()
        await own_server.wait()
        found = await layer.marked.account(1)
        assert found is not None
        assert found.account == records.rows[1]
        assert (found.stale, found.consistent) == ({"EURUSD"}, True)


# --- account and positions of different moments ----------------------------------------------


def hold(records: MemoryDatabase, *held: rtx.Position, balance: str = "100.00") -> None:
    """Give account 1 these positions, as one commit does."""
    profits = sum((one.unrealized_pnl for one in held), Decimal(0))
    money = Decimal(balance)
    records.held[1] = held
    records.rows[1] = msgspec.structs.replace(
        account(1, balance), equity=money + profits, open_positions=len(held)
    )


@pytest.fixture
async def records() -> MemoryDatabase:
    return MemoryDatabase([account(1)])


@pytest.fixture
async def backed(lasting: Settings, records: MemoryDatabase) -> AsyncIterator[rtx.DataLayer]:
    async with rtx.open(lasting, database=records) as layer:
        yield layer


def gained(id: int, profit: str) -> rtx.Position:
    return msgspec.structs.replace(position(id), unrealized_pnl=Decimal(profit))


@pytest.mark.parametrize("stale", ["account", "positions"])
async def test_a_trade_behind_the_layers_back_is_read_from_the_database(
    backed: rtx.DataLayer, records: MemoryDatabase, stale: str
) -> None:
    hold(records, gained(1, "20.00"))
    await backed.accounts.get(1)
    await backed.positions.get(1)
    hold(records, balance="120.00")  # closed, by somebody who tells no cache
    await (backed.positions if stale == "account" else backed.accounts).invalidate(1)
    found = await backed.marked.account(1)
    assert found is not None
    assert found.account == account(1, "120.00")
    assert (found.positions, found.consistent) == ((), True)
    assert backed.marked.stats.dropped == 1
    assert await backed.accounts.get(1) == account(1, "120.00")
    assert await backed.positions.get(1) == ()


async def test_a_trade_between_the_two_reads_is_read_again(
    backed: rtx.DataLayer, records: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(records, gained(1, "20.00"))
    await backed.accounts.get(1)
    get = backed.positions.lookup

    async def late(id: int) -> Lookup[tuple[rtx.Position, ...]] | None:
        monkeypatch.undo()
        # Turned round: 20.00 are booked, and there is one position as before.
        hold(records, gained(2, "1.00"), balance="120.00")
        await asyncio.gather(backed.accounts.invalidate(1), backed.positions.invalidate(1))
        return await get(id)

    monkeypatch.setattr(backed.positions, "lookup", late)
    found = await backed.marked.account(1)
    assert found is not None
    assert found.account.balance == Decimal("120.00")
    assert found.account.equity == Decimal("121.00")
    assert found.consistent
    assert (backed.marked.stats.read_again, backed.marked.stats.dropped) == (1, 0)


async def test_a_trade_that_shows_in_no_figure_is_known_by_its_version(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = await book.open("EURUSD", "BUY", 1.0, 1.1, margin="100.00")
    assert (await mark(book)).account.margin == Decimal("100.00")
    get = book.layer.positions.lookup

    async def late(id: int) -> Lookup[tuple[rtx.Position, ...]] | None:
        monkeypatch.undo()
        async with book.layer.accounts.update(id) as row:  # twice the volume, at the same price
            await row.resize_position(position.id, 2.0, 1.1, Decimal("200.00"))
        return await get(id)

    monkeypatch.setattr(book.layer.positions, "lookup", late)
    found = await mark(book)
    assert found.positions[0].position.volume == 2.0
    assert found.account.margin == Decimal("200.00")
    assert book.layer.marked.stats.read_again == 1


async def test_a_database_that_contradicts_itself_is_told_and_not_asked_every_time(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    hold(records, gained(1, "20.00"))
    records.held[1] = (*records.held[1], gained(2, "5.00"))
    for _ in range(5):
        found = await backed.marked.account(1)
        assert found is not None
        assert not found.consistent
        assert found.account.equity == Decimal("125.00")
        assert found.account.open_positions == 2
    assert backed.marked.stats.inconsistent == 5
    assert backed.marked.stats.dropped == 1


async def test_without_a_database_what_was_put_is_kept_and_a_contradiction_told(
    layer: rtx.DataLayer,
) -> None:
    await layer.accounts.put(account(1))
    await layer.positions.put(1, [gained(1, "20.00")])
    found = await layer.marked.account(1)
    assert found is not None
    assert not found.consistent
    assert found.account.equity == Decimal("120.00")
    assert await layer.positions.get(1) is not None


async def test_when_the_database_fails_too_what_is_cached_is_given(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    hold(records, gained(1, "20.00"))
    await backed.accounts.get(1)
    await backed.positions.put(1, ())
    records.down = True
    found = await backed.marked.account(1)
    assert found is not None
    assert not found.consistent
    with pytest.raises(rtx.DatabaseUnavailable):
        await backed.marked.account(2)


async def test_equity_is_right_while_trades_go_on(
    book: Book, lasting: Settings, seeded: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is opened, closed or turned round at the market is worth 10,000 as before."""
    spec = INSTRUMENTS["EURUSD"].spec
    stop = asyncio.Event()
    counts = {"read": 0, "contradictions": 0}
    await book.quote("EURUSD", 1.1, 1.1)

    get = book.layer.positions.lookup

    async def late(id: int) -> Lookup[tuple[rtx.Position, ...]] | None:
        await asyncio.sleep(seeded.random() * 0.005)  # the account was read before
        return await get(id)

    monkeypatch.setattr(book.layer.positions, "lookup", late)

    def gain(opened: float) -> Decimal:
        return valuation.profit(spec, "BUY", 0.1, opened, 1.1, Decimal(1))

    async def trade(other: rtx.DataLayer) -> None:
        for _ in range(60):
            async with other.accounts.update(book.account) as row:
                held = list(row.positions)
                for one in seeded.sample(held, seeded.randint(0, len(held))):
                    row.balance += gain(one.open_price)
                    await row.close_position(one.id)
                for _ in range(seeded.randint(0, 2)):
                    opened = round(seeded.uniform(1.0, 1.2), 5)
                    one = await row.open_position("EURUSD", "BUY", 0.1, opened, Decimal("10.00"))
                    await row.mark_position(one.id, 1.1, gain(opened))
                    row.balance -= gain(opened)
            await asyncio.sleep(seeded.random() * 0.002)
        stop.set()

    async def look() -> None:
        while not stop.is_set():
            found = await mark(book)
            if found.consistent:
                counts["read"] += 1
                assert found.account.equity == Decimal("10000.00")
                assert found.account.margin == 10 * len(found.positions)
            else:
                counts["contradictions"] += 1

    database = SqlDatabase(book.url)
    async with rtx.open(lasting, database=database) as other:
        await asyncio.gather(trade(other), *(look() for _ in range(4)))
    print(counts, book.layer.marked.stats)
    assert counts["read"] > 20
    assert book.layer.marked.stats.read_again > 5
    assert (await mark(book)).consistent
