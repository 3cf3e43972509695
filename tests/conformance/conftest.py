"""Every server at hand as every topology, each started once for the tests of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop

import rtx
from rtx.settings import Settings
from rtx.topology import Role
from rtx.wire import Caller
from tests.conformance.deployments import Deployment, build
from tests.conformance.servers import CASES, Case


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of one deployment after each other, so that it is started once."""
    places = [place for place, item in enumerate(items) if _case_of(item) is not None]
    ordered = sorted((items[place] for place in places), key=lambda item: _rank(_case_of(item)))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("deployment") if callspec is not None else None
    return case if isinstance(case, Case) else None


def _rank(case: Case | None) -> int:
    return -1 if case is None else CASES.index(case)


@pytest.fixture(autouse=True)
async def quiet_loop() -> AsyncIterator[None]:
    """Nothing may reach the loop's exception handler: no lost exception, no failing callback."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    yield
    assert not said


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A server as a topology; what a test does to it, it undoes."""
    with build(request.param) as started:
        yield started


@pytest.fixture
def settings(deployment: Deployment, namespace: str) -> Settings:
    return deployment.settings(namespace)


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """A second process's layer on the same servers and namespace."""
    async with rtx.open(settings) as opened:
        yield opened


@pytest.fixture
def caller(layer: rtx.DataLayer) -> Caller:
    return layer._roles.pool(Role.CACHE)
