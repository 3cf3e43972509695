"""The commands joined, and what `rtx` says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

import rtx
from rtx.cli import (
    alerts,
    bench,
    config,
    demo,
    doctor,
    feed,
    latency,
    serve,
    server,
    tail,
    watch,
)
from rtx.cli.terminal import stdout

app = typer.Typer(
    name="rtx",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command, summary in (
    (demo.demo, "Everything on this machine, with a live page."),
    (serve.serve, "HTTP, WebSocket, SSE and the live page."),
    (feed.feed, "Bring prices in: simulated, a file, OANDA, an exchange."),
    (watch.watch, "Prices, servers and limits, live in the terminal."),
    (tail.tail, "Executions and alerts of an account."),
    (doctor.doctor, "Say what is wrong with the servers, and the fix."),
    (latency.latency, "Round trips of every use, gently, with a histogram."),
    (bench.bench, "Measure the servers, use by use."),
):
    app.command(command.__name__, short_help=summary)(command)
app.add_typer(alerts.app, name="alerts", short_help="Alert rules: list, add, remove, re-arm, run.")
app.add_typer(server.app, name="server", short_help="Start a local server; fail over a real one.")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        stdout().print(f"rtx {rtx.__version__}")
        raise typer.Exit


@app.callback()
def _rtx(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The real-time data layer of a trading engine, on Redis or Valkey.

    Settings come from rtx.toml here (or the file RTX_CONFIG names), then from environment
    variables RTX_…, then from options.

    \b
    Try it:
      rtx demo                            everything on this machine, with a live page
    Or part by part:
      rtx server                          a server to play with
      export RTX_URL=redis://127.0.0.1:6379
      rtx feed --source simulated         prices into it
      rtx watch EURUSD BTCUSD             and out of it
      rtx serve                           HTTP, WebSocket and SSE in front of it
    """
