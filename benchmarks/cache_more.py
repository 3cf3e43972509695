"""Caches beyond a single get: many values at once, what a hit adds to a GET, and an expiry."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal

import msgspec

from benchmarks import data
from benchmarks.bare import open_bare
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Measure,
    Role,
    Run,
    Sample,
    Watch,
    WrongResult,
    throughput,
)
from benchmarks.clients import concurrently, open_redis_py, open_rtx, open_wire
from rtx import codecs
from rtx.cache import Cache
from rtx.keys import Keys
from rtx.models import Account, Versioned
from rtx.setting_groups import CacheSettings

ACCOUNTS = 100
CALLERS = 10
TTL = 3600.0
_KEPT = CacheSettings().decoded

_KEY = Keys().account
_KEYS = [_KEY(number) for number in range(ACCOUNTS)]
_IDS = range(ACCOUNTS)


def _account(number: int) -> Account:
    money = Decimal(f"{10_000 + number}.25")
    return Account(number, f"RTX-{number:06d}", money, money, Decimal(0), money, Decimal(0), 0)


# --- many at once --------------------------------------------------------------------------


def _store_accounts(arena: Arena) -> None:
    for number, key in enumerate(_KEYS):
        arena.witness.set(key, codecs.encode(_account(number)))


def _many_race(read: Callable[[], Awaitable[int]]) -> Run:
    """A run over `read`, which gets all accounts and returns the sum of their ids."""

    async def run(total: int) -> Sample:
        ids = 0

        async def work(_number: int) -> None:
            nonlocal ids
            found = await read()
            ids += found

        sample = await concurrently(CALLERS, total, work)
        if ids != total * sum(_IDS):
            raise WrongResult(f"the ids add up to {ids}, not {total * sum(_IDS)}")
        return sample

    return run


def _many_ours(decoded: int) -> Callable[[Arena], AbstractAsyncContextManager[Run]]:
    @asynccontextmanager
    async def contestant(arena: Arena) -> AsyncIterator[Run]:
        _store_accounts(arena)
        async with open_rtx(arena, cache={"decoded": decoded}) as layer:
            get_many = layer.accounts.get_many

            async def read() -> int:
                return sum(account.id for account in (await get_many(_IDS)).values())

            yield _many_race(read)

    return contestant


@asynccontextmanager
async def _many_redis_py(arena: Arena) -> AsyncIterator[Run]:
    _store_accounts(arena)
    async with open_redis_py(arena, connections=CALLERS) as client:

        async def read() -> int:
            raws = await client.mget(_KEYS)
            return sum(json.loads(raw or b"")["id"] for raw in raws)

        yield _many_race(read)


@asynccontextmanager
async def _many_glide(arena: Arena) -> AsyncIterator[Run]:
    _store_accounts(arena)
    glide = importlib.import_module("glide")
    address = glide.NodeAddress("127.0.0.1", arena.port)
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration([address], request_timeout=3000)
    )
    try:

        async def read() -> int:
            raws = await client.mget(_KEYS)
            return sum(codecs.decode_account(raw).id for raw in raws)

        yield _many_race(read)
    finally:
        await client.close()


@asynccontextmanager
async def _many_bare(arena: Arena) -> AsyncIterator[Run]:
    _store_accounts(arena)
    async with open_bare(arena) as loop:

        async def read() -> int:
            raws = await loop.call("MGET", *_KEYS)
            assert isinstance(raws, list)
            return sum(codecs.decode_account(raw).id for raw in raws)

        yield _many_race(read)


# --- what a hit adds -----------------------------------------------------------------------

_PRICES = data.prices(ACCOUNTS)
_PRICE_KEYS = [Keys().price(price.symbol) for price in _PRICES]


def _store_prices(arena: Arena) -> None:
    for key, price in zip(_PRICE_KEYS, _PRICES, strict=True):
        value = codecs.encode_price(price.symbol, price.bid, price.ask, price.time)
        arena.witness.set(key, value)


def _hit_race(read: Callable[[int], Awaitable[bool]]) -> Run:
    async def run(total: int) -> Sample:
        wrong = 0

        async def work(number: int) -> None:
            nonlocal wrong
            if not await read(number % ACCOUNTS):
                wrong += 1

        sample = await concurrently(100, total, work)
        if wrong:
            raise WrongResult(f"{wrong} of {total} reads found nothing")
        return sample

    return run


def _hit_ours(decoded: int) -> Callable[[Arena], AbstractAsyncContextManager[Run]]:
    @asynccontextmanager
    async def contestant(arena: Arena) -> AsyncIterator[Run]:
        _store_prices(arena)
        names = [price.symbol for price in _PRICES]
        async with open_rtx(arena, ttl={"price": TTL}, cache={"decoded": decoded}) as layer:
            get = layer.prices.get

            async def read(number: int) -> bool:
                return await get(names[number]) is not None

            yield _hit_race(read)

    return contestant


@asynccontextmanager
async def _hit_decoded(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    async with open_wire(arena) as pool:

        async def read(number: int) -> bool:
            raw = await pool.call("GET", _PRICE_KEYS[number])
            return codecs.decode_price(raw) is not None  # type: ignore[arg-type]

        yield _hit_race(read)


@asynccontextmanager
async def _hit_raw(arena: Arena) -> AsyncIterator[Run]:
    _store_prices(arena)
    async with open_wire(arena) as pool:

        async def read(number: int) -> bool:
            return await pool.call("GET", _PRICE_KEYS[number]) is not None

        yield _hit_race(read)


# --- an expiry -----------------------------------------------------------------------------

READERS = 1_000
_HOT = 1
_QUERY = 0.005


class _Database:
    """Counts its queries, each of which takes 5 ms."""

    def __init__(self) -> None:
        self.queries = 0

    async def load(self, ids: Sequence[int]) -> dict[int, Versioned[Account]]:
        self.queries += 1
        await asyncio.sleep(_QUERY)
        return {id: Versioned(_account(id), 0) for id in ids}


def _expiry_race(arena: Arena, database: _Database, read: Callable[[], Awaitable[bool]]) -> Run:
    async def run(total: int) -> Sample:
        database.queries = 0
        watch = Watch()
        for _ in range(total):
            arena.witness.delete(_KEY(_HOT))
            if not all(await asyncio.gather(*(read() for _ in range(READERS)))):
                raise WrongResult("a reader got nothing")
        sample = watch.sample(total)
        queries = database.queries / total
        took = sample.seconds / total * 1000
        return Sample(total, sample.seconds, {"queries": queries, "time": took})

    return run


@asynccontextmanager
async def _expiry_ours(arena: Arena) -> AsyncIterator[Run]:
    database = _Database()
    async with open_wire(arena) as pool:
        cache: Cache[int, Account] = Cache(
            pool, _KEY, 60.0, codecs.encode, codecs.decode_account, database.load
        )
        try:

            async def read() -> bool:
                return await cache.get(_HOT) is not None

            yield _expiry_race(arena, database, read)
        finally:
            await cache.close()


def _aside(connections: int) -> Callable[[Arena], AbstractAsyncContextManager[Run]]:
    """The usual way: GET, and on a miss load and SET."""

    @asynccontextmanager
    async def contestant(arena: Arena) -> AsyncIterator[Run]:
        database = _Database()
        decode = msgspec.json.Decoder(Account).decode
        async with open_redis_py(arena, connections=connections) as client:
            # redis-py refuses more callers than connections, so they wait for one here.
            room = asyncio.Semaphore(connections)

            async def read() -> bool:
                async with room:
                    raw = await client.get(_KEY(_HOT))
                if raw is not None:
                    return decode(raw) is not None
                account = (await database.load([_HOT]))[_HOT].value
                async with room:
                    await client.set(_KEY(_HOT), codecs.encode(account), px=60_000)
                return True

            yield _expiry_race(arena, database, read)

    return contestant


CASES = (
    Case(
        name="cache_many.accounts",
        title=f"get {ACCOUNTS} typed accounts at once, {CALLERS} callers",
        measures=throughput("get_many", target=3.0),
        contestants=(
            Contestant("RTX accounts.get_many", Role.OURS, _many_ours(_KEPT)),
            Contestant("redis-py MGET + json.loads", Role.PEER, _many_redis_py),
            Contestant("valkey-glide MGET + msgspec", Role.PEER, _many_glide, needs="glide"),
            Contestant("RTX, each value decoded anew", Role.PEER, _many_ours(0)),
            Contestant("bare loop MGET + msgspec", Role.CEILING, _many_bare),
        ),
        amount=100,
        step=CALLERS,
        note="json.loads makes floats of the money; the others make Decimals, which cost more. The "
        "values do not change, so RTX decodes each once; its other line is without that.",
    ),
    Case(
        name="cache_hit.overhead",
        title="what a hit adds to a GET on the same wire, 100 callers at once",
        measures=throughput("get", target=1 / 1.3),
        contestants=(
            Contestant("RTX prices.get", Role.OURS, _hit_ours(_KEPT)),
            Contestant("RTX wire, GET and decode by hand", Role.PEER, _hit_decoded),
            Contestant("RTX wire, GET alone", Role.PEER, _hit_raw),
            Contestant("RTX, each value decoded anew", Role.PEER, _hit_ours(0)),
        ),
        amount=2_000,
        step=100,
        note="A hit may take 1.3 times as long: a ratio of 0.77. It makes a typed price of the "
        "reply, as the second line does; the third makes nothing of it. The prices do not change, "
        "so RTX decodes each once; its last line is without that.",
    ),
    Case(
        name="cache_expiry.hot_key",
        title=f"a hot key expires under {READERS} readers, the database takes 5 ms",
        measures=(
            Measure("queries", "queries of the database", more_is_better=False),
            Measure("time", "ms until all readers have it", more_is_better=False),
        ),
        contestants=(
            Contestant("RTX get", Role.OURS, _expiry_ours),
            Contestant("redis-py GET, load, SET", Role.PEER, _aside(100)),
        ),
        amount=2,
    ),
)
