"""The caches of things that know their own id: prices and symbol specs."""

from __future__ import annotations

from collections.abc import Iterable

from rtx import codecs
from rtx.cache.base import Cache, Loader
from rtx.keys import Keys
from rtx.models import Price, SymbolSpec, check_quote
from rtx.wire import Caller


class SymbolCache(Cache[str, SymbolSpec]):
    """Symbol specs, `symbol:{symbol}`, one hour, read through from the database."""

    def __init__(
        self, pool: Caller, keys: Keys, ttl: float, load: Loader[str, SymbolSpec] | None = None
    ) -> None:
        super().__init__(pool, keys.symbol, ttl, codecs.encode, codecs.decode_symbol, load)

    async def put(self, spec: SymbolSpec) -> None:
        """Store a spec. Raises `Unavailable`, `ServerError`."""
        await self._put({spec.symbol: spec})

    async def put_many(self, specs: Iterable[SymbolSpec]) -> None:
        """Store specs in one write. Raises as `put`."""
        await self._put({spec.symbol: spec for spec in specs})


class PriceCache(Cache[str, Price]):
    """Latest prices, `price:{symbol}`, one second; a price that is not there is not fresh.

    There is no loader: an old price is no price, so `get` raises `Unavailable` while Redis is away.
    """

    def __init__(self, pool: Caller, keys: Keys, ttl: float) -> None:
        super().__init__(pool, keys.price, ttl, _encode_price, codecs.decode_price)

    async def put(self, price: Price) -> None:
        """Store a price. Raises `BadTick`, `Unavailable`, `ServerError`."""
        _check(price)
        await self._put({price.symbol: price})

    async def put_many(self, prices: Iterable[Price]) -> None:
        """Store prices in one write, the last of each symbol. Raises as `put`."""
        latest = {price.symbol: price for price in prices}
        for price in latest.values():
            _check(price)
        await self._put(latest)


def _check(price: Price) -> None:
    check_quote(price.symbol, price.bid, price.ask)
    codecs.check_time(price.symbol, price.time)


def _encode_price(price: Price) -> bytes:
    return codecs.encode_price(price.symbol, price.bid, price.ask, price.time)
