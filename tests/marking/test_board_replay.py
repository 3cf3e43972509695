"""A day's first real quotes, published as fast as they go, with a board beside."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import rtx
from rtx.models import Account, Position, SymbolSpec
from rtx.settings import Settings
from tests.conftest import eventually, shared_data

SPEC = SymbolSpec("EURUSD", "Euro / US Dollar", "EUR", "USD", 5, 100_000.0, 0.01)
HELD = Position(1, "EURUSD", "BUY", 1.37, 1.12, 1.12, Decimal("0.00"))
BALANCE, MARGIN = Decimal("10000.00"), Decimal("1534.40")


def quotes(path: Path) -> list[tuple[int, str, str]]:
    """Time in epoch milliseconds, bid and ask as written; the file's hours are taken for UTC."""
    found = []
    for line in path.read_text("ascii").splitlines():
        at, bid, ask, _ = line.split(",")
        second = datetime.strptime(at[:15], "%Y%m%d %H%M%S").replace(tzinfo=UTC)
        found.append((int(second.timestamp()) * 1000 + int(at[15:]), bid, ask))
    return found


async def test_the_board_ends_at_the_last_tick_and_never_goes_back(lasting: Settings) -> None:
    rows = quotes(shared_data("eurusd-2020-01-01.histdata.csv"))
    assert len(rows) == 9_500
    ticks = [rtx.Tick("EURUSD", time=at, bid=float(bid), ask=float(ask)) for at, bid, ask in rows]
    known = {(tick.time, tick.bid, tick.ask) for tick in ticks}
    seen: list[rtx.Price] = []

    async with rtx.open(lasting) as feed, rtx.open(lasting) as layer:
        await layer.symbols.put(SPEC)
        zero = Decimal(0)
        await layer.accounts.put(
            Account(1, "RTX-000001", BALANCE, BALANCE, MARGIN, BALANCE - MARGIN, zero, 1)
        )
        await layer.positions.put(1, [HELD])
        layer.board.follow("EURUSD")
        await layer.board.ready()

        async def watch() -> None:
            while True:
                price = layer.board.get("EURUSD")
                if price is not None and (not seen or seen[-1] != price):
                    seen.append(price)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        started = time.perf_counter()
        for start in range(0, len(ticks), 100):
            published = await feed.market_data.publish_many(ticks[start : start + 100])
            assert not published.refused
        took = time.perf_counter() - started
        at, bid, ask = rows[-1]
        last = rtx.Price("EURUSD", float(bid), float(ask), at)
        await eventually(lambda: layer.board.get("EURUSD") == last)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        print(
            f"{len(ticks) / took:,.0f} ticks/s published; the board took {layer.board.stats.ticks} "
            f"and was seen with {len(seen)}"
        )
        times = [price.time for price in seen]
        assert times == sorted(times)
        assert {(price.time, price.bid, price.ask) for price in seen} <= known
        assert len(seen) > 10

        found = await layer.marked.account(1)
        assert found is not None
        profit = ((Decimal(bid) - Decimal("1.12")) * Decimal("1.37") * 100_000).quantize(
            Decimal("0.01")
        )
        [marked] = found.positions
        assert marked.position.unrealized_pnl == profit
        assert (marked.position.current_price, marked.price_time) == (float(bid), at)
        assert found.account.equity == BALANCE + profit
        assert found.account.free_margin == BALANCE + profit - MARGIN
        assert (found.stale, found.consistent) == (frozenset(), True)


async def test_quotes_that_come_in_any_order_leave_the_newest(lasting: Settings) -> None:
    rows = quotes(shared_data("eurusd-2020-01-01.histdata.csv"))[:2_000]
    newest = max(at for at, _, _ in rows)
    async with rtx.open(lasting) as layer:
        layer.board.follow("EURUSD")
        await layer.board.ready()
        latest = 0
        for at, bid, ask in sorted(rows, key=lambda row: row[0] * 7_919 % 10_007):
            await layer.market_data.publish(
                rtx.Tick("EURUSD", time=at, bid=float(bid), ask=float(ask))
            )
            if (price := layer.board.get("EURUSD")) is not None:
                assert price.time >= latest
                latest = price.time
        await eventually(lambda: (p := layer.board.get("EURUSD")) and p.time == newest)
        assert layer.board.stats.late > 1_000
