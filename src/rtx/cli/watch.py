"""`rtx watch`: prices, servers and limits, live in the terminal."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

import rtx
from rtx import codecs
from rtx.cli import options, terminal
from rtx.cli.running import run

_FRAME = 0.25  # seconds: eyes and processors have enough of four a second
_LOOK = 1.0  # seconds between two looks at the servers


def watch(
    symbols: Annotated[
        list[str] | None, typer.Argument(help="Symbols; all of them when none is named.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after this many ticks.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME:ID", help="Show what is left to an id, as orders:1."),
    ] = None,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """Show live prices and the servers: a full screen in a terminal, one line a tick when piped.

    The screen has each server with its role, round trip, commands per second, hit rate, memory
    and how far a replica is behind, the rate and age of ticks, the limits, and the prices. Rates
    are of the last ten seconds. q ends it.

    A line is time, symbol, bid, ask, spread and liquidity provider; the first of a named symbol may
    be its cached price, which has no provider. Lost messages are told as a line that begins with
    gap.

    \b
    Examples:
      rtx watch
      rtx watch EURUSD BTCUSD --limit orders:1 --limit api:ann
      rtx watch EURUSD --count 100 --json > ticks.jsonl
    """
    names = options.split(symbols) or ["*"]
    ids = [_limit_id(text) for text in options.split(limit)]

    async def main(_: asyncio.Event) -> None:
        settings = options.load_for_server(url, "watch")
        async with rtx.open(settings) as layer:
            for name, _id in ids:
                layer.limits[name]  # a name that is not known ends it here
            symbols = await _symbols(layer, names)
            out = terminal.stdout()
            if out.is_terminal and not out.is_dumb_terminal and not json:
                await _screen(layer, symbols, count, ids)
            else:
                await _lines(layer, symbols, count, json)

    run(main)


def _limit_id(text: str) -> tuple[str, str]:
    name, _, id = text.partition(":")
    if not name or not id:
        raise typer.BadParameter(f"{text!r} is not NAME:ID, such as orders:1", param_hint="--limit")
    return name, id


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


async def _screen(
    layer: rtx.DataLayer, names: list[str], count: int | None, ids: list[tuple[str, str]]
) -> None:
    from rich.live import Live

    from rtx.cli.board import Board
    from rtx.cli.screen import Screen

    board = Board(stale_after=layer.settings.ttl.price)
    screen = Screen(layer, board, ids)
    began = time.monotonic()
    done = asyncio.Event()

    async def take() -> None:
        async with layer.market_data.subscribe(*names) as subscription:
            async for batch in subscription.batches():
                for item in batch:
                    board.take(item)
                if count is not None and board.ticks >= count:
                    done.set()
        done.set()

    async def look() -> None:
        while True:
            await screen.look()
            await asyncio.sleep(_LOOK)

    async def draw() -> None:
        out = terminal.stdout()
        with Live(console=out, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while not done.is_set():
                live.update(screen.render(out.height), refresh=True)
                await asyncio.sleep(_FRAME)

    def pressed(keys: bytes) -> None:
        if b"q" in keys or b"Q" in keys:
            done.set()

    try:
        with terminal.keys(pressed), terminal.full_screen():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each()) for each in (take, look, draw)]
                await done.wait()
                for task in tasks:
                    task.cancel()
    finally:
        await screen.close()
        took = time.monotonic() - began
        terminal.stdout().print(
            f"{terminal.count(board.ticks, 'tick')} of {terminal.count(len(board), 'symbol')} "
            f"in {took:.0f} s, {terminal.count(board.gaps, 'gap')}"
        )


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
