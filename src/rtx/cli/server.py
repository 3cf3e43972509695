"""`rtx server`: a local server to play with or to test against, and planned failovers of others."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rtx.cli import terminal
from rtx.cli.failover import failover
from rtx.cli.running import run
from rtx.errors import ConnectFailed, SettingsError
from rtx.topology.embedded import claim_directory
from rtx.topology.local import LocalSentinels
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess, free_port

_DEFAULT_PORT = 6379

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("failover", short_help="Have a replica take the primary's place.")(failover)


class Layout(StrEnum):
    """How servers are arranged."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@app.callback()
def server(
    context: typer.Context,
    topology: Annotated[Layout, typer.Option(help="What to start.")] = Layout.STANDALONE,
    directory: Annotated[
        Path | None, typer.Option(help="Keep the data here; without it they go with the server.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port on 127.0.0.1, 6379; 0 takes a free one."),
    ] = None,
) -> None:
    """Start a local server, print its URL, and stop it with Ctrl-C; or see COMMAND.

    It listens on this machine only and has no password. With --directory its data are on disk,
    synced every second, and are there again at the next start. With --topology sentinel it is a
    primary, two replicas and three sentinels, and with --topology cluster three primaries with a
    replica each, for drills of failover.

    \b
    Examples:
      rtx server
      rtx server --port 0 --directory ./data
      rtx server --topology sentinel
    """
    if context.invoked_subcommand is not None:
        if topology is not Layout.STANDALONE or directory is not None or port is not None:
            raise typer.BadParameter("the options of `rtx server` start servers; leave them out")
        return
    if topology is not Layout.STANDALONE and (directory is not None or port is not None):
        raise typer.BadParameter(f"--topology {topology} takes free ports and keeps no data")

    async def main(stop: asyncio.Event) -> None:
        match topology:
            case Layout.STANDALONE:
                await _standalone(directory, _DEFAULT_PORT if port is None else port, stop)
            case Layout.SENTINEL:
                await _sentinels(stop)
            case Layout.CLUSTER:
                await _cluster(stop)

    run(main, service=True)


async def _standalone(directory: Path | None, port: int, stop: asyncio.Event) -> None:
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
            kept = "in memory" if directory is None else f"in {process.directory}"
            _announce(process.url, f"data {kept}")
            await _until_either_ends(process, stop)
        finally:
            await process.stop()


async def _sentinels(stop: asyncio.Event) -> None:
    terminal.note("starting a primary, two replicas and three sentinels")
    async with LocalSentinels() as local:
        _announce_all(local.url, [*local.servers, *local.sentinels])
        await stop.wait()


async def _cluster(stop: asyncio.Event) -> None:
    terminal.note("starting three primaries with a replica each")
    async with LocalCluster() as local:
        _announce_all(local.url, local.servers)
        await stop.wait()


def _announce_all(url: str, processes: Sequence[ServerProcess]) -> None:
    pids = ", ".join(f"{process.port} is {process.pid}" for process in processes)
    _announce(url, f"data in memory; process ids by port: {pids}")


def _announce(url: str, details: str) -> None:
    terminal.stdout().print(url)
    terminal.note(f"{details}; Ctrl-C ends; elsewhere: export RTX_URL={url}")


async def _until_either_ends(process: ServerProcess, stop: asyncio.Event) -> None:
    waits = [asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if not stop.is_set():
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
