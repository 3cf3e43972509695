"""The latest price of each symbol, in this process: a look at it is one call, and no round trip.

Guarantees, for the symbols that it follows:

- a price is there for its time to live after it came in, by this process's monotonic clock, and
  not after that; a cached price has what was left of its time on the server;
- a price never gives way to an older one, by the time of the event, while its time lasts: late
  ticks are counted and dropped;
- after a break every price that came before it is not fresh, until the next tick or the cached
  price has come;
- an outage is sat out: prices run out, and come again with the server.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from rtx import codecs
from rtx.errors import RtxError, ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Price, Tick
from rtx.pubsub import Gap, MarketData, Subscription
from rtx.wire import Backoff, Caller

ALL = "*"
"""Follow this instead of symbols to follow every symbol."""

_SYMBOLS_AT_MOST = 100_000  # of `*`, so that made-up symbols cannot fill the memory
_CHUNK = 500

_Entry = tuple[Tick | Price, float, float]
"""The price; until when it is fresh; until when no older one takes its place."""


@dataclass(slots=True)
class BoardStats:
    """Counters since the layer was opened."""

    ticks: int = 0
    late: int = 0
    cached: int = 0
    gaps: int = 0
    restarts: int = 0


class PriceBoard:
    """Follows symbols from the moment `follow` names them, until it is closed.

    `market_data` brings the ticks; `cache` is asked for the prices that there are at the beginning
    and after a break; `ttl` is the time to live of a price in seconds.
    """

    def __init__(self, market_data: MarketData, cache: Caller, keys: Keys, ttl: float) -> None:
        self._market_data = market_data
        self._cache = cache
        self._keys = keys
        self._ttl = ttl
        self._latest: dict[str, _Entry] = {}
        self._groups: list[_Group] = []
        self._followed: set[str] = set()
        self._closed = False
        self.stats = BoardStats()

    def follow(self, *symbols: str) -> None:
        """Follow these symbols too, or all with `"*"`; those followed already are passed over.

        Each call costs a subscription, so name several at once. With `"*"` there are no cached
        prices at the beginning. Raises `NotInCluster` for `"*"` in a cluster, `Unavailable` when
        the layer is closed.
        """
        if self._closed:
            raise Unavailable("the data layer is closed; open it before you follow prices")
        wanted = [name for name in dict.fromkeys(symbols) if name not in self._followed]
        for several in ([ALL] if ALL in wanted else [], [n for n in wanted if n != ALL]):
            if several:
                self._groups.append(_Group(self, tuple(several)))
                self._followed.update(several)

    async def ready(self) -> None:
        """Return when every symbol followed is subscribed, and its cached price was looked for.

        Waits while the server is away. Raises what the server refuses a subscription with; it is
        asked for again all the same.
        """
        for group in list(self._groups):
            await group.settled.wait()
            if group.error is not None:
                raise group.error

    def get(self, symbol: str) -> Price | None:
        """The latest price, or None when there is none that is fresh; takes some 0.4 µs."""
        entry = self._latest.get(symbol)
        if entry is None or monotonic() >= entry[1]:
            return None
        found = entry[0]
        if type(found) is Price:
            return found
        return Price(found.symbol, found.bid, found.ask, found.time)

    def get_many(self, symbols: Iterable[str]) -> dict[str, Price]:
        """Those that are fresh, in the order asked."""
        found = ((symbol, self.get(symbol)) for symbol in symbols)
        return {symbol: price for symbol, price in found if price is not None}

    async def close(self) -> None:
        """Follow nothing any more."""
        self._closed = True
        await asyncio.gather(*(group.close() for group in self._groups))

    # --- what comes in ---------------------------------------------------------------------

    def _take(self, items: Iterable[Tick | Gap], broken: Callable[[], None]) -> None:
        """Put up ticks in the order in which they came; `broken` is told of a break in between."""
        now = monotonic()
        until = now + self._ttl
        latest = self._latest
        count = 0
        for item in items:
            if isinstance(item, Gap):
                broken()
                continue
            count += 1
            symbol = item.symbol
            known = latest.get(symbol)
            if known is None:
                self._make_room(now)
            elif item.time < known[0].time and now < known[2]:
                self.stats.late += 1
                continue
            latest[symbol] = (item, until, until)
        self.stats.ticks += count

    def _take_cached(self, price: Price, asked: float, left: float) -> None:
        """Put up a price that had `left` seconds to live, or more, when the cache was asked."""
        known = self._latest.get(price.symbol)
        until = asked + min(left, self._ttl)
        if known is None:
            self._make_room(asked)
        elif asked < known[2]:
            if price.time < known[0].time:
                return
            if price.time == known[0].time and asked < known[1]:
                return  # the tick that it was stored with is there
        self._latest[price.symbol] = (price, until, until)
        self.stats.cached += 1

    def _break(self, symbols: Sequence[str]) -> None:
        """What is there of these is not fresh any more."""
        self.stats.gaps += 1
        for symbol in [*self._latest] if symbols == (ALL,) else symbols:
            entry = self._latest.get(symbol)
            if entry is not None:
                self._latest[symbol] = (entry[0], -math.inf, entry[2])

    def _make_room(self, now: float) -> None:
        if len(self._latest) >= _SYMBOLS_AT_MOST:
            self._latest = {name: entry for name, entry in self._latest.items() if now < entry[1]}
            if len(self._latest) >= _SYMBOLS_AT_MOST:
                del self._latest[next(iter(self._latest))]

    async def _read_cached(self, symbols: Sequence[str]) -> None:
        for start in range(0, len(symbols), _CHUNK):
            keys = [*map(self._keys.price, symbols[start : start + _CHUNK])]
            asked = monotonic()
            replies = await self._cache.batch([(name, key) for key in keys for name in _READ])
            for raw, left in zip(replies[::2], replies[1::2], strict=True):
                if isinstance(raw, bytes) and isinstance(left, int) and left != _GONE:
                    try:
                        price = codecs.decode_price(raw)
                    except codecs.DecodeError:
                        continue
                    self._take_cached(price, asked, math.inf if left == _NO_TTL else left / 1000)


_READ = ("GET", "PTTL")
_NO_TTL, _GONE = -1, -2


class _Group:
    """Symbols that were followed together: their subscription, and the task that reads it."""

    def __init__(self, board: PriceBoard, symbols: tuple[str, ...]) -> None:
        self.settled = asyncio.Event()
        self.error: RtxError | None = None
        self._board = board
        self._symbols = symbols
        self._sync: asyncio.Task[None] | None = None
        subscription = self._subscribe()
        self._task = asyncio.create_task(self._run(subscription), name="rtx-board")

    async def close(self) -> None:
        tasks = [task for task in (self._task, self._sync) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _subscribe(self) -> Subscription[Tick]:
        # Without the snapshot of the subscription, which does not say how old its prices are.
        return self._board._market_data.subscribe(*self._symbols, policy="latest", snapshot=False)

    async def _run(self, subscription: Subscription[Tick]) -> None:
        backoff = Backoff()
        while True:
            try:
                async with subscription:
                    await subscription.ready()
                    backoff.reset()
                    self._read_cached()
                    async for items in subscription.batches():
                        self._board._take(items, self._on_break)
            except RtxError as error:
                self.error = error
                self.settled.set()
            # Refused, or ended by somebody: prices may be missed until it stands again.
            self._board._break(self._symbols)
            self._board.stats.restarts += 1
            while True:
                await backoff.rest()
                try:
                    subscription = self._subscribe()
                    break
                except RtxError as error:
                    self.error = error

    def _on_break(self) -> None:
        self._board._break(self._symbols)
        self._read_cached()

    def _read_cached(self) -> None:
        """Ask for the cached prices, beside the ticks, which need not wait for them."""
        if self._sync is not None:
            self._sync.cancel()  # what it reads may be from before the break
        self._sync = asyncio.create_task(self._read(), name="rtx-board-prices")

    async def _read(self) -> None:
        try:
            if self._symbols != (ALL,):
                await self._board._read_cached(self._symbols)
        except (Unavailable, ServerError):
            pass  # none to be had: the ticks go on without them
        self.error = None
        self.settled.set()
