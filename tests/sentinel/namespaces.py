"""Two networks on this machine with a cable between them that can be pulled. Linux, as root."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_NETWORK = 0x40000000  # CLONE_NEWNET


def missing() -> str:
    """Why network namespaces cannot be used here; empty where they can."""
    if shutil.which("ip") is None:
        return "no `ip` here: install iproute2"
    name = f"rtx{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Networks:
    """Namespaces `near` (10.77.0.1) and `far` (10.77.0.2), each on a bridge in a third one.

    `cut` takes the far one off the bridge: packets vanish, and nobody is told.
    """

    NEAR = "10.77.0.1"
    FAR = "10.77.0.2"

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.near, self.far, self._middle = (f"rtx{tag}{side}" for side in ("n", "f", "m"))

    def __enter__(self) -> Networks:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.near, self.far, self._middle):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _build(self) -> None:
        middle = self._middle
        for name in (self.near, self.far, middle):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", middle, "link", "add", "bridge", "type", "bridge")
        _ip("-n", middle, "link", "set", "bridge", "up")
        for name, address, port in ((self.near, self.NEAR, "near"), (self.far, self.FAR, "far")):
            _ip(
                *("-n", name, "link", "add", "eth", "type", "veth"),
                *("peer", "name", port, "netns", middle),
            )
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
            _ip("-n", name, "link", "set", "eth", "up")
            _ip("-n", middle, "link", "set", port, "master", "bridge", "up")

    def cut(self) -> None:
        """Separate the two."""
        _ip("-n", self._middle, "link", "set", "far", "nomaster")

    def heal(self) -> None:
        """Join them again."""
        _ip("-n", self._middle, "link", "set", "far", "master", "bridge")

    def binary_in_far(self, binary: str, directory: Path) -> str:
        """A program that runs `binary` in the far namespace."""
        path = directory / "far"
        path.write_text(f'#!/bin/sh\nexec ip netns exec {self.far} {binary} "$@"\n', "utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def run_near(self, main: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine, and what processes it starts, in the near namespace."""

        async def wrapped() -> T:
            return await main()

        def in_thread() -> T:
            handle = os.open(f"/run/netns/{self.near}", os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle, _NETWORK):
                    raise OSError(ctypes.get_errno(), "setns failed")
            finally:
                os.close(handle)
            return asyncio.run(wrapped())

        with ThreadPoolExecutor(max_workers=1) as thread:  # a namespace is a thread's own
            return thread.submit(in_thread).result()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
