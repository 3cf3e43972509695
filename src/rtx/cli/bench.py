"""`rtx bench`: what this deployment does, use by use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtx.cli import options, terminal
from rtx.cli.comparing import load_run, show_comparison
from rtx.cli.running import errors_as_lines, run
from rtx.errors import SettingsError

if TYPE_CHECKING:
    from rtx.cli.measuring import Run
    from rtx.settings import Settings

_REFRESH = 0.1


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Time for each use.")] = 2.0,
    url: options.Url = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there too.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BEFORE AFTER", help="Measure nothing: two files of --json, in ratios."
        ),
    ] = None,
) -> None:
    """Measure the configured deployment from this machine.

    For each use: how long one call takes when nothing else is going on, in microseconds, and how
    many a second are done with 100 at once. For subscribe that is from publishing a tick to having
    it. Works in a random namespace of its own, which is empty again at the end. Without a url it
    measures a server started for this.

    \b
    Examples:
      rtx bench
      rtx bench --seconds 10 --json bench.json
      rtx bench --compare before.json after.json
    """
    if compare is not None:
        with errors_as_lines():
            show_comparison(*(load_run(path) for path in compare))
        return

    async def main(_: asyncio.Event) -> None:
        settings = options.load(url)
        if json is not None:
            _write(json, b"")
        if options.embedded_roles(settings) and not options.chosen(settings):
            terminal.note("no url is set: measuring a server started for this")
        results = await _with_progress(settings, seconds)
        _show(results)
        if json is not None:
            import msgspec

            _write(json, msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")

    run(main)


async def _with_progress(settings: Settings, seconds: float) -> Run:
    from rich.progress import BarColumn, Progress, TextColumn

    from rtx.cli.measuring import USES, measure

    columns = (TextColumn("{task.description:<10}"), BarColumn(bar_width=None))
    bar = Progress(
        *columns,
        console=terminal.stderr(),
        auto_refresh=False,
        transient=True,
        disable=not terminal.stderr().is_terminal,
    )
    task = bar.add_task("connecting", total=seconds * len(USES))
    begun: list[str] = []

    def starting(use: str) -> None:
        bar.update(task, description=use, completed=len(begun) * seconds)
        begun.append(use)

    work = asyncio.create_task(measure(settings, seconds, starting), name="rtx-bench")
    try:
        with bar:
            while not work.done():
                await asyncio.wait((work,), timeout=_REFRESH)
                bar.advance(task, _REFRESH if begun else 0.0)
                bar.refresh()
        return await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def _show(results: Run) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("use")
    for name in ("p50 µs", "p99 µs", "p99.9 µs", "per second"):
        table.add_column(name, justify="right")
    for result in results.uses:
        latencies = (result.p50_us, result.p99_us, result.p999_us)
        table.add_row(
            result.use, *(f"{value:,.0f}" for value in latencies), f"{result.per_second:,.0f}"
        )
    terminal.stdout().print(table)
    terminal.note(f"{', '.join(results.servers)}; {results.at_once} calls at once")


def _write(path: Path, text: bytes) -> None:
    try:
        path.write_bytes(text)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}; name another file with --json"
        ) from None
