"""How far a feed is, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from rtx.cli import terminal
from rtx.cli.terminal import count
from rtx.feeds import FeedReport

_LINE_EVERY = 10.0  # seconds, where there is no terminal to draw a bar in


class FeedProgress:
    """A bar where standard error is a terminal, else a line every 10 s; see `feed_progress`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next_line = time.monotonic() + _LINE_EVERY
        self._bar: Progress | None = None
        if terminal.stderr().is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                _Share(),
                TextColumn("{task.fields[counts]}"),
                TimeElapsedColumn(),
                console=terminal.stderr(),
                auto_refresh=False,  # it would take a thread of its own
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task(name, total=None, counts="")

    def show(self, share: float | None, published: int, rate: float) -> None:
        """Show the share done (0 to 1, None if there is no end), ticks so far and per second."""
        counts = f"{published:,} ticks, {rate:,.0f}/s"
        if self._bar is not None:
            total = None if share is None else 1.0
            self._bar.update(self._task, total=total, completed=share or 0.0, counts=counts)
            self._bar.refresh()
        elif time.monotonic() >= self._next_line:
            self._next_line += _LINE_EVERY
            done = "" if share is None else f"{share:.0%}, "
            terminal.note(f"{self._name}: {done}{counts}")

    def start(self) -> None:
        if self._bar is not None:
            self._bar.start()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def feed_progress(name: str) -> Iterator[FeedProgress]:
    """Progress of a feed, taken from the terminal again at the end."""
    progress = FeedProgress(name)
    progress.start()
    try:
        yield progress
    finally:
        progress.stop()


class _Share(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.percentage:.0f} %")


def report_lines(name: str, report: FeedReport) -> list[str]:
    """What a feed did, in a few lines."""
    rate = report.published / report.seconds if report.seconds else 0.0
    lines = [
        f"{name}: published {count(report.published, 'tick')} in {report.seconds:.2f} s "
        f"({rate:,.0f} per second)"
    ]
    refused = sum(report.refused.values())
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(report.refused.items()))
    lines.append(f"refused {refused:,}: {reasons}" if refused else "refused none")
    if report.first_malformed:
        lines.append(f"first malformed: {report.first_malformed}")
    if report.steps_back:
        lines.append(f"{count(report.steps_back, 'tick')} older than the one before of its symbol")
    if report.reconnects:
        lines.append(f"{count(report.reconnects, 'reconnect')}")
    return lines
