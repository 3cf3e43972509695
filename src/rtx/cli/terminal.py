"""Writing to the terminal or a pipe: plain lines for programs, a little colour for people.

Standard output has what was asked for; notes, progress and errors go to standard error. Nothing is
coloured when it is piped or NO_COLOR is set.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from functools import cache

from rich.console import Console
from rich.text import Text

_PIPE_BUF = 4096  # a pipe that select calls writable takes this much without a wait


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the runner end the command, in place of rich's exit from within."""
        raise BrokenPipeError


@cache
def stdout() -> Console:
    """Standard output, for results."""
    return _Console(highlight=False, soft_wrap=not sys.stdout.isatty())


@cache
def stderr() -> Console:
    """Standard error, for notes and progress."""
    return _Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Say something in passing, on standard error."""
    stderr().print(Text(text, style="dim"), soft_wrap=True)


def error(text: str) -> None:
    """One line `error: cause; remedy` on standard error."""
    line = " ".join(text.split()) or "unknown"
    stderr().print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)


def count(number: int, noun: str) -> str:
    """`1 tick`, `9,500 ticks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


async def write(data: bytes) -> None:
    """Write all of it to standard output; a reader that is slow holds up only the caller.

    Raises `BrokenPipeError` when the reader has gone.
    """
    descriptor = sys.stdout.fileno()
    view = memoryview(data)
    while view:
        pause = 0.001
        while not select.select((), (descriptor,), (), 0)[1]:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        view = view[os.write(descriptor, view[:_PIPE_BUF]) :]
