"""`rtx server`: a local server to play with or to test against."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rtx.cli import terminal
from rtx.cli.running import run
from rtx.errors import ConnectFailed, SettingsError
from rtx.topology.embedded import _claim as claim_directory
from rtx.topology.process import ServerProcess, free_port


class Layout(StrEnum):
    """How servers are arranged."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


def server(
    topology: Annotated[
        Layout, typer.Option(help="What to start; this version starts standalone.")
    ] = Layout.STANDALONE,
    directory: Annotated[
        Path | None, typer.Option(help="Keep the data here; without it they go with the server.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 6379,
) -> None:
    """Start a local server, print its URL, and stop it with Ctrl-C.

    It listens on this machine only and has no password. With --directory its data are on disk,
    synced every second, and are there again at the next start.

    \b
    Examples:
      rtx server
      rtx server --port 0 --directory ./data
    """

    async def main(stop: asyncio.Event) -> int:
        if topology is not Layout.STANDALONE:
            raise SettingsError(
                f"this version starts standalone servers only, not --topology {topology}; leave "
                "the option out"
            )
        _check_free(port)
        with ExitStack() as stack:
            config: dict[str, str] = {}
            if directory is None:
                place = Path(tempfile.mkdtemp(prefix="rtx-server-"))
                stack.callback(shutil.rmtree, place, ignore_errors=True)
            else:
                place, lock = claim_directory(str(directory))
                stack.callback(lock.close)
                config = {"appendonly": "yes", "appendfsync": "everysec"}
            process = ServerProcess(place, port=port or free_port(), config=config)
            try:
                await process.start()
                return await _until_either_ends(process, stop, kept=directory is not None)
            finally:
                await process.stop()

    run(main, service=True)


async def _until_either_ends(process: ServerProcess, stop: asyncio.Event, kept: bool) -> int:
    out = terminal.stdout()
    out.print(process.url)
    terminal.note(
        f"data {f'in {process.directory}' if kept else 'in memory'}; Ctrl-C ends; "
        f"elsewhere: export RTX_URL={process.url}"
    )
    waits = [asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if stop.is_set():
        return 0
    raise ConnectFailed("the server was ended from outside; start it again")


def _check_free(port: int) -> None:
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(
                f"port {port} on 127.0.0.1 cannot be had ({error.strerror}); end the program that "
                "has it, or choose another with --port (0 takes a free one)"
            ) from None
