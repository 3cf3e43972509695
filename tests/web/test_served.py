"""Over real sockets: uvicorn, HTTP and WebSocket handshakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

import rtx
from rtx.topology.process import free_port
from rtx.web import RateLimits, by_address
from tests.conftest import eventually
from tests.web.conftest import ANN, assert_denied, items, user_of


def application(layer: rtx.DataLayer) -> FastAPI:
    app = FastAPI()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for part in ("one ", "two ", "three"):
                await asyncio.sleep(0)
                yield part

        return StreamingResponse(parts())

    @app.websocket("/ws")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    return app


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The host and port of a uvicorn in this loop."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    running = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


async def test_over_http(layer: rtx.DataLayer) -> None:
    app = RateLimits(application(layer), layer=layer, limits=["few"], key=by_address())
    async with serving(app) as host, httpx.AsyncClient(trust_env=False) as client:
        for left in (1, 0):
            answer = await client.get(f"http://{host}/stream")
            assert (answer.status_code, answer.text) == (200, "one two three")
            assert answer.headers["ratelimit"] == f'"few";r={left};t=60'
        answer = await client.get(f"http://{host}/stream")
        assert_denied(answer, 429, "few")
        assert (await client.head(f"http://{host}/stream")).status_code == 429
    assert await layer.limits["few"].remaining("127.0.0.1") == 0


async def test_a_handshake_too_many_is_answered_like_a_request(layer: rtx.DataLayer) -> None:
    app = RateLimits(application(layer), layer=layer, limits=["few"], key=user_of)
    async with serving(app) as host:
        url = f"ws://{host}/ws"
        for left in (1, 0):
            async with websockets.connect(url, additional_headers=ANN) as socket:
                assert socket.response is not None
                assert socket.response.headers["ratelimit"] == f'"few";r={left};t=60'
                await socket.send("hello")
                assert await socket.recv() == "hello"
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(url, additional_headers=ANN):
                pytest.fail("the handshake was too many")
    response = refused.value.response
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    wait = int(response.headers["retry-after"])
    assert items(response.headers["ratelimit"]) == {"few": {"r": 0, "t": wait}}
    assert json.loads(response.body)["violated-policies"] == ["few"]


async def test_a_websocket_holds_its_place_until_it_ends(layer: rtx.DataLayer) -> None:
    app = RateLimits(application(layer), layer=layer, holds=["reports"], key=user_of)
    reports = layer.limits.concurrency["reports"]
    async with serving(app) as host:
        url = f"ws://{host}/ws"
        async with websockets.connect(url, additional_headers=ANN):
            assert await reports.taken("ann") == 1
            with pytest.raises(websockets.InvalidStatus):
                async with websockets.connect(url, additional_headers=ANN):
                    pytest.fail("there was no place")

        async def free() -> bool:
            return await reports.taken("ann") == 0

        await eventually(free)


async def test_a_server_without_the_extension_gets_a_close(layer: rtx.DataLayer) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("the handshake was too many")

    said: list[Any] = []

    async def receive() -> Any:
        said.append("asked")
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    await layer.limits["few"].hit("ann", cost=2)
    limited = RateLimits(app, layer=layer, limits=["few"], key=user_of)
    await limited({"type": "websocket", "headers": [(b"x-user", b"ann")]}, receive, send)
    asked, close = said
    assert asked == "asked"
    assert (close["type"], close["code"]) == ("websocket.close", 1013)
    assert "few allows 2" in close["reason"]
    assert len(close["reason"].encode()) <= 123
