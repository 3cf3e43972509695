"""The WebSocket: one reader and one writer per client, between its socket and its `Client`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from rtx.errors import ServerError, Unavailable
from rtx.gateway import messages
from rtx.gateway.auth import check_site, identify, token_of
from rtx.gateway.client import Client
from rtx.gateway.gateway import SESSION_ENDED, TRY_LATER, Gateway
from rtx.gateway.outbox import INTERNAL, OVERFLOW, Ending, Outbox
from rtx.gateway.problems import Refused, answer_to

if TYPE_CHECKING:
    from litestar.types.asgi_types import WebSocketSendEvent

_log = logging.getLogger("rtx.gateway")

MAX_FRAME = 64 * 1024
"""Bytes of a frame from a client; a longer one closes the connection with 1009."""

_CLOSE_TIMEOUT = 1.0
_POLICY = 1008

# What a send raises when the connection is closed or closing: Litestar's own, uvicorn's for a
# client that left (an OSError), and uvicorn's for a message after its own close.
_GONE = (WebSocketDisconnect, OSError, RuntimeError)

Socket = WebSocket[Any, Any, Any]


@websocket("/v1/stream")
async def stream(socket: Socket, gateway: NamedDependency[Gateway]) -> None:
    try:
        check_site(gateway, socket)
    except Refused as error:
        await socket.close(_POLICY, str(error))  # before accepting: the browser sees a 403
        return
    await socket.accept()
    try:
        caller = await identify(gateway, token_of(socket, query=True))
        client = gateway.connect(caller)
    except (Refused, Unavailable, ServerError) as error:
        await _turn_away(socket, error)
        return
    try:
        ending = await _converse(socket, gateway, client)
    finally:
        await gateway.disconnect(client)
    if ending is not None:
        await _say_goodbye(socket, client.outbox, ending)


async def _converse(socket: Socket, gateway: Gateway, client: Client) -> Ending | None:
    """Read and write until either ends; how the gateway ended it, or None if the client did."""
    outbox = client.outbox
    outbox.put(await gateway.state.message())
    reader = asyncio.create_task(_read(socket, client))
    writer = asyncio.create_task(_write(socket, outbox))
    tasks = (reader, writer)
    try:
        await asyncio.wait((*tasks, outbox.ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            _log.error("a stream has failed", exc_info=result)
            outbox.end(INTERNAL, "the gateway failed; its log has the cause")
    return outbox.ended.result() if outbox.ended.done() else None


async def _read(socket: Socket, client: Client) -> None:
    while True:
        event = cast(dict[str, Any], await socket.receive())
        if event["type"] != "websocket.receive":
            return
        await client.hear(event.get("text") or event.get("bytes") or "")


async def _write(socket: Socket, outbox: Outbox) -> None:
    while (text := await outbox.frame()) and await _send(socket, text):
        pass


async def _send(socket: Socket, text: str) -> bool:
    """Send a frame; False when the connection is closed or closing."""
    event: WebSocketSendEvent = {"type": "websocket.send", "text": text, "bytes": None}
    try:
        await socket.send(event)
    except _GONE:
        return False
    return True


async def _close(socket: Socket, code: int, reason: str) -> None:
    with suppress(*_GONE):
        await socket.close(code, reason)


async def _turn_away(socket: Socket, error: Exception) -> None:
    answer = answer_to(error)
    if await _send(socket, f"[{messages.error(answer.problem)}]"):
        code = SESSION_ENDED if answer.status == 401 else TRY_LATER
        await _close(socket, code, answer.problem.code)


async def _say_goodbye(socket: Socket, outbox: Outbox, ending: Ending) -> None:
    """Send what is pending, unless the client is behind as it is, and close.

    A client that does not read cannot be sent the close either; the server's own ping ends it.
    """
    if ending.code != OVERFLOW and (text := outbox.take()):
        with suppress(TimeoutError):
            await asyncio.wait_for(_send(socket, text), _CLOSE_TIMEOUT)
    await _close(socket, ending.code, ending.reason)
