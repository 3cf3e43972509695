"""A terminal of the test's own, and what a command draws there."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress

from tests.cli.conftest import Rtx, Running
from tests.conftest import eventually

FRAME = "\x1b[H"  # the cursor goes home before each picture of a full screen
_NEXT = re.compile(r"\x1b\[H|\x1b\[\?1049[hl]")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal; `raw` is all that was written to it so far, once it was looked at."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._screen, self.file = pty.openpty()
        os.set_blocking(self._screen, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.raw = ""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, size)

    def press(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def look(self) -> str:
        """What was written, without its control sequences."""
        with suppress(BlockingIOError, OSError):
            while data := os.read(self._screen, 65536):
                self.raw += self._decoder.decode(data)
        return _CONTROL.sub("", self.raw)

    def shows(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.look()

    @property
    def frames(self) -> list[str]:
        """What was written from one move to the top, or change of screens, to the next."""
        self.look()
        return [_CONTROL.sub("", frame) for frame in _NEXT.split(self.raw)]

    @property
    def widest(self) -> int:
        return max(len(line) for frame in self.frames for line in re.split(r"[\r\n]+", frame))

    def settings(self) -> list[object]:
        """Those of its line discipline, which a command must leave as it found them."""
        return termios.tcgetattr(self.file)

    async def ended(self, running: Running, within: float = 10.0) -> int:
        """The exit code; it is read meanwhile, as a terminal would be."""

        def gone() -> bool:
            self.look()
            return running.process.returncode is not None

        await eventually(gone, within=within)
        self.look()
        assert running.process.returncode is not None
        return running.process.returncode

    def close(self) -> None:
        os.close(self.file)
        os.close(self._screen)


async def in_terminal(
    rtx: Rtx, terminal: Terminal, *arguments: str | int, env: Mapping[str, str] | None = None
) -> Running:
    """Start a command whose three streams are the terminal, which says how large it is."""
    return await rtx.start(
        *arguments,
        env={"TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **(env or {})},
        stdin_file=terminal.file,
        stdout=terminal.file,
        stderr_file=terminal.file,
    )
