"""A cluster of local processes, for tests, drills and trying things out."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from rtx.errors import ConnectFailed, RtxError
from rtx.topology.local import LocalProcesses, ask, made, str_of
from rtx.topology.process import ServerProcess, free_port
from rtx.topology.slots import SLOTS, key_slot

_SETTLED_WITHIN = 30.0
_LOOK_EVERY = 0.05
_KEYS_AT_ONCE = 100


class LocalCluster(LocalProcesses):
    """Primaries with their replicas, each a process on loopback, and all slots served.

    `node_timeout` in seconds is when a silent node counts as failed. Enter it as a context; `url`
    is then what a layer connects to.
    """

    def __init__(
        self,
        *,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout: float = 2.0,
        config: Mapping[str, str] | None = None,
        binary: str | None = None,
    ) -> None:
        super().__init__()
        self._primaries = primaries
        self._replicas = replicas
        self._config = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(round(node_timeout * 1000)),
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            "shutdown-timeout": "0",
            "enable-debug-command": "local",
            **(config or {}),
        }
        self._binary = binary
        self._bus: dict[int, int] = {}  # bus ports by port
        self.servers: list[ServerProcess] = []
        """All nodes; at the beginning the primaries come first."""

    @property
    def url(self) -> str:
        """The URL of all nodes."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{hosts}"

    async def _start(self) -> None:
        root = Path(tempfile.mkdtemp(prefix="rtx-cluster-"))
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        for number in range(self._primaries * (1 + self._replicas)):
            await self._start_node(made(root / f"node-{number}"))
        ports = [server.port for server in self.servers]
        owners = ports[: self._primaries]
        for number, port in enumerate(owners):
            first, end = (SLOTS * place // len(owners) for place in (number, number + 1))
            await ask(port, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            await ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in ports[1:]:
            await ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, self._bus[port])
        await self._until(lambda: self._all_know(len(ports)))
        for number, port in enumerate(ports[self._primaries :]):
            primary = await self.node_id(owners[number % len(owners)])
            await ask(port, "CLUSTER", "REPLICATE", primary)
        await self.settled()

    async def _start_node(self, directory: Path) -> None:
        # The bus has a free port too, for port + 10000 is often none. Either may be taken by now.
        for attempt in range(5):
            bus = free_port()
            config = {**self._config, "cluster-port": str(bus)}
            server = ServerProcess(directory, config=config, binary=self._binary)
            try:
                await server.start()
            except ConnectFailed:
                if attempt == 4:
                    raise
                continue
            self._stack.push_async_callback(server.stop)
            self.servers.append(server)
            self._bus[server.port] = bus
            return

    # --- waiting ---------------------------------------------------------------------------

    async def settled(self) -> None:
        """Return when all nodes that run agree, call the cluster ok, and replicas are in sync."""
        await self._until(self._is_settled)

    async def _until(self, true: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(_SETTLED_WITHIN):
                while not await true():
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise ConnectFailed(f"the cluster was not ready within {_SETTLED_WITHIN:g} s") from None

    def _alive(self) -> list[ServerProcess]:
        return [server for server in self.servers if server.pid is not None]

    async def _all_know(self, count: int) -> bool:
        for server in self._alive():
            if int((await self.info(server.port))["cluster_known_nodes"]) < count:
                return False
        return True

    async def _is_settled(self) -> bool:
        maps = set()
        for server in self._alive():
            if (await self.info(server.port))["cluster_state"] != "ok":
                return False
            role = await ask(server.port, "ROLE")
            if isinstance(role, list) and role[0] == b"slave" and role[3] != b"connected":
                return False
            slots = await ask(server.port, "CLUSTER", "SLOTS")
            assert isinstance(slots, list)
            seen = [(first, last, node[1], len(others)) for first, last, node, *others in slots]  # type: ignore[misc, index]
            maps.add(tuple(sorted(seen)))
        return len(maps) == 1

    # --- asking ----------------------------------------------------------------------------

    async def info(self, port: int) -> dict[str, str]:
        """CLUSTER INFO of a node."""
        text = str_of(await ask(port, "CLUSTER", "INFO"))
        return {name: value for name, _, value in (line.partition(":") for line in text.split())}

    async def node_id(self, port: int) -> str:
        """CLUSTER MYID of a node."""
        return str_of(await ask(port, "CLUSTER", "MYID"))

    async def owner(self, slot: int) -> ServerProcess:
        """The primary of a slot: who says so of itself, else what another node says."""
        said: ServerProcess | None = None
        for server in self._alive():
            try:
                slots = await ask(server.port, "CLUSTER", "SLOTS")
            except RtxError:
                continue
            for item in slots if isinstance(slots, list) else []:
                match item:
                    case [int(first), int(last), [_, int(port), *_], *_] if first <= slot <= last:
                        if port == server.port:
                            return server
                        said = next(node for node in self.servers if node.port == port)
        if said is None:
            raise ConnectFailed(f"no node says who has slot {slot}")
        return said

    async def primary_of(self, key: str) -> ServerProcess:
        """The primary that has a key or channel."""
        return await self.owner(key_slot(key.encode()))

    async def primaries(self) -> list[ServerProcess]:
        """The nodes that call themselves primaries."""
        found = []
        for server in self._alive():
            role = await ask(server.port, "ROLE")
            if isinstance(role, list) and role[0] == b"master":
                found.append(server)
        return found

    async def replica_of(self, primary: ServerProcess) -> ServerProcess:
        """A replica of a primary."""
        for server in self._alive():
            role = await ask(server.port, "ROLE")
            if isinstance(role, list) and role[0] == b"slave" and role[2] == primary.port:
                return server
        raise ConnectFailed(f"127.0.0.1:{primary.port} has no replica")

    # --- changing --------------------------------------------------------------------------

    async def failover(self, primary: ServerProcess) -> ServerProcess:
        """A planned failover that loses no write; returns the new primary once it is that."""
        replica = await self.replica_of(primary)
        await ask(replica.port, "CLUSTER", "FAILOVER", timeout=5.0)

        async def took_over() -> bool:
            role = await ask(replica.port, "ROLE")
            return isinstance(role, list) and role[0] == b"master"

        await self._until(took_over)
        return replica

    async def begin_migration(self, slot: int, to: ServerProcess) -> ServerProcess:
        """Open a slot's migration and return where it is; both nodes then answer for its keys."""
        source = await self.owner(slot)
        await ask(to.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", await self.node_id(source.port))
        await ask(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", await self.node_id(to.port))
        return source

    async def move_keys(self, slot: int, source: ServerProcess, to: ServerProcess) -> int:
        """Move the keys of a slot whose migration is open; how many they were."""
        moved = 0
        while True:
            keys = await ask(source.port, "CLUSTER", "GETKEYSINSLOT", slot, _KEYS_AT_ONCE)
            if not isinstance(keys, list) or not keys:
                return moved
            where = ("127.0.0.1", to.port, "", 0, 5000)
            names = [str_of(key) for key in keys]
            await ask(source.port, "MIGRATE", *where, "KEYS", *names, timeout=6.0)
            moved += len(names)

    async def end_migration(self, slot: int, source: ServerProcess, to: ServerProcess) -> None:
        """Give the slot to its new node, which is told first so that none is without."""
        node = await self.node_id(to.port)
        others = [server for server in await self.primaries() if server not in (to, source)]
        for server in (to, source, *others):
            await ask(server.port, "CLUSTER", "SETSLOT", slot, "NODE", node)

    async def migrate(self, slot: int, to: ServerProcess) -> int:
        """Move a slot with its keys to another primary; how many keys they were."""
        source = await self.begin_migration(slot, to)
        moved = await self.move_keys(slot, source, to)
        await self.end_migration(slot, source, to)
        return moved
