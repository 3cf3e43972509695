"""A server that runs as one of the topologies, and what a test asks of it without RTX."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import redis.asyncio as redis_py
from redis.asyncio.sentinel import Sentinel

from rtx.settings import Settings
from rtx.topology.local import SERVICE, LocalProcesses, LocalSentinels
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from tests.conformance.servers import Case
from tests.conftest import eventually

# With less, sentinels now and then call a primary dead right after they promoted it, and nodes of a
# cluster call each other dead when the machine is busy.
DOWN_AFTER = 1.5
NODE_TIMEOUT = 2.0
_PATIENCE = {"connect_timeout": 10, "read_timeout": 10, "write_timeout": 10}


class OneServer(LocalProcesses):
    """A single server, started and ended like the other topologies."""

    server: ServerProcess

    def __init__(self, binary: str) -> None:
        super().__init__()
        self._binary = binary

    async def _start(self) -> None:
        root = Path(tempfile.mkdtemp(prefix="rtx-one-"))
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        self.server = ServerProcess(root, binary=self._binary)
        self._stack.push_async_callback(self.server.stop)
        await self.server.start()


class Background:
    """Local processes that belong to an event loop of their own, and so outlive a test's."""

    def __init__(self, local: LocalProcesses) -> None:
        self._local = local
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.took = 0.0
        """Seconds until all had started and found each other."""

    def __enter__(self) -> Self:
        self._thread.start()
        began = time.monotonic()
        try:
            self._run(self._local.__aenter__())
        except BaseException:
            self._end()
            raise
        self.took = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._local.__aexit__())
        self._end()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Deployment(Background, ABC):
    """A server that runs as one topology, and witnesses that ask it without RTX."""

    def __init__(self, case: Case, local: LocalProcesses) -> None:
        super().__init__(local)
        self.case = case

    def settings(self, namespace: str, **options: Any) -> Settings:
        """Settings for this deployment: few spares, so that a layer is quickly opened.

        What a call's deadline means is tested elsewhere; here a busy machine may be slow.
        """
        url = options.pop("url", self.url)
        pool = {"min_idle": 1, **_PATIENCE}
        return Settings.load(url=url, namespace=namespace, pool=pool, **options)

    @property
    @abstractmethod
    def url(self) -> str:
        """What a layer connects to."""

    @property
    @abstractmethod
    def servers(self) -> list[ServerProcess]:
        """All that hold data, replicas too."""

    @abstractmethod
    def client(self, db: int = 0) -> Any:
        """redis-py on the primary, or on the whole cluster, with replies in bytes; a context."""

    async def primaries(self) -> list[ServerProcess]:
        """The servers that take writes."""
        return [server for server in self.servers if await role_of(server) == "master"]

    async def holder(self, key: str) -> ServerProcess:
        """The server that has a key or channel."""
        [primary] = await self.primaries()
        return primary

    async def settled(self) -> None:
        """Return when everything that runs is in agreement and in sync."""

    @asynccontextmanager
    async def configured(self, **config: object) -> AsyncIterator[None]:
        """Every server with these settings for a while; each must have been at 0 or empty."""
        for server in await self.primaries():
            async with client_of(server) as admin:
                for name, value in config.items():
                    await admin.config_set(name.replace("_", "-"), value)
        try:
            yield
        finally:
            for server in await self.primaries():
                async with client_of(server) as admin:
                    for name in config:
                        await admin.config_set(name.replace("_", "-"), 0)

    @asynccontextmanager
    async def user(self, name: str, *rules: str) -> AsyncIterator[None]:
        """An ACL user on every server for a while."""
        for server in self.servers:
            async with client_of(server) as admin:
                await admin.execute_command("ACL", "SETUSER", name, "reset", "on", *rules)
        try:
            yield
        finally:
            for server in self.servers:
                async with client_of(server) as admin:
                    await admin.execute_command("ACL", "DELUSER", name)


class OneDeployment(Deployment):
    """A single server."""

    _local: OneServer

    @property
    def url(self) -> str:
        return self._local.server.url

    @property
    def servers(self) -> list[ServerProcess]:
        return [self._local.server]

    def client(self, db: int = 0) -> Any:
        return redis_py.Redis(port=self._local.server.port, db=db)


class SentinelDeployment(Deployment):
    """One primary, two replicas, three sentinels."""

    _local: LocalSentinels

    @property
    def group(self) -> LocalSentinels:
        return self._local

    @property
    def url(self) -> str:
        return self.group.url

    @property
    def servers(self) -> list[ServerProcess]:
        return alive(self.group.servers)

    @asynccontextmanager
    async def client(self, db: int = 0) -> AsyncIterator[redis_py.Redis]:
        async with self._sentinels() as sentinels, sentinels.master_for(SERVICE, db=db) as client:
            yield client

    async def primaries(self) -> list[ServerProcess]:
        """The one that the sentinels name; a former one may call itself a primary for a while."""
        async with self._sentinels() as sentinels:
            _, port = await sentinels.discover_master(SERVICE)
        return [server for server in self.servers if server.port == port]

    async def agreed(self, *, but: ServerProcess) -> ServerProcess:
        """The new primary, once all sentinels name it and none has anything left to do for it."""

        async def named() -> int | None:
            async with self._sentinels() as sentinels:
                said = [await each.sentinel_master(SERVICE) for each in sentinels.sentinels]
            ports = {facts["port"] for facts in said}
            over = all(str(facts["flags"]) == "master" for facts in said)
            return ports.pop() if over and len(ports) == 1 and but.port not in ports else None

        port = await eventually(named, within=20)
        return next(server for server in self.servers if server.port == port)

    @asynccontextmanager
    async def _sentinels(self) -> AsyncIterator[Sentinel]:
        known = Sentinel([("127.0.0.1", sentinel.port) for sentinel in self.group.sentinels])
        try:
            yield known
        finally:
            for sentinel in known.sentinels:
                await sentinel.aclose()

    async def settled(self) -> None:
        await self.group.settled()


class ClusterDeployment(Deployment):
    """Three primaries with a replica each."""

    _local: LocalCluster

    @property
    def cluster(self) -> LocalCluster:
        return self._local

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def servers(self) -> list[ServerProcess]:
        return alive(self.cluster.servers)

    def client(self, db: int = 0) -> Any:
        return redis_py.RedisCluster(host="127.0.0.1", port=self.servers[0].port)

    async def holder(self, key: str) -> ServerProcess:
        async with self.client() as witness:
            port = witness.get_node_from_key(key).port
        return next(server for server in self.servers if server.port == port)

    async def settled(self) -> None:
        await self.cluster.settled()


def build(case: Case) -> Deployment:
    """The deployment of a case, not started; skips the test where there is no such server."""
    binary = case.server.needed()
    match case.kind:
        case "standalone":
            return OneDeployment(case, OneServer(binary))
        case "sentinel":
            return SentinelDeployment(case, LocalSentinels(down_after=DOWN_AFTER, binary=binary))
        case "cluster":
            return ClusterDeployment(case, LocalCluster(node_timeout=NODE_TIMEOUT, binary=binary))


def alive(servers: list[ServerProcess]) -> list[ServerProcess]:
    return [server for server in servers if server.pid is not None]


def client_of(server: ServerProcess, db: int = 0) -> redis_py.Redis:
    """redis-py on one server, with replies in text; use it as an async context."""
    return redis_py.Redis(port=server.port, db=db, decode_responses=True)


async def role_of(server: ServerProcess) -> str:
    """`master` or `slave`, as the server says."""
    async with client_of(server) as witness:
        return str((await witness.role())[0])
