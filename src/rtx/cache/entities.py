"""The caches of things that know their own id: prices and symbol specs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager

from rtx import codecs
from rtx.cache.base import Cache
from rtx.cache.breaker import Breaker
from rtx.cache.contract import Edit
from rtx.cache.decoding import remembering
from rtx.cache.loading import Loader
from rtx.cache.near import NearCache
from rtx.cache.remote import Call, run_all
from rtx.keys import Keys
from rtx.models import Price, SymbolSpec, check_quote
from rtx.setting_groups import CacheSettings
from rtx.wire import Caller, Reply, Script


class SymbolCache(Cache[str, SymbolSpec]):
    """Symbol specs, `symbol:{symbol}`, one hour, read through from the database.

    Shortly before one expires a reader has it loaded anew, while the others keep it.
    """

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        load: Loader[str, SymbolSpec] | None = None,
        save: Callable[[Iterable[SymbolSpec]], Awaitable[None]] | None = None,
        *,
        settings: CacheSettings | None = None,
        breaker: Breaker | None = None,
        near: NearCache | None = None,
        reader: Caller | None = None,
    ) -> None:
        super().__init__(
            pool,
            keys.symbol,
            ttl,
            codecs.encode,
            codecs.decode_symbol,
            load,
            settings=settings,
            breaker=breaker,
            near=near,
            reader=reader,
            remember=remembering,
            early=True,
            keeps=settings is not None and "symbols" in settings.stale_if_error,
        )
        self._save = save

    async def put(self, spec: SymbolSpec) -> None:
        """Store a spec. Raises `Unavailable`, `ServerError`."""
        await self._put([(spec.symbol, spec, 0)])

    async def put_many(self, specs: Iterable[SymbolSpec]) -> None:
        """Store specs in one write. Raises as `put`."""
        await self._put([(spec.symbol, spec, 0) for spec in specs])

    def update(self, symbol: str) -> AbstractAsyncContextManager[Edit[SymbolSpec]]:
        """Change a spec in the database, then drop it from the cache.

            async with layer.symbols.update("EURUSD") as edit:
                edit.value = msgspec.structs.replace(edit.value, margin_rate=0.02)

        Of two who edit a spec at the same time the later wins. Without a database it is changed in
        Redis alone, or `Conflict` is raised. Raises `NotFound`, `DatabaseUnavailable`, and
        `SettingsError` for a database that cannot save specs.
        """
        save = self._save
        if save is None:
            return self._editing(symbol, None)
        return self._editing(symbol, lambda spec: save([spec]))


class PriceCache(Cache[str, Price]):
    """Latest prices, `price:{symbol}`, one second; a price that is not there is not fresh.

    A price never takes the place of one of a later tick, whoever stores it; one that `get_or_load`
    has loaded takes the place of none. There is no loader: an old price is no price, so `get`
    raises `Unavailable` while Redis is away.
    """

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        *,
        settings: CacheSettings | None = None,
        breaker: Breaker | None = None,
        near: NearCache | None = None,
        reader: Caller | None = None,
    ) -> None:
        super().__init__(
            pool,
            keys.price,
            ttl,
            _encode_price,
            codecs.decode_price,
            settings=settings,
            breaker=breaker,
            near=near,
            reader=reader,
            filled=False,
            remember=remembering,
        )
        self._script = Script.load("rtx", "price")

    async def put(self, price: Price) -> None:
        """Store a price, unless a later one is there, which is counted as `late`.

        Raises `BadTick`, `Unavailable`, `ServerError`.
        """
        await self._put([(price.symbol, price, 0)])

    async def put_many(self, prices: Iterable[Price]) -> None:
        """Store prices in one write, the latest of each symbol. Raises as `put`."""
        latest: dict[str, Price] = {}
        for price in prices:
            before = latest.get(price.symbol)
            if before is None or before.time <= price.time:
                latest[price.symbol] = price
            else:
                self.stats.late += 1
        await self._put([(price.symbol, price, 0) for price in latest.values()])

    def update(self, symbol: str) -> AbstractAsyncContextManager[Edit[Price]]:
        """Change a price that is there, in Redis; see `SymbolCache.update`. Raises `Conflict`."""
        return self._editing(symbol, None)

    async def _write(self, items: list[tuple[str, bytes, int]]) -> list[Reply]:
        ttl_ms = self._remote.ttl_ms
        calls: list[Call] = [(self._script, (key,), (ttl_ms(key), raw)) for key, raw, _ in items]
        replies = await run_all(self._pool, calls)
        return [reply[0] if isinstance(reply, list) else reply for reply in replies]

    def _count_stored(self, replies: list[Reply]) -> None:
        late = replies.count(0)
        self.stats.late += late
        self.stats.puts += len(replies) - late


def _encode_price(price: Price) -> bytes:
    check_quote(price.symbol, price.bid, price.ask)
    codecs.check_time(price.symbol, price.time)
    return codecs.encode_price(price.symbol, price.bid, price.ask, price.time)
