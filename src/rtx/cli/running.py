"""Running a command: the event loop, the signals that end it, and errors as one line.

The first Ctrl-C, SIGTERM or SIGHUP asks the command to end; the second ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeAlias

import typer

from rtx.cli import terminal
from rtx.errors import RtxError

Main: TypeAlias = Callable[[asyncio.Event], Awaitable[int | None]]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 1.7  # seconds in which a service ends by itself, within the 2 that Ctrl-C may take
_HUNG_AFTER = 4.0  # seconds after which an ending that does not end is cut short
_ECHO = 0.2  # a wrapper such as make may pass on the Ctrl-C that the terminal sent already


def run(main: Main, *, service: bool = False) -> NoReturn:
    """Run `main(stop)` in an event loop and leave with its exit code (None is 0).

    A service is told to end by `stop` and then leaves with 0. Anything else is cancelled, and
    leaves with 128 plus the signal's number, such as 130. An `RtxError` becomes one line and 1.
    """
    raise typer.Exit(_run(main, service))


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """The same for code without an event loop: an `RtxError` becomes one line, exit code 1."""
    try:
        yield
    except RtxError as error:
        terminal.error(str(error))
        raise typer.Exit(1) from None
    except BrokenPipeError:
        raise typer.Exit(_reader_gone()) from None


def _run(main: Main, service: bool) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    signals = _Signals()
    with signals:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                code = runner.run(_supervise(main, signals, service))
        except KeyboardInterrupt:
            code = None
        except Exception as error:
            known = _known(error)
            if isinstance(known, BrokenPipeError):
                return _reader_gone()
            if not isinstance(known, RtxError):
                raise
            terminal.error(str(known))
            return 1
    if signals.received and not service:
        return 128 + signals.received
    return code or 0


async def _supervise(main: Main, signals: _Signals, service: bool) -> int | None:
    stop = asyncio.Event()
    signals.attach(asyncio.get_running_loop(), stop)
    work = asyncio.ensure_future(main(stop))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not work.done():
        if service:
            await asyncio.wait((work,), timeout=_GRACE)
        work.cancel()
    try:
        return await work
    except asyncio.CancelledError:
        return None


def _known(error: Exception) -> BaseException:
    """The error itself, or the one that matters of a task group's several."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    kinds = (RtxError, BrokenPipeError)
    matching = error.subgroup(kinds)
    found: BaseException = error if matching is None else matching
    while isinstance(found, BaseExceptionGroup) and matching is not None:
        found = found.exceptions[0]
    return found


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _reader_gone() -> int:
    """Quiet, with the exit code of a program that SIGPIPE ended."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


class _Signals:
    """Handlers of the interpreter's own, which run even while a write to a terminal blocks."""

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._before: dict[int, signal.Handlers | Callable[..., object] | int | None] = {}
        self._watchdog: threading.Timer | None = None

    def __enter__(self) -> None:
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # All is done: one more Ctrl-C must not make a mess of the last words.
            signal.signal(number, signal.SIG_IGN if self.received else handler)
        if self._watchdog is not None:
            self._watchdog.cancel()

    def attach(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        self._loop, self._stop = loop, stop

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if now - self._at > _ECHO:
                _leave_at_once(number)
            return
        self.received, self._at = number, now
        self._watchdog = threading.Timer(_HUNG_AFTER, _leave_at_once, (number,))
        self._watchdog.daemon = True
        self._watchdog.start()
        if self._loop is None or self._stop is None:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._stop.set)


def _leave_at_once(number: int) -> NoReturn:
    terminal.restore()
    os._exit(128 + number)
