"""Topologies of several local processes, for tests, drills and trying things out."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from rtx.errors import ConnectFailed, RtxError
from rtx.topology.process import SentinelProcess, ServerProcess
from rtx.topology.standing import standing_of
from rtx.urls import Address
from rtx.wire.connection import Connection
from rtx.wire.options import ConnectOptions
from rtx.wire.replies import Reply

SERVICE = "trading-redis"
_SETTLED_WITHIN = 20.0
_LOOK_EVERY = 0.02
_ASKED_WITHIN = 60_000  # ms; of a server that it has not asked yet a sentinel gives its own age


class LocalProcesses(ABC):
    """Several processes as one context: all of them started, or none left behind."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _start(self) -> None:
        """Start the processes; what is to be undone at the end goes onto the stack."""


class LocalSentinels(LocalProcesses):
    """A primary, replicas and sentinels (quorum: the majority), each a process on loopback.

    `down_after` in seconds; with 1 s or less a primary that was just promoted is at times taken for
    dead before the sentinels' first PING to it is due, and replaced at once. Enter it as a context;
    `url` is then what a layer connects to.
    """

    def __init__(
        self,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        down_after: float = 5.0,
        config: Mapping[str, str] | None = None,
        binary: str | None = None,
    ) -> None:
        super().__init__()
        self._replicas = replicas
        self._count = sentinels
        self._down_after_ms = round(down_after * 1000)
        self._config = {
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            "enable-debug-command": "local",
            **(config or {}),
        }
        self._binary = binary
        self.servers: list[ServerProcess] = []
        self.sentinels: list[SentinelProcess] = []

    @property
    def url(self) -> str:
        """The sentinels' URL."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    async def _start(self) -> None:
        root = Path(tempfile.mkdtemp(prefix="rtx-sentinel-"))
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        for number in range(1 + self._replicas):
            config = dict(self._config)
            if self.servers:
                config["replicaof"] = f"127.0.0.1 {self.servers[0].port}"
            server = ServerProcess(
                made(root / f"server-{number}"), config=config, binary=self._binary
            )
            self._stack.push_async_callback(server.stop)
            self.servers.append(server)
            await server.start()
        for number in range(self._count):
            sentinel = SentinelProcess(
                made(root / f"sentinel-{number}"), self._sentinel_conf(), binary=self._binary
            )
            self._stack.push_async_callback(sentinel.stop)
            self.sentinels.append(sentinel)
            await sentinel.start()
        await self.settled()

    def _sentinel_conf(self) -> str:
        quorum = self._count // 2 + 1
        return (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after_ms}\n"
            f"sentinel failover-timeout {SERVICE} 10000\n"
            f"sentinel parallel-syncs {SERVICE} 1\n"
        )

    async def settled(self) -> None:
        """Return when the sentinels know each other and all servers, and replicas are in sync.

        Whether they are in sync the servers say themselves: sentinels ask them every ten seconds.
        Raises `ConnectFailed` when that is not so within 20 s.
        """
        try:
            async with asyncio.timeout(_SETTLED_WITHIN):
                while not await self._is_settled():
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise ConnectFailed(
                f"the sentinels and their servers did not agree within {_SETTLED_WITHIN:g} s"
            ) from None

    async def _is_settled(self) -> bool:
        servers = [server for server in self.servers if server.pid is not None]
        sentinels = [sentinel for sentinel in self.sentinels if sentinel.pid is not None]
        try:
            named = {
                await self._named_by(sentinel, len(sentinels) - 1, len(servers) - 1)
                for sentinel in sentinels
            }
            standings = [standing_of(await ask(server.port, "ROLE")) for server in servers]
        except RtxError:
            return False
        primaries = [
            (server.port, standing)
            for server, standing in zip(servers, standings, strict=True)
            if standing.is_primary
        ]
        if len(primaries) != 1:
            return False
        [(port, standing)] = primaries
        in_sync = [one for one in standings if one.follows(Address("127.0.0.1", port))]
        return named == {port} and len(in_sync) == len(standing.replicas) == len(servers) - 1

    async def _named_by(self, sentinel: SentinelProcess, others: int, replicas: int) -> int | None:
        """The primary's port, if a sentinel calls it well and knows all others and replicas."""
        found = await ask(sentinel.port, "SENTINEL", "MASTER", SERVICE)
        several = await ask(sentinel.port, "SENTINEL", "REPLICAS", SERVICE)
        if not isinstance(found, dict) or not isinstance(several, list):
            return None
        good = [
            item
            for item in several
            if isinstance(item, dict)
            and item.get(b"flags") == b"slave"
            and int(str_of(item.get(b"info-refresh"))) < _ASKED_WITHIN
        ]
        if (
            found.get(b"flags") != b"master"
            or int(str_of(found.get(b"num-other-sentinels"))) < others
            or len(good) < replicas
        ):
            return None
        return int(str_of(found.get(b"port")))

    async def primary(self) -> ServerProcess:
        """The server that the sentinels call the primary."""
        for sentinel in self.sentinels:
            try:
                found = await ask(sentinel.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            except RtxError:
                continue
            if isinstance(found, list):
                port = int(str_of(found[1]))
                return next(server for server in self.servers if server.port == port)
        raise ConnectFailed("no sentinel answers")

    async def failover(self) -> None:
        """A planned failover that loses no write: COORDINATED where the server knows that."""
        port = next(sentinel.port for sentinel in self.sentinels if sentinel.pid is not None)
        try:
            await ask(port, "SENTINEL", "FAILOVER", SERVICE, "COORDINATED")
        except RtxError as error:
            if "wrong number of arguments" not in str(error):
                raise
            await ask(port, "SENTINEL", "FAILOVER", SERVICE)


async def ask(port: int, *command: str | int, timeout: float = 1.0) -> Reply:
    """One command on a connection of its own to a local server; raises as `Connection.call`."""
    options = ConnectOptions(connect_timeout=timeout, read_timeout=timeout)
    connection = await Connection.dial(Address("127.0.0.1", port), options)
    try:
        return await connection.call(*command)
    finally:
        await connection.close()


def str_of(value: object) -> str:
    """Text of a reply's string; "0" for anything else."""
    return value.decode() if isinstance(value, bytes) else "0"


def made(directory: Path) -> Path:
    """The directory, created."""
    directory.mkdir(parents=True)
    return directory
