"""`rtx latency`: round trips of every use, one at a time, until somebody has seen enough."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rtx.cli import options, terminal
from rtx.cli.running import run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rtx.cli.roundtrips import Use

_REFRESH = 0.5
_WIDEST = 80
_NAME = 36  # columns of a use's name
_SHARES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))


def latency(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="End after so long; else Ctrl-C ends it.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many of each.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1_000, help="Round trips a second, of all together.")
    ] = 100.0,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """Measure round trips against the configured servers, one at a time.

    PING of each primary and replica, a price read, a tick from publishing it to having it on a
    subscription of its own, and a hit of a limit of its own: in a random namespace, which is empty
    again at the end, at a rate that disturbs nobody. Ctrl-C ends it with the summary. What fails is
    counted, and not timed. Exit code 1 when nothing came back at all.

    \b
    Examples:
      rtx latency
      rtx latency --seconds 60 --rate 20
      rtx latency --count 1000 --json | jq '.[] | [.use, .p99_us]'
    """

    async def main(stop: asyncio.Event) -> int:
        settings = options.load_for_server(url, "measure")
        from rtx.cli.roundtrips import measure, uses

        async with uses(settings) as measured:
            began = time.monotonic()
            work = asyncio.create_task(measure(measured, stop, rate=rate, count=count))
            try:
                await _until_done(work, measured, stop, seconds)
                await work
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            took = time.monotonic() - began
            if json:
                terminal.stdout().out(_as_json(measured))
            else:
                _show(measured, took)
            return 0 if any(use.times.count for use in measured) else 1

    run(main, service=True)


async def _until_done(
    work: asyncio.Task[None], uses: list[Use], stop: asyncio.Event, seconds: float | None
) -> None:
    """Wait for the end, or call for it after so many seconds; a live table where people look."""
    from rich.live import Live

    end = None if seconds is None else time.monotonic() + seconds
    console = terminal.stderr()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not work.done():
            left = _REFRESH if end is None else min(end - time.monotonic(), _REFRESH)
            if left <= 0:
                stop.set()
                return
            await asyncio.wait((work,), timeout=left)
            if console.is_terminal and not console.is_dumb_terminal:
                live.update(_table(uses, console.width), refresh=True)


def _table(uses: Sequence[Use], width: int) -> RenderableType:
    from rich.text import Text

    lines = [_line("µs", "count", "min", "avg", *(name for name, _ in _SHARES), "max")]
    for use in uses:
        times = use.times
        figures = [f"{times.count:,}"]
        if times.count:
            several = (times.least, times.mean, *(times.quantile(share) for _, share in _SHARES))
            figures += [_figure(seconds) for seconds in (*several, times.most)]
        lines.append(_line(use.name, *figures))
        if use.failures:
            what = terminal.count(use.failures, "failure")
            lines.append(f"  {what}: {use.error}"[: max(width, 20)])
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def _line(name: str, count: str, *figures: str) -> str:
    name = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
    return f"{name:<{_NAME}}{count:>8}{''.join(f'{each:>6}' for each in figures)}"


def _figure(seconds: float) -> str:
    """Microseconds in five columns; those over 99,999 as thousands, with a k."""
    value = seconds * 1e6
    return f"{value:.0f}" if value < 99_999.5 else f"{value / 1e3:.0f}k"


def _show(uses: Sequence[Use], took: float) -> None:
    out = terminal.stdout()
    width = min(out.width, _WIDEST)
    out.print(_table(uses, width), soft_wrap=True)
    mark = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    for use in uses:
        if use.times.count:
            out.out(f"\n{use.name}", highlight=False)
            for line in use.times.bars(width, mark):
                out.out(line, highlight=False)
    total = sum(use.times.count for use in uses)
    out.out(f"\n{terminal.count(total, 'round trip')} in {took:.1f} s", highlight=False)


def _as_json(uses: Sequence[Use]) -> str:
    import msgspec

    def us(seconds: float) -> float:
        return round(seconds * 1e6, 1)

    found = []
    for use in uses:
        times = use.times
        quantiles = {
            f"p{name[1:].replace('.', '')}_us": us(times.quantile(share)) for name, share in _SHARES
        }
        figures = (
            {"min_us": us(times.least), "avg_us": us(times.mean), **quantiles,
             "max_us": us(times.most)}
            if times.count
            else {}
        )  # fmt: skip
        ranges = [
            {"above_us": us(above), "up_to_us": us(upto) if upto < 1e9 else None, "count": number}
            for above, upto, number in times.ranges()
        ]
        found.append(
            {"use": use.name, "count": times.count, "failures": use.failures, "error": use.error}
            | figures
            | {"histogram": ranges}
        )
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
