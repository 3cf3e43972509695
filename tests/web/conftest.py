"""The same little application in each framework, with the same limits in front of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from fastapi import FastAPI
from litestar import Litestar, get
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import rtx
from rtx.setting_groups import ConcurrencySettings, LimiterSettings, LimitSettings
from rtx.settings import Settings
from rtx.web import RateLimits

Make = Callable[..., Any]


def fastapi_app(**options: Any) -> Any:
    app = FastAPI()
    app.add_middleware(RateLimits, **options)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    return app


def starlette_app(**options: Any) -> Any:
    async def hello(_: Any) -> PlainTextResponse:
        return PlainTextResponse("hello", headers={"X-Own": "kept"})

    app = Starlette(routes=[Route("/hello", hello)])
    app.add_middleware(RateLimits, **options)
    return app


def litestar_app(**options: Any) -> Any:
    @get("/hello")
    async def hello() -> str:
        return "hello"

    return Litestar([hello], middleware=[DefineMiddleware(RateLimits, **options)])


def django_app(**options: Any) -> Any:
    if not django_settings.configured:
        django_settings.configure(
            ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="tests", MIDDLEWARE=[]
        )
        import django

        django.setup()
    return RateLimits(get_asgi_application(), **options)


async def _django_hello(_: Any) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [path("hello", _django_hello)]

FRAMEWORKS: dict[str, Make] = {
    "fastapi": fastapi_app,
    "starlette": starlette_app,
    "litestar": litestar_app,
    "django": django_app,
}


@pytest.fixture(params=FRAMEWORKS)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes the application of one framework, with `RateLimits` as told in front of it."""
    return FRAMEWORKS[request.param]


@asynccontextmanager
async def client_of(app: Any, **transport: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process, whose errors are raised here."""
    through = httpx.ASGITransport(app, **transport)
    async with httpx.AsyncClient(transport=through, base_url="http://test") as client:
        yield client


def with_web_limits(settings: Settings, deadline: float = 5.0) -> Settings:
    """`few` 2 and `many` 5 in a minute, `open` and `local` when down; `reports` 1 at once."""
    limits = {
        "few": LimitSettings(limit=2, per=60.0),
        "many": LimitSettings(limit=5, per=60.0),
        "quick": LimitSettings(limit=2, per=0.7),
        "open": LimitSettings(limit=2, per=60.0, when_down="open"),
        "local": LimitSettings(limit=2, per=60.0, when_down="local"),
    }
    return settings.model_copy(
        update={
            "limits": limits,
            "concurrency": {"reports": ConcurrencySettings(limit=1)},
            "limiter": LimiterSettings(deadline=deadline),
        }
    )


@pytest.fixture
async def layer(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    async with rtx.open(with_web_limits(settings)) as opened:
        yield opened


def user_of(scope: Any) -> str | None:
    """The header `X-User`; nobody is counted without it."""
    found = dict(scope["headers"]).get(b"x-user")
    return found.decode() if found else None


ANN = {"X-User": "ann"}


def items(field: str) -> dict[str, dict[str, int | str]]:
    """A list of structured fields' items with parameters, strictly read (RFC 9651)."""
    found: dict[str, dict[str, int | str]] = {}
    item = r'"([\x20-\x21\x23-\x5b\x5d-\x7e]*)"((?:;[a-z]+=(?:\d{1,15}|"[a-z-]*"))*)'
    assert re.fullmatch(rf"{item}(?:, {item})*", field), field
    for name, parameters in re.findall(item, field):
        found[name] = {
            key: int(number) if number else text
            for key, number, text in re.findall(r';([a-z]+)=(?:(\d+)|"([a-z-]*)")', parameters)
        }
    return found


def assert_denied(
    answer: httpx.Response, status: int, *violated: str, detail: str = ""
) -> dict[str, Any]:
    """A denial with all that belongs to it; returns its problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    problem: dict[str, Any] = answer.json()
    kind = "quota-exceeded" if status == 429 else "temporary-reduced-capacity"
    assert problem["type"] == f"https://iana.org/assignments/http-problem-types#{kind}"
    assert (problem["status"], problem["violated-policies"]) == (status, [*violated])
    assert problem["title"]
    assert detail in problem["detail"]
    return problem


Asgi = Callable[[Any, Any, Any], Awaitable[None]]
