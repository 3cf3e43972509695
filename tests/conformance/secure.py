"""Servers that speak TLS and nothing else, with an authority and client certificates of their own.

Whoever has no certificate of the authority is refused: programs, replicas, sentinels and the other
nodes of a cluster. The set-up asks over unix sockets, which have no TLS.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_py
import trustme

from rtx.topology.local import SERVICE, LocalProcesses, made
from rtx.topology.process import SentinelProcess, ServerProcess, free_port
from rtx.topology.slots import SLOTS, key_slot
from rtx.urls import Address
from rtx.wire.connection import Connection, ConnectOptions
from rtx.wire.replies import Reply
from tests.conftest import eventually

PRIMARIES = 3


def tls_server() -> str:
    """Path of a server that was built with TLS; skips the test where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("Debian's redis-server is not installed; the wheels' servers know no TLS")
    # Built with TLS it misses its certificate; built without it misses TLS.
    asked = [found, "--port", "0", "--tls-port", "1", "--save", "", "--logfile", ""]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    if "tls-cert-file" not in answer.stdout:
        pytest.skip(f"{found} was built without TLS")
    return found


@dataclass(frozen=True)
class Papers:
    """PEM files: the authority, a certificate for the servers and one for their clients."""

    ca: Path
    server: Path
    client: Path

    @classmethod
    def issue(cls, directory: Path, *names: str) -> Papers:
        """Certificates of a new authority; the servers' is for these names."""
        authority = trustme.CA()
        papers = cls(*(directory / name for name in ("ca.pem", "server.pem", "client.pem")))
        authority.cert_pem.write_to_path(papers.ca)
        authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(papers.server)
        mine = authority.issue_cert("engine@example.org")
        mine.private_key_and_cert_chain_pem.write_to_path(papers.client)
        return papers

    @property
    def config(self) -> dict[str, str]:
        """A server's settings, but for its port."""
        return {
            "port": "0",
            "tls-ca-cert-file": str(self.ca),
            "tls-cert-file": str(self.server),
            "tls-key-file": str(self.server),
            "tls-auth-clients": "yes",
            "tls-replication": "yes",
        }

    @property
    def settings(self) -> dict[str, str]:
        """The layer's `tls` settings."""
        return {"ca": str(self.ca), "cert": str(self.client)}

    @property
    def of_redis_py(self) -> dict[str, Any]:
        """The witness's options."""
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.ca),
            "ssl_certfile": str(self.client),
            "ssl_keyfile": str(self.client),
        }


async def ask(server: ServerProcess, *command: str | int) -> Reply:
    """One command over the server's unix socket."""
    connection = await Connection.dial(server.local, ConnectOptions())
    try:
        return await connection.call(*command)
    finally:
        await connection.close()


def secure_server(directory: Path, binary: str, **config: str) -> ServerProcess:
    """A server with a TLS port only, which is its `port`."""
    port = free_port()
    return ServerProcess(
        directory, port=port, binary=binary, config={**config, "tls-port": str(port)}
    )


class SecureCluster(LocalProcesses):
    """Three primaries with a replica each, which tell their host name and speak TLS only."""

    def __init__(self, binary: str) -> None:
        super().__init__()
        self._binary = binary
        self.servers: list[ServerProcess] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"localhost:{server.port}" for server in self.servers)
        return f"rediss+cluster://{hosts}"

    async def _start(self) -> None:
        root = Path(tempfile.mkdtemp(prefix="rtx-tls-"))
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        self.papers = Papers.issue(root, "localhost")
        for number in range(2 * PRIMARIES):
            server = secure_server(
                made(root / f"node-{number}"),
                self._binary,
                **self.papers.config,
                **{
                    "cluster-enabled": "yes",
                    "cluster-port": str(free_port()),
                    "cluster-node-timeout": "2000",
                    "cluster-announce-hostname": "localhost",
                    "cluster-preferred-endpoint-type": "hostname",
                    "tls-cluster": "yes",
                    "repl-diskless-sync-delay": "0",
                    "shutdown-timeout": "0",
                },
            )
            self._stack.push_async_callback(server.stop)
            await server.start()
            self.servers.append(server)
        await self._join()

    async def _join(self) -> None:
        primaries, replicas = self.servers[:PRIMARIES], self.servers[PRIMARIES:]
        for number, server in enumerate(primaries):
            first, end = (SLOTS * place // PRIMARIES for place in (number, number + 1))
            await ask(server, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            await ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            bus = await ask(server, "CONFIG", "GET", "cluster-port")
            assert isinstance(bus, dict)
            where = ("127.0.0.1", server.port, text(bus[b"cluster-port"]))
            await ask(self.servers[0], "CLUSTER", "MEET", *where)
        await eventually(self._all_know, within=30)
        for primary, replica in zip(primaries, replicas, strict=True):
            await ask(replica, "CLUSTER", "REPLICATE", await self.node_id(primary))
        await eventually(self._is_settled, within=30)

    async def _all_know(self) -> bool:
        for server in self.servers:
            if len(await self._nodes(server)) < len(self.servers):
                return False
        return True

    async def _is_settled(self) -> bool:
        for server in self.servers:
            info = text(await ask(server, "CLUSTER", "INFO"))
            role = await ask(server, "ROLE")
            known = [line for line in await self._nodes(server) if ",localhost" in line]
            if "cluster_state:ok" not in info or len(known) < len(self.servers):
                return False
            if isinstance(role, list) and role[0] == b"slave" and role[3] != b"connected":
                return False
        owners = {str(await ask(server, "CLUSTER", "SLOTS")) for server in self.servers}
        return len(owners) == 1

    async def _nodes(self, server: ServerProcess) -> list[str]:
        return text(await ask(server, "CLUSTER", "NODES")).splitlines()

    async def node_id(self, server: ServerProcess) -> str:
        return text(await ask(server, "CLUSTER", "MYID"))

    async def owner(self, name: str) -> ServerProcess:
        """The primary that has a key or channel."""
        slot = key_slot(name.encode())
        slots = await ask(self.servers[0], "CLUSTER", "SLOTS")
        assert isinstance(slots, list)
        for first, last, node, *_ in slots:  # type: ignore[misc]
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == node[1])  # type: ignore[index]
        raise LookupError(name)

    async def migrate(self, slot: int, source: ServerProcess, to: ServerProcess) -> None:
        """Move a slot without keys."""
        there, here = await self.node_id(to), await self.node_id(source)
        await ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        await ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        for server in (to, source):
            await ask(server, "CLUSTER", "SETSLOT", slot, "NODE", there)

    def witness(self, server: ServerProcess) -> redis_py.Redis:
        """redis-py on one node, over TLS; an async context."""
        return redis_py.Redis(host="localhost", port=server.port, **self.papers.of_redis_py)


class SecureSentinel(SentinelProcess):
    """A sentinel with a TLS port only, which watches one primary."""

    def __init__(
        self, directory: Path, papers: Papers, primary: ServerProcess, *, binary: str
    ) -> None:
        port = free_port()
        self._socket = Address(host="", port=0, path=str(directory / "sentinel.sock"))
        lines = [
            *(f"{name} {value}" for name, value in papers.config.items()),
            f"tls-port {port}",
            f"unixsocket {self._socket}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1500",
            f"sentinel failover-timeout {SERVICE} 10000",
        ]
        super().__init__(directory, "\n".join(lines) + "\n", binary=binary)
        self.port = port

    @property
    def local(self) -> Address:
        return self._socket


class SecureSentinels(LocalProcesses):
    """A primary with a replica, and three sentinels, which speak TLS only."""

    def __init__(self, binary: str) -> None:
        super().__init__()
        self._binary = binary
        self.servers: list[ServerProcess] = []
        self.sentinels: list[SecureSentinel] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"rediss+sentinel://{hosts}/{SERVICE}"

    async def _start(self) -> None:
        root = Path(tempfile.mkdtemp(prefix="rtx-tls-"))
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        self.papers = Papers.issue(root, "127.0.0.1")
        for number in range(2):
            config = {**self.papers.config, "repl-diskless-sync-delay": "0"}
            if self.servers:
                config["replicaof"] = f"127.0.0.1 {self.servers[0].port}"
            server = secure_server(made(root / f"server-{number}"), self._binary, **config)
            self._stack.push_async_callback(server.stop)
            await server.start()
            self.servers.append(server)
        for number in range(3):
            directory = made(root / f"sentinel-{number}")
            sentinel = SecureSentinel(directory, self.papers, self.servers[0], binary=self._binary)
            self._stack.push_async_callback(sentinel.stop)
            await sentinel.start()
            self.sentinels.append(sentinel)
        await eventually(self._is_settled, within=30)

    async def _is_settled(self) -> bool:
        for sentinel in self.sentinels:
            primary = await ask(sentinel, "SENTINEL", "MASTER", SERVICE)
            replicas = await ask(sentinel, "SENTINEL", "REPLICAS", SERVICE)
            assert isinstance(primary, dict)
            assert isinstance(replicas, list)
            if (primary[b"flags"], primary[b"num-other-sentinels"]) != (b"master", b"2"):
                return False
            if [each[b"master-link-status"] for each in replicas] != [b"ok"]:  # type: ignore[index, call-overload]
                return False
        return True


def text(reply: Reply) -> str:
    """A string reply."""
    assert isinstance(reply, bytes), reply
    return reply.decode()
