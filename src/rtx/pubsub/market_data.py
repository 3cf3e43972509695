"""Market data: a tick is published and its price cached in one write; subscribers start there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rtx import codecs
from rtx.errors import BadTick, NotInCluster, ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Price, Tick, check_quote
from rtx.pubsub.base import Policy, Subscription
from rtx.pubsub.hub import Hub
from rtx.pubsub.market_inbox import MarketDataStats, MarketInbox
from rtx.settings import ChannelSettings
from rtx.wire import Caller, Reply

ALL = "*"
"""Subscribe to this instead of symbols to get every symbol."""

_CHUNK = 1_000  # ticks in one write, so that one feed cannot hold a connection for long
_NAMES_AT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Published:
    """What became of several ticks: how many were published, and how many refused, by reason."""

    count: int
    refused: dict[str, int]


class MarketData:
    """Channels `market_data:{symbol}`: the latest value counts, and every tick is published.

    One publish is one write: SET of the price, then PUBLISH of the tick. Where cache and pubsub
    are two servers, or a cluster, the prices are stored first, so that a new subscriber finds no
    hole. A tick whose node in a cluster is away is not waited with: the next one is worth more.
    """

    def __init__(
        self,
        cache: Caller,
        pubsub: Caller,
        hub: Hub,
        keys: Keys,
        price_ttl: float,
        settings: ChannelSettings,
        *,
        one_server: bool,
    ) -> None:
        self._cache = cache
        self._pubsub = pubsub
        self._hub = hub
        self._keys = keys
        self._settings = settings
        self._one_server = one_server
        self._suffix = _expiry(price_ttl)
        self._verb = b"$8\r\nSPUBLISH\r\n" if hub.sharded else b"$7\r\nPUBLISH\r\n"
        self._heads: dict[str, tuple[bytes, bytes]] = {}
        self._syncs: set[asyncio.Task[None]] = set()
        self.stats = MarketDataStats()

    async def close(self) -> None:
        """End the tasks that read snapshots."""
        for task in self._syncs:
            task.cancel()
        await asyncio.gather(*self._syncs, return_exceptions=True)

    # --- publishing ------------------------------------------------------------------------

    async def publish(self, tick: Tick) -> None:
        """Publish one tick and refresh its price.

        Raises `BadTick`, `Unavailable`, `ServerError`.
        """
        try:
            _check(tick)
        except BadTick as error:
            self.stats.refused[error.reason] += 1
            raise
        await self._send([tick])

    async def publish_many(self, ticks: Iterable[Tick]) -> Published:
        """Publish ticks in their order; of each symbol the last good one is stored as its price.

        A bad tick is refused and counted, and the others go on. Raises `Unavailable` and
        `ServerError`; ticks may then have been published in part.
        """
        good: list[Tick] = []
        refused: Counter[str] = Counter()
        for tick in ticks:
            try:
                _check(tick)
            except BadTick as error:
                refused[error.reason] += 1
            else:
                good.append(tick)
        self.stats.refused.update(refused)
        for start in range(0, len(good), _CHUNK):
            await self._send(good[start : start + _CHUNK])
        return Published(len(good), dict(refused))

    async def _send(self, ticks: Sequence[Tick]) -> None:
        prices = {tick.symbol: tick for tick in ticks}
        stores = [self._store_command(tick) for tick in prices.values()]
        publishes = [self._publish_command(tick) for tick in ticks]
        if self._one_server:
            replies = await self._cache.batch_packed([*stores, *publishes])
            stored, published = replies[: len(stores)], replies[len(stores) :]
        else:
            try:
                stored = await self._cache.batch_packed(stores, patient=False)
            except Unavailable:
                # The live ticks are worth more than the snapshot; the old price expires by itself.
                stored = []
                self.stats.prices_not_stored += len(stores)
            published = await self._pubsub.batch_packed(publishes, patient=False)
        self._count(stored, published)

    def _count(self, stored: list[Reply], published: list[Reply]) -> None:
        errors = [reply for reply in stored + published if isinstance(reply, ServerError)]
        if errors:
            failed = sum(1 for reply in stored if isinstance(reply, ServerError))
            self.stats.prices_not_stored += failed
            self.stats.published += len(published) - (len(errors) - failed)
            raise errors[0]
        self.stats.prices_stored += len(stored)
        self.stats.published += len(published)

    def _head(self, symbol: str) -> tuple[bytes, bytes]:
        """The unchanging start of SET and PUBLISH for a symbol, packed once."""
        head = self._heads.get(symbol)
        if head is None:
            if len(self._heads) >= _NAMES_AT_MOST:
                self._heads.clear()
            key = self._keys.price(symbol).encode()
            channel = self._keys.market_data(symbol).encode()
            head = self._heads[symbol] = (
                b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n" % (len(key), key),
                b"*3\r\n%b$%d\r\n%b\r\n" % (self._verb, len(channel), channel),
            )
        return head

    def _store_command(self, tick: Tick) -> bytes:
        value = codecs.encode_price(tick.symbol, tick.bid, tick.ask, tick.time)
        return b"%b$%d\r\n%b\r\n%b" % (self._head(tick.symbol)[0], len(value), value, self._suffix)

    def _publish_command(self, tick: Tick) -> bytes:
        message = codecs.encode(tick)
        return b"%b$%d\r\n%b\r\n" % (self._head(tick.symbol)[1], len(message), message)

    # --- subscribing -----------------------------------------------------------------------

    def subscribe(
        self,
        *symbols: str,
        policy: Policy = "every",
        snapshot: bool = True,
        queue_size: int | None = None,
    ) -> Subscription[Tick]:
        """Ticks of these symbols, or of all with `"*"`, from the cached price on.

        The cached price comes first, as a tick whose `lp` is empty, then every tick after it; with
        `"*"` there is no snapshot. `policy` says what a full queue of `queue_size` messages does:
        `every` drops the oldest and says how many, `latest` keeps the newest of each symbol,
        `disconnect` ends with `SubscriptionClosed`. Subscribing to all costs the server one pattern
        match for every message published to any channel. A cluster cannot do that: there it raises
        `NotInCluster`.
        """
        if not symbols:
            raise ValueError('name the symbols to subscribe to, or "*" for all')
        everything = ALL in symbols
        if everything and self._hub.sharded:
            raise NotInCluster(
                'a cluster has no subscription to all symbols ("*"): its channels are spread over '
                "the nodes, without patterns; name the symbols"
            )
        wanted = () if everything or not snapshot else tuple(dict.fromkeys(symbols))
        # An exact "*" is the only pattern; the other characters of a glob are taken as they are.
        channels = {
            self._keys.market_data(symbol): symbol for symbol in ((ALL,) if everything else symbols)
        }
        inbox = MarketInbox(
            channel=self._keys.market_data(symbols[0] if len(symbols) == 1 else ALL),
            channels=channels,
            symbols=wanted,
            policy=policy,
            queue_size=queue_size or self._settings.queue_size,
            stats=self.stats,
            release=self._hub.remove,
            read_snapshot=self._start_sync,
        )
        self._hub.add(inbox, channels, codecs.decode_tick, pattern=everything)
        return Subscription(inbox)

    def _start_sync(self, inbox: MarketInbox) -> None:
        task = asyncio.create_task(self._sync(inbox, inbox.generation), name="rtx-snapshot")
        self._syncs.add(task)
        task.add_done_callback(self._syncs.discard)

    async def _sync(self, inbox: MarketInbox, generation: int) -> None:
        prices: list[Price] = []
        try:
            keys = map(self._keys.price, inbox.unsynced)
            raws = await self._cache.execute("MGET", *keys, idempotent=True)
            assert isinstance(raws, list)
            for raw in raws:
                if isinstance(raw, bytes):
                    try:
                        prices.append(codecs.decode_price(raw))
                    except codecs.DecodeError:
                        continue
        except (Unavailable, ServerError):
            pass  # no snapshot to be had: the live ticks go on without it
        if inbox.generation == generation and not inbox.ended:
            inbox.go_live(prices)


def _check(tick: Tick) -> None:
    check_quote(tick.symbol, tick.bid, tick.ask)
    codecs.check_time(tick.symbol, tick.time)


def _expiry(seconds: float) -> bytes:
    """`PX milliseconds`, as the end of a packed SET."""
    text = b"%d" % max(1, round(seconds * 1000))
    return b"$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(text), text)
