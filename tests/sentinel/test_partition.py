"""A client on the minority side of a partition: it is told, and what it may lose is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import NotWritable, RtxError
from rtx.settings import Settings
from rtx.topology.local import SERVICE
from rtx.topology.process import SentinelProcess, ServerProcess, find_server
from rtx.wire.connection import Connection
from tests.conftest import eventually
from tests.sentinel.load import SLACK, pool_of, topology_of
from tests.sentinel.namespaces import Networks, missing

pytestmark = pytest.mark.timeout(120)

MAX_LAG = 2.0
UNSEEN = 1.0  # replicas report once a second
DOWN_AFTER = 1.5

BOUNDED = {
    "protected-mode": "no",
    "min-replicas-to-write": "1",
    "min-replicas-max-lag": f"{MAX_LAG:.0f}",
    "repl-diskless-sync-delay": "0",
}


class Group:
    """The primary is near, two replicas and three sentinels are far."""

    def __init__(self, networks: Networks, root: Path) -> None:
        self._networks = networks
        self._root = root
        self.primary = ServerProcess(
            self._made("primary"), config={**BOUNDED, "bind": networks.NEAR}
        )
        self.replicas: list[ServerProcess] = []
        self.sentinels: list[SentinelProcess] = []

    def _made(self, name: str) -> Path:
        directory = self._root / name
        directory.mkdir()
        return directory

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        networks = self._networks
        far = networks.binary_in_far(find_server(), self._root)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.primary.stop)
            await self.primary.start()
            for number in range(2):
                config = {
                    **BOUNDED,
                    "bind": networks.FAR,
                    "replicaof": f"{networks.NEAR} {self.primary.port}",
                }
                replica = ServerProcess(self._made(f"replica{number}"), config=config, binary=far)
                self.replicas.append(replica)
                stack.push_async_callback(replica.stop)
                await replica.start()
            for number in range(3):
                directory = self._made(f"sentinel{number}")
                sentinel = SentinelProcess(directory, self._conf(directory), binary=far)
                # It is asked whether it is ready over its socket: there is no other way from here.
                sentinel.socket = directory / "server.sock"
                self.sentinels.append(sentinel)
                stack.push_async_callback(sentinel.stop)
                await sentinel.start()
            await eventually(self._settled, within=20)
            yield

    def _conf(self, directory: Path) -> str:
        return (
            f"bind {self._networks.FAR}\nprotected-mode no\n"
            f"unixsocket {directory}/server.sock\n"
            f"sentinel monitor {SERVICE} {self._networks.NEAR} {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER * 1000:.0f}\n"
            f"sentinel failover-timeout {SERVICE} 10000\n"
        )

    async def _settled(self) -> bool:
        for sentinel in self.sentinels:
            async with over_socket(sentinel) as witness:
                state = await witness.execute_command("SENTINEL", "MASTER", SERVICE)
            if int(state["num-slaves"]) < 2 or int(state["num-other-sentinels"]) < 2:
                return False
        async with over_socket(self.primary) as witness:
            role = await witness.role()
        return len(role[2]) == 2

    @property
    def url(self) -> str:
        hosts = ",".join(f"{self._networks.FAR}:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    async def failed_over(self) -> ServerProcess | None:
        """The replica that has become a primary, once all the majority has agreed on it.

        That includes the other replica: while it follows the former primary it would, as soon as
        the partition ends, confirm writes that are then lost.
        """
        roles = []
        for replica in self.replicas:
            async with over_socket(replica) as witness:
                roles.append(await witness.role())
        named = set()
        for sentinel in self.sentinels:
            async with over_socket(sentinel) as witness:
                state = await witness.execute_command("SENTINEL", "MASTER", SERVICE)
                named.add(int(state["port"]))
        for replica, role, other in zip(self.replicas, roles, reversed(roles), strict=True):
            follows = other[0] == "slave" and int(other[2]) == replica.port
            if role[0] == "master" and follows and named == {replica.port}:
                return replica
        return None


def over_socket(server: ServerProcess) -> redis_py.Redis:
    assert server.socket is not None
    return redis_py.Redis(unix_socket_path=str(server.socket), decode_responses=True)


class Writers:
    """One that takes the primary's word, and one that waits for a replica's."""

    def __init__(self, layer: rtx.DataLayer) -> None:
        self._layer = layer
        self.acked: dict[str, float] = {}
        self.waited: dict[str, float] = {}
        self.refused_at: list[float] = []
        self.errors: list[RtxError] = []
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._write_and_wait())
            try:
                yield
            finally:
                self._ending.set()

    async def _write(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            try:
                await pool_of(self._layer).call("SET", f"acked:{number}", number)
                self.acked[f"acked:{number}"] = time.monotonic()
            except NotWritable:
                self.refused_at.append(time.monotonic())
            except RtxError as error:
                self.errors.append(error)
            await asyncio.sleep(0.005)

    async def _write_and_wait(self) -> None:
        number = 0
        connection: Connection | None = None
        while not self._ending.is_set():
            number += 1
            key = f"waited:{number}"
            try:
                if connection is None or connection.error is not None:
                    connection = await topology_of(self._layer).dial(0, lambda _: None)
                stored, replicas = await connection.batch([("SET", key, number), ("WAIT", 1, 500)])
                if stored == b"OK" and isinstance(replicas, int) and replicas >= 1:
                    self.waited[key] = time.monotonic()
            except RtxError as error:
                self.errors.append(error)
            await asyncio.sleep(0.005)
        if connection is not None:
            await connection.close()


@pytest.fixture
def networks() -> Networks:
    if reason := missing():
        pytest.skip(reason)
    return Networks()


def test_a_client_on_the_minority_side_learns_of_it_and_its_loss_is_bounded(
    networks: Networks, tmp_path: Path
) -> None:
    with networks:
        networks.run_near(lambda: partition(networks, Group(networks, tmp_path)))


async def partition(networks: Networks, group: Group) -> None:
    async with group.running(), rtx.open(Settings.load(url=group.url)) as layer:
        writers = Writers(layer)
        async with layer.market_data.subscribe("EURUSD") as ticks, writers.running():
            await ticks.ready()
            await eventually(lambda: len(writers.acked) > 50 and len(writers.waited) > 20)
            networks.cut()
            cut = time.monotonic()
            await eventually(lambda: writers.refused_at, within=20)
            told = writers.refused_at[0] - cut
            await eventually(group.failed_over, within=30)
            networks.heal()
            healed = time.monotonic()
            await eventually(lambda: topology_of(layer).switches, within=30)
            heard = time.monotonic() - healed
            await eventually(lambda: max(writers.acked.values()) > healed, within=20)
            back = min(when for when in writers.acked.values() if when > healed) - healed
            await eventually(lambda: hears_again(layer))
            assert isinstance(await anext(ticks), rtx.Gap)
        new = await group.failed_over()
        assert new is not None
        async with over_socket(new) as witness:
            there = {key async for key in witness.scan_iter(count=1000)}
        lost = {key: when - cut for key, when in writers.acked.items() if key not in there}
        lost_waited = writers.waited.keys() - there
        print(
            f"told after {told:.2f} s (NOREPLICAS); new primary heard of {heard:.2f} s and "
            f"written to {back:.2f} s after the partition ended; lost {len(lost)} of "
            f"{len(writers.acked)} acknowledged writes, the last "
            f"{max(lost.values(), default=0.0):.2f} s after the cut, and {len(lost_waited)} of "
            f"{len(writers.waited)} that a replica had confirmed"
        )
        assert told < (MAX_LAG + UNSEEN) * SLACK
        # A lag is counted in whole seconds, and looked at once a second.
        assert max(lost.values(), default=0.0) < MAX_LAG + UNSEEN + 1.0 + 1.0
        assert not lost_waited


async def hears_again(layer: rtx.DataLayer) -> bool:
    with contextlib.suppress(RtxError):
        await layer.market_data.publish(rtx.Tick("EURUSD", time=1, bid=1.0, ask=1.1))
        return layer.hub.down is None
    return False
