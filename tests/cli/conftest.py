"""`rtx` as a program of its own: started, listened to, interrupted, and seen off."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

WITHIN = 30.0


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Running:
    """A command that runs; `end` waits for it and hands over what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._read: list[bytes] = []

    async def line(self) -> str:
        """The next line on standard output; fails with standard error when there is none."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN):
            line = await self.process.stdout.readline()
            if not line:
                ended = await self.end()
                raise AssertionError(f"it ended with {ended.code}: {ended.out}{ended.err}")
        self._read.append(line)
        return line.decode().rstrip("\n")

    async def line_with(self, text: str) -> str:
        while text not in (line := await self.line()):
            pass
        return line

    def children(self) -> set[int]:
        """Process ids of all its descendants that live."""
        return descendants(self.process.pid)

    async def end(self) -> Ended:
        async with asyncio.timeout(WITHIN):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        text = b"".join([*self._read, out or b""]).decode()
        return Ended(self.process.returncode, text, (err or b"").decode())

    async def interrupt(self, number: int = signal.SIGINT, within: float = 2.0) -> Ended:
        """Send a signal; it must end in time, quietly, and leave no child."""
        children = self.children()
        self.process.send_signal(number)
        started = time.monotonic()
        ended = await self.end()
        took = time.monotonic() - started
        assert took < within, f"it took {took:.2f} s to end"
        assert "Traceback" not in ended.err, ended.err
        left = {pid for pid in children if _lives(pid)}
        assert not left, f"left behind: {left}"
        return ended


class Rtx:
    """Runs `rtx` in a directory of its own, with RTX_ variables of the test's choice only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env: dict[str, str] = {}
        self.started: list[asyncio.subprocess.Process] = []

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("RTX_", "NO_COLOR"))}
        return {**outside, "COLUMNS": "80", **self.env, **(more or {})}

    async def start(
        self,
        *arguments: str | Path | int,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        stdout: int = asyncio.subprocess.PIPE,
        stdin_file: int = asyncio.subprocess.DEVNULL,
        stderr_file: int = asyncio.subprocess.PIPE,
    ) -> Running:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-W", "always::ResourceWarning"),
            *("-m", "rtx.cli", *map(str, arguments)),
            cwd=self.directory,
            env=self.environment(env),
            stdin=stdin_file if stdin is None else asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=stderr_file,
            start_new_session=True,  # a terminal that asks for a password is its own
        )
        self.started.append(process)
        if stdin is not None:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
        return Running(process)

    async def __call__(
        self,
        *arguments: str | Path | int,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> Ended:
        """Run to the end. No command may ever show a traceback."""
        ended = await (await self.start(*arguments, env=env, stdin=stdin)).end()
        assert "Traceback" not in ended.err, ended.err
        return ended


@pytest.fixture
async def rtx(tmp_path: Path) -> AsyncIterator[Rtx]:
    """The command, without a server."""
    command = Rtx(tmp_path)
    # A test run under nohup ignores SIGHUP, and so would every command that it starts.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield command
    signal.signal(signal.SIGHUP, hangup)
    for process in command.started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def connected(rtx: Rtx, shared_server: str, namespace: str) -> Rtx:
    """The command, set to the shared server under this test's namespace."""
    rtx.env |= {"RTX_URL": shared_server, "RTX_NAMESPACE": namespace}
    return rtx


def descendants(pid: int) -> set[int]:
    """All processes below one, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
