"""Limits as dependencies of FastAPI's routes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Response, WebSocket
from starlette.requests import HTTPConnection

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.web.fastapi import LimitExceeded, denied, held, limited
from tests.web.conftest import ANN, assert_denied, client_of, items, with_web_limits


def user(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-user")


async def known_user(connection: HTTPConnection) -> str:
    if (found := user(connection)) is None:
        raise HTTPException(401, "who are you?")
    return found


def application(layer: rtx.DataLayer) -> FastAPI:
    app = FastAPI()
    app.state.layer = layer

    @app.get("/few", dependencies=[Depends(limited("few", key=user))])
    async def few(response: Response) -> str:
        response.headers["X-Own"] = "kept"
        return "hello"

    @app.get("/both", dependencies=[Depends(limited("few", "many", key=known_user, cost=2))])
    async def both() -> str:
        return "hello"

    @app.get("/two", dependencies=[Depends(limited(name, key=user)) for name in ("few", "many")])
    async def two() -> str:
        return "hello"

    @app.get("/report")
    async def report(
        lease: Annotated[rtx.Lease | None, Depends(held("reports", key=user))],
    ) -> bool | None:
        return lease.held if lease is not None else None

    @app.websocket("/ws")
    async def ws(socket: WebSocket, _: Annotated[None, Depends(limited("few", key=user))]) -> None:
        await socket.accept()
        await socket.close()

    return app


async def test_a_route_is_limited_and_tells_so(layer: rtx.DataLayer) -> None:
    async with client_of(application(layer)) as client:
        for left in (1, 0):
            answer = await client.get("/few", headers=ANN)
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"few";q=2;w=60'
            assert answer.headers["ratelimit"] == f'"few";r={left};t=60'
            assert answer.headers["x-own"] == "kept"
        answer = await client.get("/few", headers=ANN)
        assert answer.status_code == 429
        assert answer.json()["detail"]["violated-policies"] == ["few"]
        wait = int(answer.headers["retry-after"])
        assert items(answer.headers["ratelimit"]) == {"few": {"r": 0, "t": wait}}
        assert answer.headers["ratelimit-policy"] == '"few";q=2;w=60'
        exempt = await client.get("/few")
        assert exempt.status_code == 200
        assert "ratelimit" not in exempt.headers


async def test_with_the_handler_the_body_is_the_problem(layer: rtx.DataLayer) -> None:
    app = application(layer)
    app.add_exception_handler(LimitExceeded, denied)
    async with client_of(app) as client:
        assert (await client.get("/both", headers=ANN)).status_code == 200
        answer = await client.get("/both", headers=ANN)
        assert_denied(answer, 429, "few")
        assert items(answer.headers["ratelimit"])["many"]["r"] == 3
        assert await layer.limits["many"].remaining("ann") == 3
        assert (await client.get("/both")).status_code == 401  # the key's own answer


async def test_two_dependencies_list_their_fields_one_after_the_other(
    layer: rtx.DataLayer,
) -> None:
    async with client_of(application(layer)) as client:
        answer = await client.get("/two", headers=ANN)
        assert set(items(answer.headers["ratelimit"])) == {"few", "many"}


async def test_a_place_is_held_while_the_route_runs(layer: rtx.DataLayer) -> None:
    reports = layer.limits.concurrency["reports"]
    async with client_of(application(layer)) as client:
        answer = await client.get("/report", headers=ANN)
        assert (answer.status_code, answer.json()) == (200, True)
        assert answer.headers["ratelimit"] == '"reports";r=0'
        assert await reports.taken("ann") == 0
        async with reports.hold("ann"):
            answer = await client.get("/report", headers=ANN)
            assert answer.status_code == 429
            assert answer.json()["detail"]["violated-policies"] == ["reports"]
        assert (await client.get("/report")).json() is None


async def test_without_the_server_a_route_is_no_500(own_server: ServerProcess) -> None:
    async with rtx.open(with_web_limits(Settings.load(url=own_server.url), 0.2)) as layer:
        app = application(layer)
        app.add_exception_handler(LimitExceeded, denied)
        own_server.kill()
        await own_server.wait()
        async with client_of(app) as client:
            assert_denied(await client.get("/few", headers=ANN), 503, "few")
            assert_denied(await client.get("/report", headers=ANN), 503, "reports")


async def test_an_application_without_a_layer_is_no_500() -> None:
    app = FastAPI()

    @app.get("/few", dependencies=[Depends(limited("few", key=user))])
    async def few() -> str:
        return "hello"

    async with client_of(app) as client:
        assert (await client.get("/few", headers=ANN)).status_code == 503


async def test_a_websocket_is_closed_before_it_is_accepted(layer: rtx.DataLayer) -> None:
    closes: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        closes.append(message)

    await layer.limits["few"].hit("ann", cost=2)
    headers = [(b"x-user", b"ann")]
    scope = {"type": "websocket", "path": "/ws", "headers": headers, "query_string": b""}
    await application(layer)(scope, receive, send)
    assert [(close["type"], close["code"]) for close in closes] == [("websocket.close", 1013)]
