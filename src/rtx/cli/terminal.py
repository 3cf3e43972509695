"""Writing to the terminal or a pipe: plain lines for programs, a little colour for people.

Standard output has what was asked for; notes, progress and errors go to standard error. Nothing is
coloured when it is piped or NO_COLOR is set.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


_undo: list[Callable[[], None]] = []


@contextmanager
def keys(pressed: Callable[[bytes], None]) -> Iterator[None]:
    """Hand keys over as they are pressed, and show none; does nothing without a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        found = b""
        with suppress(OSError):  # it was hung up
            found = os.read(descriptor, 64)
        if found:
            pressed(found)
        else:
            loop.remove_reader(descriptor)

    def undo() -> None:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    tty.setcbreak(descriptor)
    _undo.append(undo)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        _undo.remove(undo)
        undo()


@contextmanager
def full_screen() -> Iterator[None]:
    """Have `restore` leave the screen that rich's `Live` fills while this lasts."""

    def undo() -> None:
        os.write(sys.stdout.fileno(), b"\x1b[?1049l")

    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


def restore() -> None:
    """Give the terminal back as it was, for a process that ends at once."""
    for undo in _undo:
        with suppress(OSError, termios.error):
            undo()
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # show the cursor that a live table hid


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
