"""The middleware in FastAPI, Starlette, Litestar and Django."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rtx
from rtx.errors import SettingsError
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.web import Hold, Policy, RateLimits, Ruling
from tests.web.conftest import (
    ANN,
    Make,
    assert_denied,
    client_of,
    items,
    starlette_app,
    user_of,
    with_web_limits,
)


async def test_answers_have_the_fields_and_the_one_too_many_is_told_all(
    make: Make, layer: rtx.DataLayer
) -> None:
    app = make(layer=lambda: layer, limits=["few"], key=user_of)
    async with client_of(app) as client:
        for left in (1, 0):
            answer = await client.get("/hello", headers=ANN)
            assert (answer.status_code, answer.text.strip('"')) == (200, "hello")
            assert answer.headers["ratelimit-policy"] == '"few";q=2;w=60'
            assert answer.headers["ratelimit"] == f'"few";r={left};t=60'
            assert "retry-after" not in answer.headers
        answer = await client.get("/hello", headers=ANN)
        assert_denied(answer, 429, "few", detail="few allows 2 in 60 s; try again in ")
        assert answer.headers["ratelimit-policy"] == '"few";q=2;w=60'
        wait = int(answer.headers["retry-after"])
        assert items(answer.headers["ratelimit"]) == {"few": {"r": 0, "t": wait}}
        assert 1 <= wait <= 60
        assert (await client.get("/hello", headers={"X-User": "bob"})).status_code == 200
        exempt = await client.get("/hello")
        assert exempt.status_code == 200
        assert "ratelimit" not in exempt.headers


async def test_several_limits_are_all_listed_and_taken_together(
    make: Make, layer: rtx.DataLayer
) -> None:
    async def rules(scope: Any) -> list[Any]:
        return [("few", "ann"), ("many", "ann", 2)] if scope["path"] == "/hello" else []

    async with client_of(make(layer=layer, rules=rules)) as client:
        answer = await client.get("/hello")
        assert answer.headers["ratelimit-policy"] == '"few";q=2;w=60, "many";q=5;w=60'
        assert items(answer.headers["ratelimit"]) == {
            "few": {"r": 1, "t": 60},
            "many": {"r": 3, "t": 60},
        }
        await client.get("/hello")
        answer = await client.get("/hello")
        assert_denied(answer, 429, "few", "many")
        assert {name: left["r"] for name, left in items(answer.headers["ratelimit"]).items()} == {
            "few": 0,
            "many": 1,
        }
        assert await layer.limits["many"].remaining("ann") == 1
        assert "ratelimit" not in (await client.get("/elsewhere")).headers


async def test_without_the_server_nothing_is_a_500(make: Make, own_server: ServerProcess) -> None:
    async with rtx.open(with_web_limits(Settings.load(url=own_server.url), 0.2)) as layer:
        apps = {
            name: make(layer=layer, limits=[name], key=user_of)
            for name in ("few", "open", "local", "nowhere")
        }
        both = make(layer=layer, limits=["open", "few"], key=user_of)
        place = make(layer=layer, holds=["reports"], key=user_of)
        own_server.kill()
        await own_server.wait()

        async def ask(app: Any) -> Any:
            async with client_of(app) as client:
                return await client.get("/hello", headers=ANN)

        closed = await ask(apps["few"])
        assert_denied(closed, 503, "few", detail="cannot be counted now (connect")
        assert closed.headers["ratelimit-policy"] == '"few";q=2;w=60'
        assert "ratelimit" not in closed.headers
        for name in ("open", "local"):
            answer = await ask(apps[name])
            assert answer.status_code == 200
            assert answer.headers["x-rtx-uncounted"] == f'"{name}"'
            assert "ratelimit" not in answer.headers  # nobody knows
        await ask(apps["local"])
        assert_denied(await ask(apps["local"]), 503, "local")
        assert_denied(await ask(both), 503, "few")
        assert_denied(await ask(place), 503, "reports")
        assert_denied(await ask(apps["nowhere"]), 503)
        assert layer.limits["open"].stats.errors == 1
        assert layer.limits["local"].stats.errors == 3


@pytest.mark.parametrize("wrong", ["key", "layer", "rules"])
async def test_what_fails_in_the_limiter_itself_is_a_503(
    layer: rtx.DataLayer, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("not there yet")

    options: dict[str, Any] = {
        "key": {"layer": layer, "limits": ["few"], "key": fail},
        "layer": {"layer": fail, "limits": ["few"], "key": user_of},
        "rules": {"layer": layer, "rules": lambda _: [("few", "ann", 0)]},
    }[wrong]
    async with client_of(starlette_app(**options)) as client:
        assert_denied(await client.get("/hello", headers=ANN), 503)
    assert "could not be asked" in caplog.text


async def test_after_retry_after_a_request_passes(layer: rtx.DataLayer) -> None:
    app = starlette_app(layer=layer, limits=["quick"], key=user_of)
    async with client_of(app) as client:
        answer = await client.get("/hello", headers=ANN)
        while answer.status_code == 200:
            answer = await client.get("/hello", headers=ANN)
        assert_denied(answer, 429, "quick", detail="2 in 0.7 s")
        assert answer.headers["ratelimit-policy"] == '"quick";q=2;w=1'
        await asyncio.sleep(int(answer.headers["retry-after"]))
        assert (await client.get("/hello", headers=ANN)).status_code == 200


async def test_what_can_never_pass_is_told_to_wait_for_a_day(layer: rtx.DataLayer) -> None:
    app = starlette_app(layer=layer, rules=lambda _: [("few", "ann", 3)])
    async with client_of(app) as client:
        answer = await client.get("/hello")
        assert_denied(answer, 429, "few", detail="more than few ever allows")
        assert answer.headers["retry-after"] == "86400"


async def test_an_id_with_a_limit_of_its_own_is_told_that_one(layer: rtx.DataLayer) -> None:
    await layer.limits.override("few", "ann", limit=7)
    app = starlette_app(layer=layer, limits=["few"], key=user_of)
    async with client_of(app) as client:
        answer = await client.get("/hello", headers=ANN)
        assert answer.headers["ratelimit-policy"] == '"few";q=7;w=60'
        assert answer.headers["ratelimit"] == '"few";r=6;t=60'


async def test_an_applications_own_headers_and_errors_stay(layer: rtx.DataLayer) -> None:
    inner = starlette_app(layer=layer, limits=["few"], key=user_of)
    app = RateLimits(inner, layer=layer, limits=["many"], key=user_of)
    async with client_of(app) as client:
        answer = await client.get("/hello", headers=ANN)
        assert answer.headers["x-own"] == "kept"
        assert set(items(answer.headers["ratelimit"])) == {"few", "many"}
        answer = await client.get("/nothing", headers=ANN)
        assert answer.status_code == 404
        assert set(items(answer.headers["ratelimit"])) == {"few", "many"}


async def test_a_stream_passes_as_it_comes(layer: rtx.DataLayer) -> None:
    sent: list[dict[str, Any]] = []
    let = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": ()})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await let.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async def send(message: Any) -> None:
        sent.append(message)

    limited = RateLimits(app, layer=layer, limits=["few"], key=user_of)
    scope = {"type": "http", "headers": [(b"x-user", b"ann")]}
    running = asyncio.ensure_future(limited(scope, None, send))  # type: ignore[arg-type]
    while len(sent) < 2:
        await asyncio.sleep(0.001)
    assert sent[0]["headers"] == [
        (b"ratelimit-policy", b'"few";q=2;w=60'),
        (b"ratelimit", b'"few";r=1;t=60'),
    ]
    assert sent[1] == {"type": "http.response.body", "body": b"one", "more_body": True}
    let.set()
    await running
    assert sent[2] == {"type": "http.response.body", "body": b"two"}


async def test_the_lifespan_passes_and_brings_the_layer(settings: Settings) -> None:
    state: dict[str, rtx.DataLayer] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        async with rtx.open(settings) as layer:
            state["layer"] = layer
            await send({"type": "lifespan.startup.complete"})

    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    limited = RateLimits(app, layer=lambda: state["layer"], limits=["api"], key=user_of)
    await limited({"type": "lifespan"}, receive, send)
    assert said == [{"type": "lifespan.startup.complete"}]


def test_names_that_a_field_cannot_have_are_encoded() -> None:
    policies = (Policy('a"b\\c%é', 1, 1.0), Policy("d", 3))
    headers = Ruling(policies, (rtx.Decision(True, 3, 2, 0.0, 0.0, "d"),)).headers()
    assert headers["RateLimit-Policy"] == (
        '"a%22b%5Cc%25%C3%A9";q=1;w=1, "d";q=3;qu="concurrent-requests"'
    )
    assert headers["RateLimit"] == '"d";r=2'


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limits": ["few"]},
        {"key": user_of},
        {"limits": ["few"], "key": user_of, "rules": lambda _: []},
    ],
)
def test_it_must_be_told_whom_to_count_for_what(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="rules="):
        RateLimits(None, layer=lambda: None, **options)  # type: ignore[arg-type,return-value]


# --- places ----------------------------------------------------------------------------------


async def test_a_place_is_held_until_the_response_has_ended(
    make: Make, layer: rtx.DataLayer
) -> None:
    reports = layer.limits.concurrency["reports"]

    def rules(scope: Any) -> list[Any]:
        return [Hold("reports", "ann"), ("few", "ann")]

    async with client_of(make(layer=layer, rules=rules)) as client:
        async with reports.hold("ann"):
            answer = await client.get("/hello")
            assert_denied(answer, 429, "reports", detail="reports allows 1 at once")
            assert answer.headers["ratelimit-policy"] == (
                '"few";q=2;w=60, "reports";q=1;qu="concurrent-requests"'
            )
            assert answer.headers["ratelimit"] == '"reports";r=0;t=1'
        assert await layer.limits["few"].remaining("ann") == 2  # who got no place took no hit
        for _ in range(2):
            answer = await client.get("/hello")
            assert answer.status_code == 200
            assert items(answer.headers["ratelimit"])["reports"] == {"r": 0}
        assert_denied(await client.get("/hello"), 429, "few")
        assert await reports.taken("ann") == 0


async def test_the_application_sees_its_lease(layer: rtx.DataLayer) -> None:
    seen: list[rtx.Lease] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["rtx.leases"]["reports"])
        assert seen[0].held
        raise ZeroDivisionError

    limited = RateLimits(app, layer=layer, holds=["reports"], key=user_of)
    async with client_of(limited) as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/hello", headers=ANN)
    assert await layer.limits.concurrency["reports"].taken("ann") == 0
