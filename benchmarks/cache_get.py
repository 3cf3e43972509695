"""Reading the cache: 100 callers at once, each awaiting one GET after the other."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from benchmarks import data
from benchmarks.bare import open_bare
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Role,
    Run,
    Sample,
    WrongResult,
    throughput,
)
from benchmarks.clients import concurrently, open_redis_py, open_rtx, open_wire
from rtx import codecs

CALLERS = 100
SYMBOLS = 100
TTL = 3600.0
RAW = b"x" * 100

_PRICES = data.prices(SYMBOLS)
_KEYS = [f"price:{price.symbol}" for price in _PRICES]


def _store_prices(arena: Arena) -> None:
    for key, price in zip(_KEYS, _PRICES, strict=True):
        value = codecs.encode_price(price.symbol, price.bid, price.ask, price.time)
        arena.witness.set(key, value)


def _race(read: Callable[[int], Awaitable[float]]) -> Run:
    """A run over `read`, which gets symbol number n and returns its bid."""

    async def run(total: int) -> Sample:
        bids = 0.0

        async def work(number: int) -> None:
            nonlocal bids
            bid = await read(number % SYMBOLS)
            bids += bid

        sample = await concurrently(CALLERS, total, work)
        expected = sum(_PRICES[number % SYMBOLS].bid for number in range(total))
        if abs(bids - expected) > 1e-6 * expected:
            raise WrongResult(f"the bids add up to {bids}, not {expected}")
        return sample

    return run


@asynccontextmanager
async def _ours(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    names = [price.symbol for price in _PRICES]
    async with open_rtx(arena, ttl={"price": TTL}) as layer:
        get = layer.prices.get

        async def read(number: int) -> float:
            price = await get(names[number])
            return price.bid if price is not None else 0.0

        yield _race(read)


@asynccontextmanager
async def _redis_py(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    async with open_redis_py(arena, connections=CALLERS) as client:

        async def read(number: int) -> float:
            raw = await client.get(_KEYS[number])
            assert raw is not None
            bid: float = json.loads(raw)["bid"]
            return bid

        yield _race(read)


@asynccontextmanager
async def _coredis(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    coredis = importlib.import_module("coredis")
    client = coredis.Redis(port=arena.port, decode_responses=False)
    async with client:

        async def read(number: int) -> float:
            bid: float = json.loads(await client.get(_KEYS[number]))["bid"]
            return bid

        yield _race(read)


@asynccontextmanager
async def _glide(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    glide = importlib.import_module("glide")
    address = glide.NodeAddress("127.0.0.1", arena.port)
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration([address], request_timeout=3000)
    )
    try:

        async def read(number: int) -> float:
            bid: float = json.loads(await client.get(_KEYS[number]))["bid"]
            return bid

        yield _race(read)
    finally:
        await client.close()


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    async with open_bare(arena) as loop:

        async def read(number: int) -> float:
            raw = await loop.call("GET", _KEYS[number])
            assert isinstance(raw, bytes)
            return codecs.decode_price(raw).bid

        yield _race(read)


def _raw_race(arena: Arena, read: Callable[[], Awaitable[object]]) -> Run:
    async def run(total: int) -> Sample:
        wrong = 0

        async def work(_number: int) -> None:
            nonlocal wrong
            if await read() != RAW:
                wrong += 1

        arena.witness.set("raw", RAW)
        sample = await concurrently(CALLERS, total, work)
        if wrong:
            raise WrongResult(f"{wrong} of {total} replies were not the value stored")
        return sample

    return run


@asynccontextmanager
async def _ours_raw(arena: Arena) -> AsyncIterator[Run]:
    async with open_wire(arena) as pool:
        yield _raw_race(arena, lambda: pool.call("GET", "raw"))


@asynccontextmanager
async def _redis_py_raw(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, connections=CALLERS) as client:
        yield _raw_race(arena, lambda: client.get("raw"))


@asynccontextmanager
async def _bare_raw(arena: Arena) -> AsyncIterator[Run]:
    async with open_bare(arena) as loop:
        yield _raw_race(arena, lambda: loop.call("GET", "raw"))


CASES = (
    Case(
        name="cache_get.price",
        title=f"get a typed price, {CALLERS} callers at once",
        measures=throughput("get", target=5.0),
        contestants=(
            Contestant("RTX prices.get", Role.OURS, _ours),
            Contestant("redis-py GET + json.loads", Role.PEER, _redis_py),
            Contestant("coredis GET + json.loads", Role.PEER, _coredis, needs="coredis"),
            Contestant("valkey-glide GET + json.loads", Role.PEER, _glide, needs="glide"),
            Contestant("bare loop + msgspec", Role.CEILING, _bare),
        ),
        amount=2_000,
        step=CALLERS,
    ),
    Case(
        name="cache_get.raw",
        title=f"GET of {len(RAW)} bytes, {CALLERS} callers at once",
        measures=throughput("get"),
        contestants=(
            Contestant("RTX wire", Role.OURS, _ours_raw),
            Contestant("redis-py", Role.PEER, _redis_py_raw),
            Contestant("bare loop", Role.CEILING, _bare_raw),
        ),
        amount=2_000,
        step=CALLERS,
    ),
)
