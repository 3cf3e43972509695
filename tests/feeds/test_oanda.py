"""The OANDA feed against a local server that speaks the documented stream format."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from rtx.errors import FeedError, MissingExtra
from rtx.feeds import OandaFeed
from rtx.feeds.backoff import Backoff
from rtx.feeds.times import iso_ms
from rtx.models import Tick

Handler = Callable[["Stream"], Awaitable[None]]
TOKEN = SecretStr("good-token")
SOON = Backoff(0.001, 0.002)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Stream:
    """One request on the local server: its head, and chunks to answer with."""

    def __init__(self, head: str, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self._writer = writer

    async def start(self, status: str = "200 OK") -> None:
        self._writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        await self._writer.drain()

    async def send(self, *objects: object) -> None:
        await self.raw("".join(json.dumps(item) + "\n" for item in objects).encode())

    async def raw(self, data: bytes) -> None:
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


@asynccontextmanager
async def oanda(*handlers: Handler) -> AsyncIterator[tuple[str, list[Stream]]]:
    """A server whose n-th request goes to the n-th handler; gives its URL and the requests."""
    requests: list[Stream] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                stream = Stream(head, writer)
                requests.append(stream)
                if "Bearer good-token" not in head:
                    await stream.start("401 Unauthorized")
                    await stream.send({"errorMessage": "Insufficient authorization."})
                    await stream.end()
                else:
                    await handlers[min(len(requests), len(handlers)) - 1](stream)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", requests
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def price(instrument: str = "EUR_USD", bid: str = "1.09500", **other: object) -> dict[str, object]:
    return {
        "type": "PRICE",
        "time": "2026-01-18T10:30:45.123456789Z",
        "bids": [{"price": bid, "liquidity": 1000000}, {"price": "1.09490", "liquidity": 5000000}],
        "asks": [{"price": "1.09508", "liquidity": 1000000}],
        "closeoutBid": "1.09480",
        "closeoutAsk": "1.09520",
        "status": "tradeable",
        "tradeable": True,
        "instrument": instrument,
    } | other


HEARTBEAT = {"type": "HEARTBEAT", "time": "2026-01-18T10:30:50.000000000Z"}


async def take(feed: OandaFeed, count: int) -> list[Tick]:
    ticks: list[Tick] = []
    batches = feed.batches()
    async for batch in batches:
        ticks += batch
        if len(ticks) >= count:
            break
    await batches.aclose()
    return ticks


async def stay_open(_: Stream) -> None:
    await asyncio.Event().wait()


async def test_prices_become_ticks_and_heartbeats_do_not() -> None:
    async def handler(stream: Stream) -> None:
        await stream.start()
        await stream.send(price(), HEARTBEAT, price("XAU_USD"))
        await stay_open(stream)

    async with oanda(handler) as (url, requests):
        feed = OandaFeed(TOKEN, "101-004-1-001", ["EURUSD", "XAU_USD"], url=url)
        ticks = await take(feed, 2)
    time = iso_ms("2026-01-18T10:30:45.123Z")
    assert ticks == [
        Tick("EURUSD", time=time, bid=1.095, ask=1.09508, lp="OANDA"),
        Tick("XAUUSD", time=time, bid=1.095, ask=1.09508, lp="OANDA"),
    ]
    assert feed.stats.ticks == 2
    assert feed.stats.refused == {}
    line = requests[0].head.splitlines()[0]
    path = "/v3/accounts/101-004-1-001/pricing/stream"
    assert line == f"GET {path}?instruments=EUR_USD%2CXAU_USD HTTP/1.1"


async def test_an_object_split_over_reads_is_put_together() -> None:
    async def handler(stream: Stream) -> None:
        await stream.start()
        data = (json.dumps(price()) + "\n").encode()
        for index in range(0, len(data), 7):
            await stream.raw(data[index : index + 7])
            await asyncio.sleep(0)
        await stay_open(stream)

    async with oanda(handler) as (url, _):
        assert len(await take(OandaFeed(TOKEN, "1", ["EURUSD"], url=url), 1)) == 1


async def test_what_is_no_quote_is_counted_by_reason() -> None:
    async def handler(stream: Stream) -> None:
        await stream.start()
        await stream.raw(b"not json\n")
        await stream.send(
            price(tradeable=False),
            price(bids=[]),
            price("GBP_USD"),
            price(bid="x"),
            price(time="yesterday"),
            {"type": "OTHER"},
            price(),
        )
        await stay_open(stream)

    async with oanda(handler) as (url, _):
        feed = OandaFeed(TOKEN, "1", ["EURUSD"], url=url)
        assert len(await take(feed, 1)) == 1
    assert feed.stats.refused == {"malformed": 5, "not_tradeable": 1, "no_quote": 1}
    assert feed.stats.first_malformed == "stream: 'not json'"


async def test_a_stream_that_falls_silent_is_opened_anew() -> None:
    async def silent(stream: Stream) -> None:
        await stream.start()
        await stream.send(price())
        await stay_open(stream)

    async def talking(stream: Stream) -> None:
        await stream.start()
        await stream.send(price(bid="1.09501"))
        await stay_open(stream)

    async with oanda(silent, talking) as (url, _):
        feed = OandaFeed(TOKEN, "1", ["EURUSD"], url=url, silence=0.2, backoff=SOON)
        ticks = await take(feed, 2)
    assert [tick.bid for tick in ticks] == [1.095, 1.09501]
    assert feed.stats.reconnects == 1


async def test_heartbeats_alone_keep_the_connection() -> None:
    async def handler(stream: Stream) -> None:
        await stream.start()
        for _ in range(8):
            await stream.send(HEARTBEAT)
            await asyncio.sleep(0.1)  # the format's own beat, faster than the silence allowed
        await stream.send(price())
        await stay_open(stream)

    async with oanda(handler) as (url, requests):
        feed = OandaFeed(TOKEN, "1", ["EURUSD"], url=url, silence=0.5)
        await take(feed, 1)
    assert len(requests) == 1
    assert feed.stats.reconnects == 0


async def test_a_lost_stream_and_a_busy_server_are_outlived_with_growing_waits() -> None:
    async def busy(stream: Stream) -> None:
        await stream.start("503 Service Unavailable")
        await stream.end()

    async def short(stream: Stream) -> None:
        await stream.start()
        await stream.send(price())
        await stream.end()

    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with oanda(busy, busy, busy, short, short) as (url, _):
        feed = OandaFeed(TOKEN, "1", ["EURUSD"], url=url, backoff=Backoff(1, 3), sleep=sleep)
        assert len(await take(feed, 2)) == 2
    assert feed.stats.reconnects == 4
    for wait, longest in zip(waits, [1, 2, 3, 1], strict=True):  # the tick sets the wait back
        assert longest / 2 <= wait <= longest


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("400 Bad Request", r"check the symbols \(EUR_USD\)"),
        ("403 Forbidden", "may not read account 7"),
        ("404 Not Found", "there is no account 7 here"),
    ],
)
async def test_a_refusal_names_the_remedy(status: str, words: str) -> None:
    async def handler(stream: Stream) -> None:
        await stream.start(status)
        await stream.send({"errorMessage": "Invalid value."})
        await stream.end()

    async with oanda(handler) as (url, _):
        with pytest.raises(FeedError, match=f"HTTP {status[:3]} Invalid value.; .*{words}"):
            await take(OandaFeed(TOKEN, "7", ["EURUSD"], url=url), 1)


async def test_a_refused_token_names_the_remedy_and_stays_secret() -> None:
    async with oanda(stay_open) as (url, requests):
        feed = OandaFeed(SecretStr("bad-token"), "7", ["EURUSD"], url=url)
        with pytest.raises(FeedError, match=r"HTTP 401 Insufficient authorization\.; make a new"):
            await take(feed, 1)
    assert len(requests) == 1
    assert "bad-token" not in repr(vars(feed))


@pytest.mark.parametrize(
    ("token", "account", "symbols", "url", "words"),
    [
        (" \n", "1", ["EURUSD"], "https://example.org", "token is empty"),
        ("t", "1", ["EURUSD"], "http://example.org", "would travel unencrypted"),
        ("t", "", ["EURUSD"], "https://example.org", "needs an account id"),
        ("t", "1", [], "https://example.org", "at least one symbol"),
        ("t", "1", ["SPX500USD"], "https://example.org", "write it as OANDA does: EUR_USD"),
    ],
)
def test_impossible_options_name_the_remedy(
    token: str, account: str, symbols: list[str], url: str, words: str
) -> None:
    with pytest.raises(FeedError, match=words):
        OandaFeed(SecretStr(token), account, symbols, url=url)


async def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"rtx-datalayer\[feeds\]"):
        await take(OandaFeed(TOKEN, "1", ["EURUSD"]), 1)
