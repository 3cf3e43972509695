"""Metrics of the servers themselves, asked for by this process, under redis_exporter's names.

Each server is asked over a connection of its own, so that one that takes no clients any more, or
hangs, is told from one that is well. All are asked at once, each for a second at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from rtx.errors import RtxError, ServerError
from rtx.layer import DataLayer
from rtx.monitoring.exposition import text_of
from rtx.monitoring.families import Families
from rtx.monitoring.server_facts import Facts, Service, lines_of, write
from rtx.topology.nodes import SENTINEL, Node
from rtx.wire import Connection, Reply
from rtx.wire.options import Argument

_WITHIN = 1.0  # seconds for a server: Prometheus waits four, and there may be two rounds
_FRESH_FOR = 1.0
_AT_ONCE = 32
_NODES = 256

_ASKED: list[tuple[Argument, ...]] = [
    ("INFO", "ALL"),
    ("LATENCY", "LATEST"),
    ("SLOWLOG", "LEN"),
    ("SLOWLOG", "GET", "1"),
]


class ServerMetrics:
    """Looks at every server of a layer when it is asked for the metrics; to be closed at the end.

    Whoever asks within a second of the last look, or during one, gets the same answer. A server
    that does not answer, or refuses INFO, has `redis_up` 0.
    """

    def __init__(self, layer: DataLayer) -> None:
        self._nodes = layer.nodes(_WITHIN)
        self._known: tuple[float, bytes] | None = None
        self._look: asyncio.Task[bytes] | None = None
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def text(self) -> bytes:
        """Prometheus text; takes 1 s at most, twice that when replicas are met for the first time.

        With over 32 servers that hang it takes that for each 32. Never raises.
        """
        if self._known is not None and time.monotonic() - self._known[0] < _FRESH_FOR:
            return self._known[1]
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_all(), name="rtx-server-metrics")
        return await asyncio.shield(self._look)

    async def close(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    async def _look_at_all(self) -> bytes:
        seen: dict[str, tuple[Node, Facts]] = {}
        for _ in range(2):  # the second time for the replicas that a sentinel has named
            left = [node for node in self._nodes.now() if node.name not in seen]
            found = await asyncio.gather(*(self._ask(node) for node in left[: _NODES - len(seen)]))
            for node, facts in zip(left, found, strict=False):
                seen[node.name] = node, facts
                if facts.service is not None and facts.service.master:
                    self._nodes.learn(node.service, facts.service.addresses)
        text = text_of(_families(seen.values()))
        self._known = time.monotonic(), text
        return text

    async def _ask(self, node: Node) -> Facts:
        async with self._turns:
            started = time.perf_counter()
            facts = Facts()
            try:
                async with asyncio.timeout(_WITHIN):
                    connection = await Connection.dial(node.address, node.options)
                    facts.certificate_ends = connection.certificate_ends
                    try:
                        await _fill(facts, connection, node)
                    finally:
                        await connection.close()
            except (RtxError, TimeoutError) as error:
                facts = Facts(error=type(error).__name__)
            facts.seconds = time.perf_counter() - started
            return facts


async def _fill(facts: Facts, connection: Connection, node: Node) -> None:
    if node.group == SENTINEL:
        info, *about = await connection.batch(
            [
                ("INFO",),
                ("SENTINEL", "MASTER", node.service),
                ("SENTINEL", "REPLICAS", node.service),
                ("SENTINEL", "SENTINELS", node.service),
                ("SENTINEL", "CKQUORUM", node.service),
            ]
        )
        facts.service = _service(*about)
    else:
        info, latest, length, last = await connection.batch(_ASKED)
        if isinstance(latest, list):
            for each in latest:
                match each:
                    case [bytes(name), int(at), int(ms), *_]:
                        facts.latencies.append((name.decode("utf-8", "replace"), at, ms))
        if isinstance(length, int):
            facts.slow_length = length
        match last:
            case [[int(number), int(_), int(took), *_]]:
                facts.slow_last = number, took
    if isinstance(info, ServerError):
        raise info
    facts.info = lines_of(info)


def _service(master: Reply, replicas: Reply, sentinels: Reply, quorum: Reply) -> Service:
    return Service(
        quorum=str(quorum) if isinstance(quorum, ServerError) else _text(quorum),
        has_quorum=not isinstance(quorum, ServerError),
        master=_mapping(master),
        replicas=[_mapping(each) for each in replicas] if isinstance(replicas, list) else [],
        sentinels=[_mapping(each) for each in sentinels] if isinstance(sentinels, list) else [],
    )


def _mapping(reply: Reply) -> dict[str, str]:
    match reply:
        case dict():
            return {_text(name): _text(value) for name, value in reply.items()}
        case list():
            return dict(zip(map(_text, reply[::2]), map(_text, reply[1::2]), strict=False))
    return {}


def _text(reply: object) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def _families(seen: Iterable[tuple[Node, Facts]]) -> Families:
    out = Families()
    for node, facts in seen:
        describe(out, facts, {"instance": node.name, "group": node.group})
    return out


def describe(out: Families, facts: Facts, labels: dict[str, str]) -> None:
    """Add the metrics of one server, whether it answered or not."""
    out.gauge("redis_up", float(not facts.error), labels, "Whether the server answers")
    out.gauge(
        "redis_exporter_last_scrape_error",
        float(bool(facts.error)),
        {**labels, "err": facts.error},
        "Whether the last look at the server failed, and with which error",
    )
    text = "How long the last look at the server took"
    out.gauge("redis_exporter_last_scrape_duration_seconds", facts.seconds, labels, text)
    if facts.certificate_ends is not None:
        text = "When the certificate that the server shows ends, in seconds since 1970"
        out.gauge("redis_certificate_end_timestamp_seconds", facts.certificate_ends, labels, text)
    if not facts.error:
        write(out, facts, labels)
