"""Publishing ticks: for each, the cached price is stored and the tick is published.

RTX has the server look whether a later price is there already; the others just SET theirs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import redis.asyncio as redis_py

from benchmarks import data
from benchmarks.bare import open_bare
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Role,
    Run,
    Sample,
    Watch,
    WrongResult,
    throughput,
)
from benchmarks.clients import concurrently, open_redis_py, open_rtx
from benchmarks.resp import pack
from rtx import codecs
from rtx.models import Tick

CHUNK = 500
PUBLISHERS = 100
SYMBOLS = 100
TTL = 60.0
_PX = round(TTL * 1000)
_now = data.START

Publish = Callable[[Sequence[Tick]], Awaitable[object]]


def _ticks(total: int) -> list[Tick]:
    """Ticks later than all before, as those of a market are: older prices would not be stored."""
    global _now
    ticks = data.ticks(total, SYMBOLS, _now)
    _now += total
    return ticks


def _check(arena: Arena, before: int, ticks: Sequence[Tick]) -> None:
    """The server has published each tick once, and keeps the last price of each symbol."""
    published = arena.calls_of("publish") - before
    if published != len(ticks):
        raise WrongResult(f"{published} ticks were published, not {len(ticks)}")
    for tick in ticks[-SYMBOLS:]:
        raw = arena.witness.get(f"price:{tick.symbol}")
        found = json.loads(raw) if isinstance(raw, bytes) else {}
        if (found.get("bid"), found.get("ask")) != (tick.bid, tick.ask):
            raise WrongResult(f"the price of {tick.symbol} is {found}, not that of {tick}")


def _in_chunks(arena: Arena, publish: Publish) -> Run:
    async def run(total: int) -> Sample:
        ticks = _ticks(total)
        before = arena.calls_of("publish")
        watch = Watch()
        for start in range(0, total, CHUNK):
            await publish(ticks[start : start + CHUNK])
        sample = watch.sample(total)
        _check(arena, before, ticks)
        return sample

    return run


def _one_by_one(arena: Arena, publish: Callable[[Tick], Awaitable[object]]) -> Run:
    async def run(total: int) -> Sample:
        ticks = _ticks(total)
        before = arena.calls_of("publish")

        async def work(number: int) -> None:
            await publish(ticks[number])

        # As many publishers as symbols: each has a symbol of its own, whose ticks stay in order.
        sample = await concurrently(PUBLISHERS, total, work)
        _check(arena, before, ticks)
        return sample

    return run


@asynccontextmanager
async def _ours_chunks(arena: Arena) -> AsyncIterator[Run]:
    async with open_rtx(arena, ttl={"price": TTL}) as layer:
        yield _in_chunks(arena, layer.market_data.publish_many)


@asynccontextmanager
async def _ours_single(arena: Arena) -> AsyncIterator[Run]:
    async with open_rtx(arena, ttl={"price": TTL}) as layer:
        yield _one_by_one(arena, layer.market_data.publish)


@asynccontextmanager
async def _ours_feed(arena: Arena) -> AsyncIterator[Run]:
    """Tick by tick, as a feed has them; `send` waits for room, so none is conflated."""

    async def run(total: int) -> Sample:
        ticks = _ticks(total)
        before = arena.calls_of("publish")
        watch = Watch()
        for tick in ticks:
            await out.send(tick)
        await out.flush()
        sample = watch.sample(total)
        _check(arena, before, ticks)
        return sample

    async with (
        open_rtx(arena, ttl={"price": TTL}) as layer,
        layer.market_data.publisher() as out,
    ):
        yield run


def _price_json(tick: Tick) -> str:
    at = datetime.fromtimestamp(tick.time / 1000, UTC)
    return json.dumps(
        {
            "symbol": tick.symbol,
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "bid": tick.bid,
            "ask": tick.ask,
            "mid": (tick.bid + tick.ask) / 2,
            "spread": tick.ask - tick.bid,
        }
    )


def _tick_json(tick: Tick) -> str:
    return json.dumps(
        {
            "type": "tick",
            "symbol": tick.symbol,
            "time": tick.time,
            "bid": tick.bid,
            "ask": tick.ask,
            "lp": tick.lp,
        }
    )


def _pipelined(client: redis_py.Redis, *, last_price_only: bool = False) -> Publish:
    async def publish(ticks: Sequence[Tick]) -> None:
        pipeline = client.pipeline(transaction=False)
        stored = {tick.symbol: tick for tick in ticks}.values() if last_price_only else ticks
        for tick in stored:
            pipeline.set(f"price:{tick.symbol}", _price_json(tick), px=_PX)
        for tick in ticks:
            pipeline.publish(f"market_data:{tick.symbol}", _tick_json(tick))
        await pipeline.execute()

    return publish


@asynccontextmanager
async def _redis_py_chunks(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, connections=1) as client:
        yield _in_chunks(arena, _pipelined(client))


@asynccontextmanager
async def _redis_py_last_price(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, connections=1) as client:
        yield _in_chunks(arena, _pipelined(client, last_price_only=True))


@asynccontextmanager
async def _redis_py_single(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, connections=PUBLISHERS) as client:
        publish = _pipelined(client)
        yield _one_by_one(arena, lambda tick: publish([tick]))


def _packed(ticks: Sequence[Tick]) -> tuple[bytes, int]:
    commands = [
        pack(
            "SET",
            f"price:{tick.symbol}",
            codecs.encode_price(tick.symbol, tick.bid, tick.ask, tick.time),
            "PX",
            _PX,
        )
        for tick in {tick.symbol: tick for tick in ticks}.values()
    ]
    commands += [
        pack("PUBLISH", f"market_data:{tick.symbol}", codecs.encode_tick(tick)) for tick in ticks
    ]
    return b"".join(commands), len(commands)


@asynccontextmanager
async def _bare_chunks(arena: Arena) -> AsyncIterator[Run]:
    async with open_bare(arena) as loop:
        yield _in_chunks(arena, lambda ticks: loop.send(*_packed(ticks)))


@asynccontextmanager
async def _bare_single(arena: Arena) -> AsyncIterator[Run]:
    async with open_bare(arena) as loop:
        yield _one_by_one(arena, lambda tick: loop.send(*_packed([tick])))


CASES = (
    Case(
        name="publish.chunks",
        title=f"publish ticks in chunks of {CHUNK} (SET + PUBLISH), {SYMBOLS} symbols",
        measures=throughput("tick", target=10.0),
        contestants=(
            Contestant("RTX market_data.publish_many", Role.OURS, _ours_chunks),
            Contestant("redis-py pipeline + json.dumps", Role.PEER, _redis_py_chunks),
            Contestant("the same, last price only", Role.PEER, _redis_py_last_price),
            Contestant("bare loop + msgspec", Role.CEILING, _bare_chunks),
        ),
        amount=CHUNK * 2,
        step=CHUNK,
        note=f"RTX sets the last price of each symbol in a chunk; so does 'last price only' "
        f"({SYMBOLS} SETs for {CHUNK} PUBLISHes). No subscribers.",
    ),
    Case(
        name="publish.feed",
        title=f"publish a stream of ticks as a feed has them (SET + PUBLISH), {SYMBOLS} symbols",
        measures=throughput("tick"),
        contestants=(
            Contestant("RTX market_data.publisher(), send()", Role.OURS, _ours_feed),
            Contestant(f"redis-py pipelines of {CHUNK}", Role.PEER, _redis_py_chunks),
            Contestant("the same, last price only", Role.PEER, _redis_py_last_price),
        ),
        amount=CHUNK * 4,
        step=CHUNK,
        note="RTX batches by itself, up to 1,000 ticks in a write. No subscribers.",
    ),
    Case(
        name="publish.single",
        title=f"publish one tick at a time (SET + PUBLISH), {PUBLISHERS} publishers at once",
        measures=throughput("tick"),
        contestants=(
            Contestant("RTX market_data.publish", Role.OURS, _ours_single),
            Contestant("redis-py pipeline of the two", Role.PEER, _redis_py_single),
            Contestant("bare loop + msgspec", Role.CEILING, _bare_single),
        ),
        amount=PUBLISHERS * 10,
        step=PUBLISHERS,
        note="No subscribers.",
    ),
)
