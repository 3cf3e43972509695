"""Reading the cache: 100 callers at once, each awaiting one GET after the other."""

from __future__ import annotations

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
from benchmarks.clients import concurrently, open_coredis, open_glide, open_redis_py, open_rtx
from rtx import codecs

CALLERS = 100
SYMBOLS = 100
TTL = 3600.0

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
    async with open_coredis(arena) as client:

        async def read(number: int) -> float:
            bid: float = json.loads(await client.get(_KEYS[number]))["bid"]
            return bid

        yield _race(read)


@asynccontextmanager
async def _glide(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    async with open_glide(arena) as client:

        async def read(number: int) -> float:
            bid: float = json.loads(await client.get(_KEYS[number]))["bid"]
            return bid

        yield _race(read)


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    async with open_bare(arena) as loop:

        async def read(number: int) -> float:
            raw = await loop.call("GET", _KEYS[number])
            assert isinstance(raw, bytes)
            return codecs.decode_price(raw).bid

        yield _race(read)


CASES = (
    Case(
        name="cache_get.price",
        title=f"get a typed price, {CALLERS} callers at once",
        measures=throughput("get", target=10.0),
        contestants=(
            Contestant("RTX prices.get", Role.OURS, _ours),
            Contestant("redis-py GET + json.loads", Role.PEER, _redis_py),
            Contestant("coredis GET + json.loads", Role.PEER, _coredis, needs="coredis"),
            Contestant("valkey-glide GET + msgspec", Role.PEER, _glide, needs="glide"),
            Contestant("bare loop + msgspec", Role.CEILING, _bare),
        ),
        amount=2_000,
        step=CALLERS,
    ),
)
