"""How each contestant is opened: every library as its own documentation says, at its best."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis_py

import rtx
from benchmarks.base import Arena, Sample, Watch
from rtx import urls
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings
from rtx.topology.base import Manner
from rtx.topology.standalone import StandaloneTopology
from rtx.wire import Pool


@asynccontextmanager
async def open_rtx(arena: Arena, **options: object) -> AsyncIterator[rtx.DataLayer]:
    """A layer with default settings but for the options given."""
    async with rtx.open(Settings.load(url=arena.url, **options)) as layer:
        yield layer


@asynccontextmanager
async def open_wire(arena: Arena, db: int = 0) -> AsyncIterator[Pool]:
    """The pool that the layer's parts call, without the layer."""
    location = urls.parse(arena.url)
    assert isinstance(location, urls.Standalone)
    settings = PoolSettings()
    topology = StandaloneTopology(location, Manner(settings))
    pool = Pool(lambda on_close: topology.dial(db, on_close), settings)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def open_redis_py(
    arena: Arena, db: int = 0, connections: int = 100
) -> AsyncIterator[redis_py.Redis]:
    """redis-py with its hiredis parser and a connection for each caller, all of them open.

    Of its pools and protocols the fastest here: `BlockingConnectionPool`, fewer connections than
    callers and `single_connection_client` are all slower, RESP2 and RESP3 are alike.
    """
    client = redis_py.Redis.from_url(f"{arena.url}/{db}", max_connections=connections)
    await asyncio.gather(*(client.echo("open") for _ in range(connections)))
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def open_coredis(arena: Arena) -> AsyncIterator[Any]:
    """coredis with its defaults, which pipeline over few connections."""
    client = importlib.import_module("coredis").Redis(port=arena.port, decode_responses=False)
    async with client:
        yield client


@asynccontextmanager
async def open_glide(arena: Arena) -> AsyncIterator[Any]:
    """valkey-glide with a request timeout of 3 s, as ours."""
    glide = importlib.import_module("glide")
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration(
            [glide.NodeAddress("127.0.0.1", arena.port)], request_timeout=3000
        )
    )
    try:
        yield client
    finally:
        await client.close()


async def concurrently(callers: int, total: int, work: Callable[[int], Awaitable[None]]) -> Sample:
    """Measure `work(0)` … `work(total - 1)` done by several callers at once.

    Each caller makes its calls one after the other, as a request handler does.
    """

    async def caller(first: int) -> None:
        for number in range(first, total, callers):
            await work(number)

    watch = Watch()
    await asyncio.gather(*(caller(first) for first in range(callers)))
    return watch.sample(total)
