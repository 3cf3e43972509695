"""The exchange feed over an object that watches tickers as ccxt's exchanges do."""

import asyncio
import sys
from collections.abc import Mapping

import pytest

from rtx.errors import FeedError, MissingExtra
from rtx.feeds import ExchangeFeed
from rtx.feeds.backoff import Backoff
from rtx.models import Tick

Message = Mapping[str, object] | Exception


def ticker(symbol: str, bid: object = 10.0, **other: object) -> dict[str, object]:
    return {"symbol": symbol, "bid": bid, "ask": 11.0, "timestamp": 1705575045123} | other


class Exchange:
    """Gives each symbol's messages one after the other, then stays silent."""

    id = "kraken"

    def __init__(self, *messages: Message, together: bool = True) -> None:
        self.has = {"watchBidsAsks": together, "watchTicker": True}
        self.waiting = 0
        self.both_wait = asyncio.Event()
        self.closed = False
        self._messages = list(messages)

    async def _next(self, symbol: str | None = None) -> Mapping[str, object]:
        for index, message in enumerate(self._messages):
            if isinstance(message, Exception) or symbol in (None, message["symbol"]):
                del self._messages[index]
                await asyncio.sleep(0)
                if isinstance(message, Exception):
                    raise message
                return message
        self.waiting += 1
        if self.waiting == 2:
            self.both_wait.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        raise AssertionError

    async def watch_bids_asks(self, symbols: list[str]) -> Mapping[str, Mapping[str, object]]:
        message = await self._next()
        return {str(message["symbol"]): message}

    async def watch_ticker(self, symbol: str) -> Mapping[str, object]:
        return await self._next(symbol)

    async def close(self) -> None:
        self.closed = True


async def take(feed: ExchangeFeed, count: int) -> list[Tick]:
    ticks: list[Tick] = []
    batches = feed.batches()
    async for batch in batches:
        ticks += batch
        if len(ticks) >= count:
            break
    await batches.aclose()
    return ticks


def feed_of(exchange: Exchange) -> ExchangeFeed:
    return ExchangeFeed(exchange, ["BTC/USDT:USDT", "ETH/USD"], backoff=Backoff(0.001, 0.002))


@pytest.mark.parametrize("together", [True, False])
async def test_tickers_become_ticks(together: bool) -> None:
    exchange = Exchange(ticker("ETH/USD"), ticker("BTC/USDT:USDT", 9.5), together=together)
    feed = feed_of(exchange)
    ticks = sorted(await take(feed, 2), key=lambda tick: tick.symbol)
    assert ticks == [
        Tick("BTCUSDT", time=1705575045123, bid=9.5, ask=11.0, lp="KRAKEN"),
        Tick("ETHUSD", time=1705575045123, bid=10.0, ask=11.0, lp="KRAKEN"),
    ]
    assert feed.stats.ticks == 2
    assert exchange.waiting == 0
    assert not exchange.closed


async def test_tickers_without_a_quote_are_counted_and_a_missing_time_is_now() -> None:
    exchange = Exchange(
        ticker("ETH/USD", None), ticker("DOGE/USD"), ticker("ETH/USD", timestamp=None)
    )
    feed = feed_of(exchange)
    (tick,) = await take(feed, 1)
    assert tick.time > 1705575045123
    assert feed.stats.refused == {"no_quote": 1, "other_symbol": 1}


@pytest.mark.parametrize("together", [True, False])
async def test_a_lost_connection_is_outlived(together: bool) -> None:
    exchange = Exchange(ConnectionResetError("gone"), ticker("ETH/USD"), together=together)
    feed = feed_of(exchange)
    assert len(await take(feed, 1)) == 1
    assert feed.stats.reconnects == 1


async def test_another_error_ends_the_feed_with_its_cause() -> None:
    exchange = Exchange(ValueError("kraken does not have market symbol"), together=False)
    with pytest.raises(
        FeedError, match=r"refused the stream .*check the symbols BTC/USDT"
    ) as caught:
        await take(feed_of(exchange), 1)
    assert isinstance(caught.value.__cause__, ValueError)
    assert exchange.waiting == 0


async def test_a_cancelled_feed_leaves_nothing_running() -> None:
    exchange = Exchange(together=False)
    task = asyncio.create_task(take(feed_of(exchange), 1))
    await exchange.both_wait.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.waiting == 0


def test_symbols_that_would_share_a_name_are_refused() -> None:
    with pytest.raises(FeedError, match="symbols of the exchange that differ"):
        ExchangeFeed(Exchange(), ["BTC/USDT", "BTC/USDT:USDT"])
    with pytest.raises(FeedError, match="symbols of the exchange that differ"):
        ExchangeFeed(Exchange(), [])


async def test_an_exchange_without_quotes_is_refused() -> None:
    exchange = Exchange()
    exchange.has = {}
    with pytest.raises(FeedError, match="streams no quotes"):
        await take(feed_of(exchange), 1)


async def test_an_exchange_of_ccxt_is_made_by_its_id_and_closed_with_the_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = ExchangeFeed.connect("kraken", ["BTC/USD"])
    closed = asyncio.Event()

    async def watch(symbols: list[str]) -> dict[str, object]:
        return {symbol: ticker(symbol) for symbol in symbols}

    async def close() -> None:
        closed.set()

    monkeypatch.setattr(feed.exchange, "watch_bids_asks", watch)
    monkeypatch.setattr(feed.exchange, "close", close)
    (tick,) = await take(feed, 1)
    assert (tick.symbol, tick.lp) == ("BTCUSD", "KRAKEN")
    assert closed.is_set()


def test_an_unknown_exchange_names_the_known_ones() -> None:
    with pytest.raises(FeedError, match=r"no exchange 'nope'; it has .*kraken"):
        ExchangeFeed.connect("nope", ["BTC/USD"])


def test_without_ccxt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt.pro", None)
    with pytest.raises(MissingExtra, match=r"rtx-datalayer\[feeds\]"):
        ExchangeFeed.connect("kraken", ["BTC/USD"])
