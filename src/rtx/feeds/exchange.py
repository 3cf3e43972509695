"""Quotes of a crypto exchange, through ccxt or any object that watches tickers as ccxt does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol, cast

from rtx.errors import FeedError, MissingExtra
from rtx.feeds.backoff import Backoff
from rtx.feeds.base import FeedStats, Sleep, plain_symbol
from rtx.models import Tick, now_ms

log = logging.getLogger(__name__)

BATCH = 500
Ticker = Mapping[str, object]
"""A ticker as ccxt gives it: `symbol`, `bid`, `ask`, and `timestamp` in epoch ms or None."""


class Exchange(Protocol):
    """The part of a `ccxt.pro` exchange that is used; `has` says which of the two it supports."""

    @property
    def id(self) -> str: ...

    @property
    def has(self) -> Mapping[str, object]: ...

    async def watch_bids_asks(self, symbols: list[str]) -> Mapping[str, Ticker]: ...

    async def watch_ticker(self, symbol: str) -> Ticker: ...

    async def close(self) -> object: ...


class ExchangeFeed:
    """Best bid and ask of the symbols, each time the exchange sends one.

    `symbols` are the exchange's own (`BTC/USDT`); ticks carry the plain form (`BTCUSDT`), without
    what follows a colon. Uses `watch_bids_asks` where the exchange has it, else one `watch_ticker`
    a symbol. Errors of the types in `retry_on` are outlived with growing waits; any other raises
    `FeedError`. The exchange stays open when the feed ends, unless `connect` made it.
    """

    def __init__(
        self,
        exchange: Exchange,
        symbols: Sequence[str],
        *,
        lp: str | None = None,
        retry_on: tuple[type[Exception], ...] = (OSError,),
        backoff: Backoff | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._names = {symbol: plain_symbol(symbol.partition(":")[0]) for symbol in symbols}
        if not symbols or len(set(self._names.values())) < len(self._names):
            raise FeedError("name symbols of the exchange that differ, such as BTC/USDT ETH/USDT")
        self.exchange = exchange
        self.name = f"exchange {exchange.id}"
        self.lp = lp or exchange.id.upper()
        self.stats = FeedStats()
        self._owned = False
        self._retry_on = retry_on
        self._backoff = backoff or Backoff()
        self._sleep = sleep

    @classmethod
    def connect(cls, exchange_id: str, symbols: Sequence[str]) -> ExchangeFeed:
        """A feed of ccxt's exchange of that id, closed with the feed; raises `MissingExtra`."""
        try:
            import ccxt.pro
        except ImportError:
            raise MissingExtra("feeds", "ccxt") from None
        if exchange_id not in ccxt.pro.exchanges:
            raise FeedError(
                f"ccxt streams no exchange {exchange_id!r}; "
                f"it has {', '.join(sorted(ccxt.pro.exchanges))}"
            )
        exchange = cast(Exchange, getattr(ccxt.pro, exchange_id)())
        feed = cls(exchange, symbols, retry_on=(OSError, ccxt.NetworkError))
        feed._owned = True
        return feed

    async def batches(self) -> AsyncIterator[Sequence[Tick]]:
        """Yield what each message of the exchange brings, at most 500 ticks, without end."""
        watching: dict[asyncio.Task[list[Ticker]], Callable[[], Awaitable[list[Ticker]]]] = {}
        try:
            for watch in self._watches():
                watching[_task(watch)] = watch
            while True:
                done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
                again = [watching.pop(task) for task in done]
                tickers, failure = self._results(done)
                ticks = [tick for item in tickers if (tick := self._tick(item)) is not None]
                for start in range(0, len(ticks), BATCH):
                    batch = ticks[start : start + BATCH]
                    self.stats.ticks += len(batch)
                    yield batch
                if failure is not None:
                    wait = self._backoff.next()
                    log.warning("%s failed (%s); trying again in %.1f s", self.name, failure, wait)
                    await self._sleep(wait)
                for watch in again:
                    watching[_task(watch)] = watch
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            if self._owned:
                await self.exchange.close()

    def _watches(self) -> list[Callable[[], Awaitable[list[Ticker]]]]:
        exchange, symbols = self.exchange, list(self._names)
        if exchange.has.get("watchBidsAsks"):

            async def all_of_them() -> list[Ticker]:
                return list((await exchange.watch_bids_asks(symbols)).values())

            return [all_of_them]
        if not exchange.has.get("watchTicker"):
            raise FeedError(f"{exchange.id} streams no quotes; choose another exchange")

        def one(symbol: str) -> Callable[[], Awaitable[list[Ticker]]]:
            async def of_it() -> list[Ticker]:
                return [await exchange.watch_ticker(symbol)]

            return of_it

        return [one(symbol) for symbol in symbols]

    def _results(
        self, done: set[asyncio.Task[list[Ticker]]]
    ) -> tuple[list[Ticker], Exception | None]:
        tickers: list[Ticker] = []
        failure: Exception | None = None
        for task in done:
            try:
                tickers += task.result()
            except self._retry_on as error:
                failure = error
            except Exception as error:
                raise FeedError(
                    f"{self.exchange.id} refused the stream ({type(error).__name__}: {error}); "
                    f"check the symbols {', '.join(self._names)}"
                ) from error
        if failure is None:
            self._backoff.reset()
        else:
            self.stats.reconnects += 1
        return tickers, failure

    def _tick(self, ticker: Ticker) -> Tick | None:
        symbol = self._names.get(str(ticker.get("symbol")))
        bid, ask, time = ticker.get("bid"), ticker.get("ask"), ticker.get("timestamp")
        if symbol is None:
            self.stats.refuse("other_symbol")
            return None
        if not (isinstance(bid, int | float) and isinstance(ask, int | float)):
            self.stats.refuse("no_quote")
            return None
        when = int(time) if isinstance(time, int | float) else now_ms()
        return Tick(symbol, time=when, bid=float(bid), ask=float(ask), lp=self.lp)


def _task(watch: Callable[[], Awaitable[list[Ticker]]]) -> asyncio.Task[list[Ticker]]:
    async def run() -> list[Ticker]:
        return await watch()

    return asyncio.create_task(run())
