"""`rtx feed`: prices into the configured server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

import rtx
from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.errors import FeedError

if TYPE_CHECKING:
    from rtx.feeds import Feed, FeedReport

_LOOK_EVERY = 0.1


class Source(StrEnum):
    """Where prices come from."""

    SIMULATED = "simulated"
    REPLAY = "replay"
    OANDA = "oanda"
    CCXT = "ccxt"


_OWN_OPTIONS = {
    Source.SIMULATED: {"--symbol", "--seed", "--rate"},
    Source.REPLAY: {"FILE", "--symbol", "--speed", "--lp"},
    Source.OANDA: {"--symbol", "--account", "--token-file", "--live"},
    Source.CCXT: {"--symbol", "--exchange"},
}


def feed(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Tick file to replay, plain or gzipped.")
    ] = None,
    source: Annotated[
        Source | None,
        typer.Option("--source", help="Where prices come from; replay if a FILE is named."),
    ] = None,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", metavar="S", help="Symbol; again for more. Replay takes one."),
    ] = None,
    speed: Annotated[
        str | None, typer.Option(metavar="1|60|max", help="Replay: its own pace, faster, at once.")
    ] = None,
    lp: Annotated[str | None, typer.Option(help="Replay: name of the liquidity provider.")] = None,
    seed: Annotated[int | None, typer.Option(help="Simulated: the same seed, same prices.")] = None,
    rate: Annotated[float | None, typer.Option(help="Simulated: ticks per second, 80.")] = None,
    account: Annotated[str | None, typer.Option(help="OANDA: id of the account.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="OANDA: file with the API token, else OANDA_TOKEN.")
    ] = None,
    live: Annotated[
        bool | None, typer.Option("--live/--practice", help="OANDA: kind of account, practice.")
    ] = None,
    exchange: Annotated[
        str | None, typer.Option(help="ccxt: name of the exchange, such as kraken.")
    ] = None,
    metrics_port: options.MetricsPort = None,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """Bring prices in and publish them to the configured server.

    Ends with the file, or with Ctrl-C, and reports how many ticks it published, how fast, and how
    many were refused and why. Exit code 1 when ticks could not be delivered.

    \b
    Examples:
      rtx feed --source simulated --rate 200
      rtx feed --source replay eurusd.csv --symbol EURUSD --speed 60
      rtx feed --source oanda --account 101-004-1234567-001 --token-file token --symbol EURUSD
      rtx feed --source ccxt --exchange kraken --symbol BTC/USDT --symbol ETH/USDT
    """
    chosen = source or (Source.REPLAY if file is not None else Source.SIMULATED)
    given = {
        "FILE": file,
        "--symbol": symbol,
        "--speed": speed,
        "--lp": lp,
        "--seed": seed,
        "--rate": rate,
        "--account": account,
        "--token-file": token_file,
        "--live": live,
        "--exchange": exchange,
    }
    strange = [
        name
        for name, value in given.items()
        if value is not None and name not in _OWN_OPTIONS[chosen]
    ]
    if strange:
        raise typer.BadParameter(
            f"{', '.join(strange)} means nothing to --source {chosen}; "
            f"it has {', '.join(sorted(_OWN_OPTIONS[chosen]))}"
        )
    symbols = options.split(symbol)

    def make() -> Feed:
        match chosen:
            case Source.SIMULATED:
                return _simulated(symbols, seed, rate)
            case Source.REPLAY:
                return _replay(file, symbols, speed, lp)
            case Source.OANDA:
                return _oanda(symbols, account, token_file, bool(live))
            case Source.CCXT:
                return _ccxt(symbols, exchange)

    _check_needs(chosen, given)

    async def main(_: asyncio.Event) -> int:
        settings = options.load_for_server(url, "publish to")
        source_of_ticks = make()
        async with rtx.open(settings) as layer, options.metrics_served(layer, metrics_port):
            return await _pump(layer, source_of_ticks, json)

    run(main)


_NEEDS = {
    Source.SIMULATED: (),
    Source.REPLAY: ("FILE",),
    Source.OANDA: ("--account", "--symbol"),
    Source.CCXT: ("--exchange", "--symbol"),
}


def _check_needs(source: Source, given: Mapping[str, object]) -> None:
    missing = [name for name in _NEEDS[source] if given[name] is None]
    if missing:
        raise typer.BadParameter(f"--source {source} needs {' and '.join(missing)}")
    symbols = given["--symbol"]
    if source is Source.REPLAY and isinstance(symbols, list) and len(options.split(symbols)) > 1:
        raise typer.BadParameter("--source replay takes one --symbol")


# --- the sources ---------------------------------------------------------------------------


def _simulated(symbols: list[str], seed: int | None, rate: float | None) -> Feed:
    from rtx.feeds import SimulatedFeed

    names = symbols or None
    if rate is None:
        return SimulatedFeed(seed=seed, symbols=names)
    return SimulatedFeed(seed=seed, symbols=names, rate=rate)


def _replay(file: Path | None, symbols: list[str], speed: str | None, lp: str | None) -> Feed:
    from rtx.feeds import ReplayFeed, parse_speed

    assert file is not None
    pace = 1.0 if speed is None else parse_speed(speed)
    return ReplayFeed(file, symbols[0] if symbols else None, pace, lp or "REPLAY")


def _oanda(symbols: list[str], account: str | None, token_file: Path | None, live: bool) -> Feed:
    from rtx.feeds import OandaFeed
    from rtx.feeds.oanda import LIVE, PRACTICE

    url = LIVE if live else PRACTICE
    return OandaFeed(_token(token_file), account or "", symbols, url=url)


def _token(path: Path | None) -> SecretStr:
    if path is None:
        token = os.environ.get("OANDA_TOKEN", "")
        if not token:
            raise FeedError("no OANDA token; name a file with --token-file, or set OANDA_TOKEN")
        return SecretStr(token)
    try:
        return SecretStr(path.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FeedError(
            f"the token file {path} cannot be read: {cause}; check the path and its permissions"
        ) from None


def _ccxt(symbols: list[str], exchange: str | None) -> Feed:
    from rtx.feeds import ExchangeFeed

    return ExchangeFeed.connect(exchange or "", symbols)


# --- running one ---------------------------------------------------------------------------


async def _pump(layer: rtx.DataLayer, source: Feed, json: bool) -> int:
    from rtx.cli.progress import feed_progress
    from rtx.feeds import Pump

    pump = Pump(source, layer.market_data.publish_many, layer.feeds)
    work = asyncio.create_task(pump.run(), name="rtx-feed")
    try:
        with feed_progress(source.name) as progress:
            while not work.done():
                report = pump.report
                rate = report.published / report.seconds if report.seconds else 0.0
                progress.show(getattr(source, "progress", None), report.published, rate)
                await asyncio.wait((work,), timeout=_LOOK_EVERY)
        await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        _tell(source.name, pump.report, json)
    lost = {
        reason: count
        for reason, count in pump.report.refused.items()
        if reason in ("unavailable", "server_busy", "not_writable", "out_of_memory")
    }
    if lost:
        missing = terminal.count(sum(lost.values()), "tick")
        terminal.error(
            f"{missing} could not be delivered ({', '.join(lost)}); "
            "see to the server, then feed again"
        )
        return 1
    return 0


def _tell(name: str, report: FeedReport, json: bool) -> None:
    if json:
        import msgspec

        terminal.stdout().out(msgspec.json.encode(report).decode())
        return
    from rtx.cli.progress import report_lines

    for line in report_lines(name, report):
        terminal.stdout().print(line, markup=False)
