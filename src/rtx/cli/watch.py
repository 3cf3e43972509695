"""`rtx watch`: live prices in the terminal."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

import rtx
from rtx import codecs
from rtx.cli import options, terminal
from rtx.cli.running import run

_REFRESH = 0.125


def watch(
    symbols: Annotated[
        list[str] | None, typer.Argument(help="Symbols; all of them when none is named.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after this many ticks.")
    ] = None,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """Show live prices: a table in a terminal, one line a tick when piped.

    A line is time, symbol, bid, ask, spread and liquidity provider; the first of a named symbol may
    be its cached price, which has no provider. Lost messages are told as a line that begins with
    gap.

    \b
    Examples:
      rtx watch
      rtx watch EURUSD BTCUSD
      rtx watch EURUSD --count 100 --json > ticks.jsonl
    """
    names = options.split(symbols) or ["*"]

    async def main(_: asyncio.Event) -> None:
        settings = options.load_for_server(url, "watch")
        async with rtx.open(settings) as layer:
            symbols = await _symbols(layer, names)
            if sys.stdout.isatty() and not json:
                await _table(layer, symbols, count)
            else:
                await _lines(layer, symbols, count, json)

    run(main)


async def _symbols(layer: rtx.DataLayer, names: list[str]) -> list[str]:
    """The names to subscribe to: a cluster has no `*`, there the database says what is meant."""
    if "*" in names and layer.hub.sharded and layer.database is not None:
        return sorted(await layer.database.symbols()) or names
    return names


async def _lines(layer: rtx.DataLayer, names: list[str], count: int | None, json: bool) -> None:
    left = count
    form = _json_line if json else _plain_line
    async with layer.market_data.subscribe(*names) as subscription:
        async for batch in subscription.batches():
            lines: list[bytes] = []
            for item in batch:
                lines.append(form(item))
                if left is not None and isinstance(item, rtx.Tick):
                    left -= 1
                    if left == 0:
                        break
            await terminal.write(b"".join(lines))
            if left == 0:
                return


async def _table(layer: rtx.DataLayer, names: list[str], count: int | None) -> None:
    from rich.live import Live

    from rtx.cli.board import Board

    board = Board(stale_after=layer.settings.ttl.price)
    done = asyncio.Event()

    async def take() -> None:
        async with layer.market_data.subscribe(*names) as subscription:
            async for batch in subscription.batches():
                for item in batch:
                    board.take(item)
                if count is not None and board.ticks >= count:
                    done.set()
                    return

    taker = asyncio.create_task(take(), name="rtx-watch")
    try:
        with Live(console=terminal.stdout(), auto_refresh=False, screen=False) as live:
            while not (taker.done() or done.is_set()):
                down = None if layer.hub.down is None else layer.hub.down[1]
                live.update(board.render(down), refresh=True)
                await asyncio.wait((taker,), timeout=_REFRESH)
            live.update(board.render(None), refresh=True)
        await taker
    finally:
        taker.cancel()
        await asyncio.gather(taker, return_exceptions=True)


def _json_line(item: rtx.Tick | rtx.Gap) -> bytes:
    return codecs.encode(item) + b"\n"


def _plain_line(item: rtx.Tick | rtx.Gap) -> bytes:
    if isinstance(item, rtx.Gap):
        return gap_line(item)
    return (
        f"{codecs.iso(item.time)} {item.symbol} {item.bid!r} {item.ask!r} "
        f"{round(item.ask - item.bid, 10):.10g} {item.lp or '-'}\n"
    ).encode()


def gap_line(gap: rtx.Gap) -> bytes:
    """A break as a line: what, for how long, and whether anything is missing."""
    missing = "nothing is missing" if gap.recovered else "messages may be missing"
    skipped = f", {gap.skipped} dropped here" if gap.skipped else ""
    return f"gap {gap.channel} {gap.duration:.3f} s: {gap.cause}{skipped}; {missing}\n".encode()
