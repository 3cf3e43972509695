"""`/metrics` for processes that have no gateway: a small HTTP server over an open layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from rtx.errors import SettingsError
from rtx.layer import DataLayer
from rtx.monitoring.exposition import CONTENT_TYPE
from rtx.monitoring.metrics import render
from rtx.monitoring.servers import ServerMetrics

_REQUEST_WITHIN = 5.0
_LONGEST_REQUEST = 8 * 1024
_CLIENTS = 16
"""Scrapers at once; a monitoring port is no place for a crowd."""


@asynccontextmanager
async def serve_metrics(layer: DataLayer, port: int, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve `/metrics`, `/metrics/servers` and `/health/live`; yields the URL.

    Port 0 takes a free one. One answer to a connection, GET only, at most 16 connections at once.
    Raises `SettingsError` when the address cannot be had.
    """
    endpoint = _Endpoint(layer)
    try:
        server = await asyncio.start_server(
            endpoint.answer, host, port, limit=_LONGEST_REQUEST, start_serving=True
        )
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served on {host}:{port} ({error.strerror or error}); give another "
            "--metrics-port (0 takes a free one)"
        ) from None
    bound = server.sockets[0].getsockname()
    try:
        yield f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{host}:{bound[1]}"
    finally:
        server.close()
        await endpoint.close()
        await server.wait_closed()


class _Endpoint:
    def __init__(self, layer: DataLayer) -> None:
        self._layer = layer
        self._servers = ServerMetrics(layer)
        self._clients: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._servers.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= _CLIENTS:
            writer.transport.abort()
            return
        self._clients.add(task)
        try:
            with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_REQUEST_WITHIN):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._response(head))
                    await writer.drain()
        except asyncio.LimitOverrunError:
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method != b"GET":
            return _http("405 Method Not Allowed", b"GET only\n")
        if path == b"/metrics":
            return _http("200 OK", render(self._layer)[0], CONTENT_TYPE)
        if path == b"/metrics/servers":
            return _http("200 OK", await self._servers.text(), CONTENT_TYPE)
        if path == b"/health/live":
            return _http("200 OK", b'{"status":"live"}', "application/json")
        return _http("404 Not Found", b"there are /metrics, /metrics/servers and /health/live\n")


def _http(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode() + body
