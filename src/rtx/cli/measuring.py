"""The measurements of `rtx bench`."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from decimal import Decimal

import msgspec

import rtx
from rtx import codecs
from rtx.cli.roundtrips import apart
from rtx.cli.servers import Servers
from rtx.errors import RtxError
from rtx.models import now_ms
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings
from rtx.topology import Role

AT_ONCE = 100
"""Calls that are under way together when throughput is measured."""

USES = (
    "price get",
    "price put",
    "account get",
    "account put",
    "publish",
    "subscribe",
    "execution publish",
    "limit hit",
)

_SYMBOLS = tuple(f"BENCH{number}" for number in range(10))
_SUBJECTS = range(100)
_TRADERS = range(10)
_LOG_SIZE = 100  # executions kept of each: their server keeps everybody else's too
_BURST = 1_000  # ticks sent ahead of a subscriber, well below its queue
_LIMIT = LimitSettings(limit=100, per=1.0)
_LIMITED = range(2_000)  # ids enough for 200,000 hits a second: denials are known without a call

_Call = Callable[[int], Awaitable[object]]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One use: latencies of single calls in microseconds, and calls per second with many at once.

    For `subscribe` the latency is from publishing a tick to having it.
    """

    use: str
    p50_us: float
    p99_us: float
    p999_us: float
    per_second: float
    calls: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one run, and what they were made with.

    `at` is ISO 8601 UTC; `servers` are the version and role of each, without its address.
    """

    at: str
    rtx: str
    python: str
    machine: str
    servers: list[str]
    seconds_per_use: float
    at_once: int
    uses: list[Measurement]


async def measure(settings: Settings, seconds: float, starting: Callable[[str], None]) -> Run:
    """Measure every use for that long, in a namespace of its own that is empty afterwards.

    `starting` is told each use before it is measured.
    """
    # Nothing may expire while it is measured: what is gone is quicker to get.
    lasting = settings.ttl.model_copy(update={"price": seconds + 10, "account": seconds + 10})
    short = settings.channels.model_copy(
        update={"log_size": _LOG_SIZE, "log_ttl": seconds + 60, "durable": False}
    )
    alone = settings.model_copy(update={"database_url": None, "ttl": lasting, "channels": short})
    alone = apart(alone, "bench", _LIMIT)
    async with rtx.open(alone) as layer, _cleaned(layer):
        prices = [rtx.Price(symbol, bid=1.0955, ask=1.0956) for symbol in _SYMBOLS]
        ticks = [rtx.Tick(symbol, bid=1.0955, ask=1.0956, lp="BENCH") for symbol in _SYMBOLS]
        accounts = [_account(id) for id in _SUBJECTS]
        fill = rtx.Execution(1, 1, "BENCH0", "BUY", 1.0, 1.0955)
        calls: dict[str, _Call] = {
            "price get": lambda n: layer.prices.get(_SYMBOLS[n % 10]),
            "price put": lambda n: layer.prices.put(prices[n % 10]),
            "account get": lambda n: layer.accounts.get(_SUBJECTS[n % len(_SUBJECTS)]),
            "account put": lambda n: layer.accounts.put(accounts[n % len(accounts)]),
            "publish": lambda n: layer.market_data.publish(ticks[n % 10]),
            "execution publish": lambda n: layer.executions.publish(_TRADERS[n % 10], fill),
            "limit hit": lambda n: layer.limits["bench"].hit(n % len(_LIMITED)),
        }
        results: list[Measurement] = []
        for use in USES:
            starting(use)
            if use == "subscribe":
                results.append(await _subscribe(layer, seconds))
            else:
                await layer.prices.put_many(prices)
                await layer.accounts.put_many(accounts)
                results.append(await _of_calls(use, calls[use], seconds))
        return Run(
            at=codecs.iso(now_ms()),
            rtx=rtx.__version__,
            python=platform.python_version(),
            machine=f"{platform.system()} {platform.machine()}",
            servers=await _servers(layer),
            seconds_per_use=seconds,
            at_once=AT_ONCE,
            uses=results,
        )


async def _servers(layer: rtx.DataLayer) -> list[str]:
    servers = Servers(layer)
    try:
        return [f"{each.group} {each.kind} {each.version}" for each in await servers.look()]
    finally:
        await servers.close()


def _account(id: int) -> rtx.Account:
    money = Decimal("10000.00")
    return rtx.Account(
        id=id,
        account_number=f"BENCH-{id:06}",
        balance=money,
        equity=money,
        margin=Decimal(0),
        free_margin=money,
        margin_level=Decimal(0),
        open_positions=0,
    )


@asynccontextmanager
async def _cleaned(layer: rtx.DataLayer) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with suppress(RtxError):  # all of it expires soon by itself
            await layer.prices.invalidate(*_SYMBOLS)
            await layer.accounts.invalidate(*_SUBJECTS)
            for id in _TRADERS:
                log = layer.keys.executions(id)
                names = (layer.keys.companion(log, what) for what in ("log", "meta"))
                await layer.pool(Role.PUBSUB).execute("DEL", *names)
            await asyncio.gather(*(layer.limits["bench"].reset(id) for id in _LIMITED))


async def _of_calls(use: str, call: _Call, seconds: float) -> Measurement:
    clock = time.perf_counter
    latencies: list[float] = []
    end = clock() + seconds / 2
    while (started := clock()) < end:
        await call(len(latencies))
        latencies.append(clock() - started)
    began = clock()
    end = began + seconds / 2

    async def worker() -> int:
        done = 0
        while clock() < end:
            await call(done)
            done += 1
        return done

    done = sum(await asyncio.gather(*(worker() for _ in range(AT_ONCE))))
    return _measurement(use, latencies, done / (clock() - began), done)


async def _subscribe(layer: rtx.DataLayer, seconds: float) -> Measurement:
    clock = time.perf_counter
    latencies: list[float] = []
    received = 0
    symbol = _SYMBOLS[0]
    tick = rtx.Tick(symbol, bid=1.0955, ask=1.0956, lp="BENCH")
    async with layer.market_data.subscribe(symbol, snapshot=False) as subscription:
        await subscription.ready()
        end = clock() + seconds / 2
        while (started := clock()) < end:
            await layer.market_data.publish(tick)
            await anext(subscription)
            latencies.append(clock() - started)
        burst = [tick] * _BURST
        began = clock()
        end = began + seconds / 2
        async with aclosing(subscription.batches()) as batches:
            while clock() < end:
                await layer.market_data.publish_many(burst)
                missing = _BURST
                while missing > 0:
                    missing -= len(await anext(batches))
                received += _BURST
    return _measurement("subscribe", latencies, received / (clock() - began), received)


def _measurement(use: str, latencies: list[float], per_second: float, calls: int) -> Measurement:
    latencies.sort()
    return Measurement(
        use=use,
        p50_us=_quantile(latencies, 0.5),
        p99_us=_quantile(latencies, 0.99),
        p999_us=_quantile(latencies, 0.999),
        per_second=round(per_second, 1),
        calls=calls + len(latencies),
    )


def _quantile(ordered: list[float], share: float) -> float:
    """In microseconds; the smallest value that this share of all is not above."""
    place = min(int(len(ordered) * share), len(ordered) - 1)
    return round(ordered[place] * 1e6, 1)
