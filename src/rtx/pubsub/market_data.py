"""Market data: a tick is published and its price cached in one write; subscribers start there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from rtx import codecs
from rtx.errors import NotInCluster, ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Price, Tick
from rtx.pubsub.backlog import DropPolicy
from rtx.pubsub.base import Policy, Subscription
from rtx.pubsub.guard import TickGuard
from rtx.pubsub.hub import Hub
from rtx.pubsub.listener import Handler, Listener, Listeners
from rtx.pubsub.market_inbox import MarketDataStats, MarketInbox
from rtx.pubsub.tick_publisher import PublisherStats, TickPublisher
from rtx.pubsub.tick_writer import TickWriter
from rtx.setting_groups import ChannelSettings, MarketDataSettings
from rtx.timing import Lag
from rtx.wire import Caller

ALL = "*"
"""Subscribe to this instead of symbols to get every symbol."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of several ticks: how many were published, and how many refused, by reason."""

    count: int
    refused: dict[str, int]


class MarketData:
    """Channels `market_data:{symbol}`: the latest value counts, and every tick is published.

    One publish is one write: the price is stored, unless one of a later tick is there, and then the
    tick published. Where cache and pubsub are two servers, or a cluster, the prices are stored
    first, so that a new subscriber finds no hole. A tick whose node in a cluster is away is not
    waited with: the next one is worth more.
    """

    def __init__(
        self,
        cache: Caller,
        pubsub: Caller,
        hub: Hub,
        keys: Keys,
        price_ttl: float,
        settings: ChannelSettings,
        ticks: MarketDataSettings,
        *,
        one_server: bool,
        clustered: bool,
    ) -> None:
        self.stats = MarketDataStats()
        self.lag = Lag("time")
        self._ticks = ticks
        self._guard = TickGuard(ticks, self.stats.refused)
        self._clustered = clustered
        self._publishers: set[TickPublisher] = set()
        self._past = PublisherStats()  # of publishers that are closed
        self._cache = cache
        self._hub = hub
        self._keys = keys
        self._settings = settings
        self._writer = TickWriter(
            cache,
            pubsub,
            keys,
            price_ttl,
            self.stats,
            one_server=one_server,
            sharded=hub.sharded,
        )
        self._syncs: set[asyncio.Task[None]] = set()
        self._listeners: Listeners[Tick] = Listeners(self.stats)

    async def close(self) -> None:
        """Close publishers, end the tasks that read snapshots, and let writes under way end."""
        closing = [publisher.close() for publisher in [*self._publishers]]
        await asyncio.gather(*closing, return_exceptions=True)
        await self._writer.close()
        await self._listeners.close()
        for task in self._syncs:
            task.cancel()
        await asyncio.gather(*self._syncs, return_exceptions=True)

    # --- publishing ------------------------------------------------------------------------

    async def publish(self, tick: Tick) -> None:
        """Publish one tick and refresh its price.

        Raises `BadTick`, `Unavailable`, `ServerError`.
        """
        bad = self._guard.refusal(tick)
        if bad is not None:
            raise bad
        await self._writer.write(tick)

    async def publish_many(self, ticks: Iterable[Tick]) -> Published:
        """Publish ticks in their order; of each symbol the latest good one is stored as its price.

        A bad tick is refused and counted, and the others go on. Raises `Unavailable` and
        `ServerError`; ticks may then have been published in part.
        """
        good, refused = self._guard.passed(ticks)
        await self._writer.write_many(good)
        return Published(len(good), refused)

    def publisher(
        self,
        *,
        policy: DropPolicy = "conflate",
        queue_size: int | None = None,
        close_timeout: float | None = None,
    ) -> TickPublisher:
        """A publisher for a feed: `async with layer.market_data.publisher() as out: …`.

        Its queue holds `queue_size` ticks; `policy` says what `offer` does when it is full.
        `close_timeout` in seconds is for what is still queued when the block ends. What is left out
        is as in `[market_data]`.
        """
        publisher = TickPublisher(
            self._writer,
            self._guard,
            policy=policy,
            queue_size=self._ticks.queue_size if queue_size is None else queue_size,
            close_timeout=self._ticks.close_timeout if close_timeout is None else close_timeout,
            by_symbol=self._clustered,
            release=self._forget,
        )
        self._publishers.add(publisher)
        return publisher

    def _forget(self, publisher: TickPublisher) -> None:
        self._publishers.discard(publisher)
        self._past.add(publisher.stats)

    @property
    def publisher_stats(self) -> PublisherStats:
        """Counters of all publishers since the layer was opened."""
        total = PublisherStats()
        for stats in (self._past, *(publisher.stats for publisher in self._publishers)):
            total.add(stats)
        return total

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
        self._hub.add(
            inbox,
            channels,
            codecs.decode_tick,
            decode_many=codecs.decode_ticks,
            lag=self.lag,
            pattern=everything,
        )
        return Subscription(inbox)

    def listen(
        self,
        handler: Handler[Tick],
        *symbols: str,
        policy: Policy = "every",
        snapshot: bool = True,
        queue_size: int | None = None,
        end_on_error: bool = False,
    ) -> Listener[Tick]:
        """Call `handler` with each `Tick` and `Gap` of a subscription, in a task of this layer.

        `handler` is a function or a coroutine function, called for one message at a time; the rest
        is as for `subscribe`, so `policy` says what becomes of ticks while it is slow. What it
        raises is counted and logged, and the next message follows; with `end_on_error` it ends the
        listener. A function that does not await holds up the whole event loop while it runs.
        """
        subscription = self.subscribe(
            *symbols, policy=policy, snapshot=snapshot, queue_size=queue_size
        )
        return self._listeners.start(subscription, handler, end_on_error=end_on_error)

    @property
    def listeners(self) -> tuple[Listener[Tick], ...]:
        """Those that have not ended, each with its stats."""
        return self._listeners.running

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
