"""Round trips for `rtx latency`: one at a time, at a rate that disturbs nobody."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import rtx
from rtx.cli.histogram import Histogram
from rtx.cli.servers import Servers
from rtx.errors import RtxError
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings

_SYMBOL = "LATENCY"
_WITHIN = 1.0  # seconds for a message to come back; later ones count as lost
_LIMIT = LimitSettings(limit=1_000, per=1.0)

_Trip = Callable[[], Awaitable[float]]


@dataclass(slots=True)
class Use:
    """One kind of round trip: its times, and how many failed and why the last did."""

    name: str
    trip: _Trip
    times: Histogram = field(default_factory=Histogram)
    failures: int = 0
    error: str = ""

    async def go(self) -> None:
        """Make one round trip and count it; never raises an `RtxError`."""
        try:
            self.times.take(await self.trip())
        except (RtxError, TimeoutError) as error:
            self.failures += 1
            self.error = str(error) or f"nothing came back within {_WITHIN:g} s"


def apart(settings: Settings, purpose: str, limit: LimitSettings) -> Settings:
    """The same servers under a random namespace, with a limit named `purpose`."""
    own = f"{purpose}-{secrets.token_hex(6)}"
    namespace = f"{settings.namespace}:{own}" if settings.namespace else own
    return settings.model_copy(
        update={"namespace": namespace, "limits": {**settings.limits, purpose: limit}}
    )


@asynccontextmanager
async def uses(settings: Settings) -> AsyncIterator[list[Use]]:
    """PING of each server, and one of each use; what they left is removed at the end.

    Keys and channels are in a namespace of their own, and no log is written to.
    """
    alone = apart(settings, "latency", _LIMIT)
    async with AsyncExitStack() as stack:
        layer = await stack.enter_async_context(rtx.open(alone))
        servers = Servers(layer)
        stack.push_async_callback(servers.close)
        found: list[Use] = []
        for server in await servers.look():
            if server.group != "sentinel":
                name = f"ping {server.name} ({server.group}, {server.kind})"
                found.append(Use(name, partial(servers.ping, server.name)))
        echo = _Echo(layer)
        stack.push_async_callback(echo.close)
        limit = layer.limits["latency"]
        price = _PriceKept(layer)
        found += [
            Use("price get", price.get),
            Use("publish to subscriber", echo.go),
            Use("limit hit", lambda: _timed(limit.hit(1))),
        ]
        try:
            yield found
        finally:
            with suppress(RtxError):  # all of it expires within seconds by itself
                await layer.prices.invalidate(_SYMBOL)
                await limit.reset(1)


async def _timed(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    answer = await call
    took = time.perf_counter() - began
    if isinstance(answer, rtx.Decision) and answer.degraded:
        raise RtxError(f"the limits server gave no answer: {answer.reason}")
    return took


class _PriceKept:
    """Reads of a price that is there: it is stored anew before it expires."""

    def __init__(self, layer: rtx.DataLayer) -> None:
        self._layer = layer
        self._again_at = 0.0

    async def get(self) -> float:
        if time.monotonic() >= self._again_at:
            await self._layer.prices.put(rtx.Price(_SYMBOL, bid=1.0955, ask=1.0956))
            self._again_at = time.monotonic() + self._layer.settings.ttl.price / 2
        return await _timed(self._layer.prices.get(_SYMBOL))


class _Echo:
    """Publishes a tick and waits for that very one on a subscription of its own."""

    def __init__(self, layer: rtx.DataLayer) -> None:
        self._channel = layer.market_data
        self._subscription = layer.market_data.subscribe(_SYMBOL, snapshot=False)
        self._number = 0

    async def go(self) -> float:
        self._number += 1
        tick = rtx.Tick(_SYMBOL, bid=self._number, ask=self._number, lp="LATENCY")
        async with asyncio.timeout(_WITHIN):
            await self._subscription.ready()
            began = time.perf_counter()
            await self._channel.publish(tick)
            async for item in self._subscription:
                if isinstance(item, rtx.Tick) and item.bid == tick.bid:
                    break
        return time.perf_counter() - began

    async def close(self) -> None:
        await self._subscription.close()


async def measure(uses: list[Use], stop: asyncio.Event, *, rate: float, count: int | None) -> None:
    """Go round the uses at `rate` round trips a second until `stop`, or `count` of each were made.

    One that takes longer than its turn delays the next; nothing is made up for.
    """
    turn = 0
    clock = time.monotonic
    next_at = clock()
    while not stop.is_set() and (count is None or turn < count * len(uses)):
        await uses[turn % len(uses)].go()
        turn += 1
        next_at = max(next_at + 1 / rate, clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(next_at - clock()):
                await stop.wait()
