"""The servers behind the roles as they are at a moment: who is primary, who follows, how far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import rtx
from rtx.errors import RtxError, ServerError, Unavailable
from rtx.monitoring.server_facts import lines_of
from rtx.topology.nodes import SENTINEL, Node
from rtx.urls import Address
from rtx.wire import Connection, Reply

_WITHIN = 1.0  # seconds for one server


@dataclass(slots=True)
class Server:
    """What one server said: its fields of INFO, or why there are none.

    `round_trip` is that of a PING in seconds. `kind` is `primary`, `replica`, `sentinel` or `?`.
    """

    name: str
    group: str
    round_trip: float | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def kind(self) -> str:
        if self.group == SENTINEL:
            return SENTINEL
        return {"master": "primary", "slave": "replica"}.get(self.info.get("role", ""), "?")

    @property
    def version(self) -> str:
        """Such as `valkey 9.1.0`; empty without INFO."""
        name = self.info.get("server_name") or "redis"
        number = self.info.get(f"{name}_version") or self.info.get("redis_version", "")
        return f"{name} {number}" if number else ""

    def number(self, name: str) -> int:
        """A field of INFO as a whole number; 0 where there is none."""
        value = self.info.get(name, "").partition(".")[0]
        return int(value) if value.lstrip("-").isdecimal() else 0


class Servers:
    """Looks at all servers and sentinels of a layer, each over a connection that it keeps."""

    def __init__(self, layer: rtx.DataLayer) -> None:
        self._nodes = layer.nodes(_WITHIN)
        self._known: dict[str, Node] = {}
        self._connections: dict[str, Connection] = {}

    async def look(self) -> list[Server]:
        """Ask all at once; takes a second at most, twice that when replicas are met. Never raises.

        Primaries come first, each group together.
        """
        found: dict[str, Server] = {}
        for _ in range(2):  # the second time for the replicas that a sentinel has named
            left = [node for node in self._nodes.now() if node.name not in found]
            self._known.update({node.name: node for node in left})
            for server in await asyncio.gather(*(self._ask(node) for node in left)):
                found[server.name] = server
        for name in self._connections.keys() - found.keys():
            await self._connections.pop(name).close()
        order = {"primary": 0, "replica": 1}
        return sorted(found.values(), key=lambda s: (s.group, order.get(s.kind, 2), s.name))

    async def ping(self, name: str) -> float:
        """Seconds that a PING takes; raises `Unavailable`, `ServerError` or `TimeoutError`."""
        connection = await self._connection(self._known[name])
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_WITHIN):
                await connection.call("PING")
        except (Unavailable, TimeoutError):
            await self._drop(name)
            raise
        return time.perf_counter() - began

    async def close(self) -> None:
        """Close the connections."""
        for name in list(self._connections):
            await self._drop(name)

    async def _drop(self, name: str) -> None:
        connection = self._connections.pop(name, None)
        if connection is not None:
            await connection.close()

    async def _connection(self, node: Node) -> Connection:
        known = self._connections.get(node.name)
        if known is None or known.error is not None:
            known = self._connections[node.name] = await Connection.dial(node.address, node.options)
        return known

    async def _ask(self, node: Node) -> Server:
        server = Server(node.name, node.group)
        try:
            async with asyncio.timeout(_WITHIN):
                connection = await self._connection(node)
                server.round_trip = await self.ping(node.name)
                if node.group == SENTINEL:
                    replicas, quorum = await connection.batch(
                        [
                            ("SENTINEL", "REPLICAS", node.service),
                            ("SENTINEL", "CKQUORUM", node.service),
                        ]
                    )
                    self._nodes.learn(node.service, _addresses(replicas))
                    server.error = str(quorum) if isinstance(quorum, ServerError) else ""
                else:
                    server.info = lines_of(await connection.call("INFO"))
        except (RtxError, TimeoutError) as error:
            server.error = str(error) or f"no answer within {_WITHIN:g} s"
            if not isinstance(error, ServerError):
                await self._drop(node.name)
        return server


def behind(replica: Server, servers: list[Server]) -> int | None:
    """Bytes that a replica lacks of its primary's writes; None where its primary is not known.

    They have the same `master_replid`, whatever names they are known by.
    """
    stream = replica.info.get("master_replid")
    for one in servers:
        if one.kind == "primary" and one.info.get("master_replid") == stream:
            return max(one.number("master_repl_offset") - replica.number("slave_repl_offset"), 0)
    return None


def _addresses(replicas: Reply) -> frozenset[Address]:
    found: set[Address] = set()
    for each in replicas if isinstance(replicas, list) else ():
        pairs = each if isinstance(each, dict) else _pairs(each)
        host, port = pairs.get(b"ip"), pairs.get(b"port")
        if isinstance(host, bytes) and isinstance(port, bytes) and port.isdigit():
            found.add(Address(host.decode(), int(port)))
    return frozenset(found)


def _pairs(flat: Reply) -> dict[Reply, Reply]:
    return dict(zip(flat[::2], flat[1::2], strict=False)) if isinstance(flat, list) else {}
