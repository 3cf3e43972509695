"""`rtx demo`: everything on this machine, with a live page."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtx.cli import terminal
from rtx.cli.running import run

if TYPE_CHECKING:
    from rtx.cli.progress import FeedProgress
    from rtx.demo.run import DemoEvent, Started


def demo(
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Play this tick file in place of chance.")
    ] = None,
    symbol: Annotated[
        str | None, typer.Option(help="Symbol of the file, if it has no symbol column.")
    ] = None,
    speed: Annotated[
        str, typer.Option(help="Pace of the replay: 1 as recorded, 60 faster, max at once.")
    ] = "1",
    host: Annotated[str, typer.Option(help="Address of the live page.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")
    ] = 8000,
    seed: Annotated[int | None, typer.Option(help="Same seed, same prices.")] = None,
    rate: Annotated[float, typer.Option(help="Simulated ticks per second.")] = 80.0,
    directory: Annotated[
        Path | None, typer.Option(help="Keep accounts and logs here; else they go with the demo.")
    ] = None,
) -> None:
    """Run everything here: server, database, prices, a paper broker, the gateway, a live page.

    Needs nothing else installed or running. Ends with Ctrl-C, within 2 s, and leaves nothing behind
    but what is in --directory.

    \b
    Examples:
      rtx demo
      rtx demo --replay eurusd.csv --symbol EURUSD --speed 60
    """

    async def main(stop: asyncio.Event) -> None:
        from rtx.demo.run import DemoOptions, run_demo
        from rtx.feeds import parse_speed

        chosen = DemoOptions(
            host=host,
            port=port,
            replay=replay,
            symbol=symbol,
            speed=parse_speed(speed),
            seed=seed,
            rate=rate,
            directory=directory,
        )
        with _Reporter() as reporter:
            await run_demo(chosen, stop, reporter.take)

    run(main, service=True)


class _Reporter(ExitStack):
    """Shows what the demo tells of itself."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: FeedProgress | None = None

    def take(self, event: DemoEvent) -> None:
        from rtx.cli.progress import feed_progress, report_lines
        from rtx.demo.run import Notice, ReplayDone, ReplayProgress, Started

        match event:
            case Started():
                _announce(event)
            case ReplayProgress(progress=share, published=published, rate=rate):
                if self._progress is None:
                    self._progress = self.enter_context(feed_progress("replay"))
                self._progress.show(share, published, rate)
            case ReplayDone(report=report):
                self.close()
                self._progress = None
                for line in report_lines("replay", report):
                    terminal.stdout().print(line, markup=False)
                terminal.note("the page goes on being served; Ctrl-C ends")
            case Notice(text=text):
                terminal.note(text)


def _announce(started: Started) -> None:
    out = terminal.stdout()
    out.print()
    out.print(f"  RTX demo at [bold cyan]{started.url}[/]", highlight=False)
    out.print()
    out.print(f"  watch in another terminal   RTX_URL={started.redis_url} rtx watch")
    if started.accounts:
        first = started.accounts[0]
        out.print(f"  follow an account           RTX_URL={started.redis_url} rtx tail {first}")
    out.print("  end                         Ctrl-C")
    out.print()
