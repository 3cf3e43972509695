"""Servers, layers and witnesses that every test may ask for.

A test gets a namespace of its own on a server that its worker process shares, or, for tests that
break servers, a server of its own. Nothing is flushed and nothing waits by sleeping.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis as redis_sync
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess, find_server, free_port

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
UNDER_USERS = bool(os.environ.get("RTXTEST_USERS"))
"""Whether the shared server has the shipped users: the layer is `engine`, witnesses `admin`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run it with -m soak"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Neither the developer's environment nor an rtx.toml may change what is tested."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("RTX_")}
    yield
    os.environ.update(kept)


class Shared(NamedTuple):
    """URLs of the shared server, for programs and for whoever may do everything."""

    engine: str
    admin: str


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    """A server that the tests of this worker share."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-test-"))
    port = free_port()
    command = [
        find_server(),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""),
        *("--enable-debug-command", "local"),
    ]
    urls = Shared(*[f"redis://127.0.0.1:{port}"] * 2)
    if UNDER_USERS:
        made = directory / "secrets"
        make = ["sh", str(ROOT / "deploy" / "make-secrets.sh"), str(made)]
        subprocess.run(make, check=True, timeout=20, stdout=subprocess.DEVNULL)
        command += ["--aclfile", str(made / "users.acl")]
        logins = (f"{user}:{(made / f'{user}-password').read_text()}" for user in Shared._fields)
        urls = Shared(*(f"redis://{login}@127.0.0.1:{port}" for login in logins))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with contextlib.closing(redis_sync.Redis.from_url(urls.admin)) as client:
            wait_sync(lambda: client.ping())
        yield urls
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def rights_of(user: str, namespace: str) -> list[str]:
    """The keys and channels of a user of deploy/users.acl, under a namespace."""
    lines = (ROOT / "deploy" / "users.acl").read_text("utf-8").splitlines()
    [rules] = (rules for _, name, *rules in map(str.split, lines) if name == user)
    # A companion has its namespace inside of the hash tag.
    named = re.compile(r"(~|%R~|&)(\{?)(.+)")
    found = filter(None, map(named.fullmatch, rules))
    return [f"{kind}{brace}{namespace}:{name}" for kind, brace, name in (x.groups() for x in found)]


@pytest.fixture(scope="session")
def shared_server(shared: Shared) -> str:
    """URL of a server that the tests of this worker share; use it with `namespace`."""
    return shared.engine


@pytest.fixture(scope="session")
def admin_server(shared: Shared) -> str:
    """The same for a witness: who logs in with it may do everything, with any key."""
    return shared.admin


def wait_sync(ready: Callable[[], object], within: float = 10.0) -> None:
    """Call until it neither raises nor is false."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(redis_sync.ConnectionError, redis_sync.BusyLoadingError):
            if ready():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready within {within} s")
        time.sleep(0.01)


async def eventually(
    check: Callable[[], object | Awaitable[object]], within: float = 10.0, every: float = 0.01
) -> object:
    """Return the first true answer of `check`; fail when none comes in time."""
    deadline = time.monotonic() + within
    while True:
        answer = check()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{check} was not true within {within} s"
        await asyncio.sleep(every)


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A prefix for this test's keys and channels."""
    made = f"t{secrets.token_hex(4)}"
    if UNDER_USERS:
        rights = ["resetkeys", "resetchannels", *rights_of("engine", made)]
        if "settings" not in request.fixturenames:
            # A part by itself, without the layer that names its keys: the commands are what counts.
            rights += [f"~{made}:*", f"~{{{made}:*", "~never-stored"]
        admin = redis_sync.Redis.from_url(request.getfixturevalue("admin_server"))
        with contextlib.closing(admin):
            admin.execute_command("ACL", "SETUSER", "engine", *rights)
    return made


@pytest.fixture
def settings(shared_server: str, namespace: str) -> Settings:
    """Settings for the shared server under this test's namespace.

    The deadline of limits is long: a busy machine must not turn a decision into one without server.
    """
    return Settings.load(url=shared_server, namespace=namespace, limiter={"deadline": 5.0})


@pytest.fixture
async def layer(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """An open layer on the shared server, without a database."""
    async with rtx.open(settings) as opened:
        yield opened


@pytest.fixture
async def witness(admin_server: str) -> AsyncIterator[redis_py.Redis]:
    """redis-py on the cache database of the shared server, as an independent program."""
    client = redis_py.Redis.from_url(admin_server)
    yield client
    await client.aclose()


@pytest.fixture
async def own_server() -> AsyncIterator[ServerProcess]:
    """A server of the test's own, to be killed, frozen or filled; restart it with `start`."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-own-"))
    server = ServerProcess(directory, config={"enable-debug-command": "local"})
    await server.start()
    yield server
    await server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def seeded() -> random.Random:
    """Seeded randomness; the seed is printed, and RTXTEST_SEED repeats it."""
    seed = int(os.environ.get("RTXTEST_SEED", secrets.randbits(32)))
    print(f"seed: RTXTEST_SEED={seed}")
    return random.Random(seed)


def shared_data(name: str) -> Path:
    """A real-data file, or a skip that says why."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"real data {name} is not at ../shared/data")
    return path
