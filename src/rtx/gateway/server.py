"""Running the gateway: uvicorn in the loop that is there, on a socket of our own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Generator

import uvicorn
from litestar import Litestar

from rtx.errors import RtxError, SettingsError
from rtx.gateway.gateway import Gateway
from rtx.gateway.stream import MAX_FRAME

_GRACE = 1  # whole seconds that running requests get at a stop
_PING_TIMEOUT = 20.0

# What the kernel holds back for a slow reader is older than anything conflated here: 128 kB is
# a thousand ticks, and still a megabyte a second over a round trip of 100 ms.
_SEND_BUFFER = 128 * 1024

# A peer that is connected but takes nothing would keep its connection for good.
_STALLED_MS = 60_000


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: whoever runs the loop has its own. `up` once it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(
    app: Litestar,
    host: str,
    port: int,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set; then ends within 1.5 s, open streams and all.

    `ready` gets the URL once connections are accepted; port 0 takes a free one. Raises
    `SettingsError` when the address cannot be had.
    """
    listener = _bind(host, port)
    gateway: Gateway = app.state.gateway
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        log_level="critical",  # it would log the tokens of streams; failures are logged by us
        access_log=False,
        server_header=False,
        proxy_headers=False,  # gateway.trusted_proxies says whose word counts, and for what
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,  # a compressor per client costs more than the bytes it saves
        ws_ping_interval=gateway.settings.heartbeat,
        ws_ping_timeout=_PING_TIMEOUT,
        timeout_graceful_shutdown=_GRACE,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="rtx-gateway")
    waits = [asyncio.create_task(event.wait()) for event in (server.up, stop)]
    try:
        await asyncio.wait((serving, *waits), return_when=asyncio.FIRST_COMPLETED)
        if server.up.is_set() and ready is not None:
            ready(_url(listener))
        await asyncio.wait((serving, waits[1]), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        gateway.end_streams()
        server.should_exit = True
        try:
            await asyncio.shield(serving)
        except SystemExit:
            raise RtxError("the gateway could not start; its log has the cause") from None
        finally:
            listener.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        listener.bind((host, port))
        listener.listen(2048)  # here and now, or a port in use is noticed only by uvicorn
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SettingsError(_remedy(host, port, error)) from None
    return listener


def _remedy(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use; end the program that has it, or choose another: "
            "gateway.port in rtx.toml, RTX_GATEWAY__PORT or --port (0 takes a free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs the rights of root; choose one above 1023"
    return (
        f"the gateway cannot listen on {host}:{port} ({error.strerror or error}); "
        "gateway.host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0"
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
