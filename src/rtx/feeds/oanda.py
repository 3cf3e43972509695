"""OANDA's v20 pricing stream: one JSON object a line, prices and heartbeats."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import msgspec
from pydantic import SecretStr

from rtx.errors import FeedError, MissingExtra
from rtx.feeds.backoff import Backoff
from rtx.feeds.base import FeedStats, Sleep, plain_symbol
from rtx.feeds.times import iso_ms
from rtx.models import Tick

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

PRACTICE = "https://stream-fxpractice.oanda.com"
LIVE = "https://stream-fxtrade.oanda.com"
BATCH = 500
LINE_LIMIT = 2**20
"""Bytes without a line end after which the peer is not speaking the stream's format."""


class _Bucket(msgspec.Struct):
    price: float


class _Message(msgspec.Struct):
    type: str = ""
    instrument: str = ""
    time: str = ""
    bids: tuple[_Bucket, ...] = ()
    asks: tuple[_Bucket, ...] = ()
    tradeable: bool = True


class _ErrorBody(msgspec.Struct):
    errorMessage: str = ""


class OandaFeed:
    """Live prices of an OANDA account.

    `symbols` are `EURUSD` or OANDA's own `EUR_USD`; ticks carry the plain form. OANDA sends
    a heartbeat every 5 s: after `silence` seconds without a word the connection is given up and
    opened anew, with growing waits, and counted in `stats.reconnects`. `url` is `PRACTICE`, `LIVE`
    or a server on this machine. Prices that are not tradeable, or lack a bid or an ask, are
    counted and not passed on. Raises `FeedError` when OANDA refuses the token, the account or
    a symbol, and `MissingExtra` without httpx.
    """

    name = "oanda"

    def __init__(
        self,
        token: SecretStr,
        account: str,
        symbols: Sequence[str],
        *,
        url: str = PRACTICE,
        lp: str = "OANDA",
        silence: float = 15.0,
        backoff: Backoff | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        secret = token.get_secret_value().strip()
        if not (secret.isascii() and secret.isprintable() and secret):
            raise FeedError("the OANDA token is empty or has odd characters; copy it anew")
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise FeedError("the OANDA token would travel unencrypted; use an https:// URL")
        if not account or not symbols:
            raise FeedError("OANDA needs an account id and at least one symbol")
        self.stats = FeedStats()
        self.account = account
        self.lp = lp
        self._names = {_oanda_name(symbol): plain_symbol(symbol) for symbol in symbols}
        self._url = f"{url.rstrip('/')}/v3/accounts/{quote(account, safe='')}/pricing/stream"
        self._token = SecretStr(secret)
        self._silence = silence
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        # OANDA writes prices as JSON strings, which only a lax decoder takes for numbers.
        self._decoder = msgspec.json.Decoder(_Message, strict=False)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the ticks."""
        return tuple(self._names.values())

    async def batches(self) -> AsyncIterator[Sequence[Tick]]:
        """Yield what each read of the stream brings, at most 500 ticks, without end."""
        try:
            import httpx
        except ImportError:
            raise MissingExtra("feeds", "httpx") from None
        timeout = httpx.Timeout(10.0, read=self._silence)
        async with httpx.AsyncClient(timeout=timeout) as client:
            while True:
                try:
                    async with aclosing(self._connection(client)) as batches:
                        async for batch in batches:
                            self._backoff.reset()
                            if batch:
                                self.stats.ticks += len(batch)
                                yield batch
                    cause = "the server ended the stream"
                except httpx.TransportError as error:
                    cause = f"{type(error).__name__} {error}".strip()
                except _TryLaterError as error:
                    cause = str(error)
                self.stats.reconnects += 1
                wait = self._backoff.next()
                log.warning("OANDA stream lost (%s); trying again in %.1f s", cause, wait)
                await self._sleep(wait)

    async def _connection(self, client: httpx.AsyncClient) -> AsyncGenerator[list[Tick], None]:
        """One connection: a list a read, empty when it brought heartbeats only."""
        headers = {
            "Authorization": f"Bearer {self._token.get_secret_value()}",
            "Accept-Datetime-Format": "RFC3339",
        }
        params = {"instruments": ",".join(self._names)}
        async with client.stream("GET", self._url, params=params, headers=headers) as response:
            if response.status_code != 200:
                raise self._refusal(response.status_code, await _error_text(response))
            rest = b""
            async for data in response.aiter_bytes():
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_LIMIT:
                    raise _TryLaterError(f"over {LINE_LIMIT} bytes without a line end")
                ticks = [tick for line in lines if (tick := self._tick(line)) is not None]
                for start in range(0, max(len(ticks), 1), BATCH):
                    yield ticks[start : start + BATCH]

    def _tick(self, line: bytes) -> Tick | None:
        if not line.strip():
            return None
        try:
            message = self._decoder.decode(line)
            if message.type == "HEARTBEAT":
                return None
            if message.type != "PRICE":
                raise ValueError(f"unknown type {message.type!r}")
            symbol = self._names[message.instrument]
            time = iso_ms(message.time)
        except (msgspec.MsgspecError, ValueError, KeyError, RecursionError):
            self.stats.malformed("stream", line.decode("utf-8", "replace"))
            return None
        if not message.tradeable:
            self.stats.refuse("not_tradeable")
            return None
        if not (message.bids and message.asks):
            self.stats.refuse("no_quote")
            return None
        bid = max(bucket.price for bucket in message.bids)
        ask = min(bucket.price for bucket in message.asks)
        return Tick(symbol, time=time, bid=bid, ask=ask, lp=self.lp)

    def _refusal(self, status: int, said: str) -> Exception:
        if status in (408, 429) or status >= 500:
            return _TryLaterError(f"HTTP {status} {said}".strip())
        remedies = {
            400: f"check the symbols ({', '.join(self._names)})",
            401: "make a new token on OANDA's site; practice and live accounts have tokens and "
            "URLs of their own",
            403: f"the token may not read account {self.account}; use the account's own token",
            404: f"there is no account {self.account} here; check its id and the URL",
        }
        remedy = remedies.get(status, "check the URL")
        return FeedError(f"OANDA refused the stream: HTTP {status} {said}".strip() + f"; {remedy}")


class _TryLaterError(Exception):
    """The server is there and cannot serve now."""


async def _error_text(response: httpx.Response) -> str:
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) > 4096:  # an error page of a proxy, of which no more is worth reading
            break
    try:
        return msgspec.json.decode(body, type=_ErrorBody).errorMessage
    except msgspec.MsgspecError:
        return ""


def _oanda_name(symbol: str) -> str:
    if "_" in symbol:
        return symbol.upper()
    plain = plain_symbol(symbol)
    if len(plain) != 6:
        raise FeedError(f"{symbol!r} is not a pair such as EURUSD; write it as OANDA does: EUR_USD")
    return f"{plain[:3]}_{plain[3:]}"
