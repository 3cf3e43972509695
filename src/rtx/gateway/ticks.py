"""Market data for all clients: one subscription per symbol, each tick encoded once.

All ticks that came since the last look are joined into one `Batch`, and a client costs one method
call per batch, whatever the number of ticks in it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from rtx.errors import RtxError
from rtx.gateway import messages
from rtx.gateway.messages import ALL
from rtx.gateway.outbox import Batch, Outbox
from rtx.gateway.symbols import KnownSymbols
from rtx.layer import DataLayer
from rtx.models import Tick
from rtx.pubsub import Gap

_log = logging.getLogger("rtx.gateway")

_RESTART = 1.0  # seconds before a subscription that the server refused is asked for again

_LIST_AGAIN = 60.0  # seconds after which a cluster's symbols are listed again


class TickHub:
    """The feeds that any client follows at the moment, by symbol; `*` is one of its own."""

    def __init__(self, layer: DataLayer, symbols: KnownSymbols) -> None:
        self._layer = layer
        self._known = symbols
        self._feeds: dict[str, _Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # stopped ones too, until they have ended

    def join(self, symbol: str, outbox: Outbox) -> None:
        """Send the client the symbol's ticks: a `subscribed`, the latest tick, then each new one.

        It starts when the server has confirmed; during an outage, when that is over.
        """
        feed = self._feeds.get(symbol)
        if feed is None:
            feed = self._feeds[symbol] = _Feed(self._layer, symbol, self._known)
            self._tasks.add(feed.task)
            feed.task.add_done_callback(self._tasks.discard)
        feed.join(outbox)

    def leave(self, symbol: str, outbox: Outbox) -> None:
        """Stop sending; the last client to leave ends the subscription."""
        if symbol == ALL:
            outbox.all_symbols = False
        feed = self._feeds.get(symbol)
        if feed is not None and feed.leave(outbox):
            del self._feeds[symbol]
            feed.stop()

    async def close(self) -> None:
        """End all subscriptions."""
        self._feeds.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def channels(self) -> int:
        """How many feeds are followed."""
        return len(self._feeds)


class _Feed:
    """One subscription and the clients that follow it."""

    def __init__(self, layer: DataLayer, symbol: str, known: KnownSymbols) -> None:
        self._layer = layer
        self._symbol = symbol
        self._known = known
        self._channel = f"market_data:{symbol}"
        self._fresh_for = layer.settings.ttl.price
        self._joining: dict[Outbox, None] = {}
        self._clients: dict[Outbox, None] = {}
        self._ready = False
        self._latest: dict[str, tuple[float, str]] = {}
        self.task = asyncio.create_task(self._run(), name=f"rtx-gateway-{self._channel}")

    def stop(self) -> None:
        self.task.cancel()

    def join(self, outbox: Outbox) -> None:
        if self._ready:
            self._welcome(outbox)
        else:
            self._joining[outbox] = None

    def leave(self, outbox: Outbox) -> bool:
        """Whether that was the last one."""
        self._joining.pop(outbox, None)
        self._clients.pop(outbox, None)
        return not (self._joining or self._clients)

    def _welcome(self, outbox: Outbox) -> None:
        outbox.put(messages.subscribed(self._channel, recovered=True, reason="", last=None))
        oldest = time.monotonic() - self._fresh_for
        fresh = {symbol: text for symbol, (at, text) in self._latest.items() if at > oldest}
        if fresh:
            outbox.offer(Batch(list(fresh), list(fresh.values())))
        if self._symbol == ALL:
            outbox.all_symbols = True
        self._clients[outbox] = None

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
                cause = "the subscription was closed"
            except RtxError as error:
                cause = str(error)
                _log.warning("%s: %s; subscribing again", self._channel, error)
            except Exception:
                cause = "the gateway failed"
                _log.exception("%s has failed; subscribing again", self._channel)
            self._ready = False
            await asyncio.sleep(_RESTART)
            self._notify(cause, _RESTART)

    async def _follow(self) -> None:
        symbols = await self._symbols()
        listed_at = time.monotonic()
        async with self._layer.market_data.subscribe(*symbols) as subscription:
            await subscription.ready()
            if self._symbol == ALL:
                await self._read_prices()
            self._ready = True
            joining, self._joining = self._joining, {}
            for outbox in joining:
                self._welcome(outbox)
            async for items in subscription.batches():
                ticks: list[Tick] = []
                for item in items:
                    if isinstance(item, Gap):
                        self._deliver(ticks)
                        ticks = []
                        self._notify(item.cause, item.duration)
                    else:
                        ticks.append(item)
                self._deliver(ticks)
                if symbols != [self._symbol] and time.monotonic() - listed_at > _LIST_AGAIN:
                    if await self._symbols() != symbols:
                        return
                    listed_at = time.monotonic()

    async def _symbols(self) -> list[str]:
        """What to subscribe to: a cluster has no `*`, so there all known symbols are named."""
        if self._symbol != ALL or not self._layer.hub.sharded:
            return [self._symbol]
        while not (names := await self._known.names()):
            await asyncio.sleep(_RESTART)
        return names

    async def _read_prices(self) -> None:
        """The snapshot of all symbols, which the layer gives for named symbols only."""
        try:
            prices = await self._layer.prices.get_many(await self._known.names())
        except RtxError:
            return  # none to be had: the live ticks go on without it
        now = time.monotonic()
        for price in prices.values():
            tick = Tick(price.symbol, time=price.time, bid=price.bid, ask=price.ask)
            self._latest[price.symbol] = (now, messages.tick_text(tick))

    def _notify(self, cause: str, duration: float) -> None:
        text = messages.gap(self._channel, cause, duration, recovered=False)
        for outbox in self._clients:
            outbox.put(text)

    def _deliver(self, ticks: list[Tick]) -> None:
        if not ticks:
            return
        symbols = [tick.symbol for tick in ticks]
        batch = Batch(symbols, [messages.tick_text(tick) for tick in ticks])
        now = time.monotonic()
        for symbol, text in zip(symbols, batch.texts, strict=True):
            self._latest[symbol] = (now, text)
        self._known.saw(symbols)
        alone = self._symbol != ALL
        for outbox in self._clients:
            if alone and outbox.all_symbols:
                continue  # it gets these ticks from market_data:*
            outbox.offer(batch)
