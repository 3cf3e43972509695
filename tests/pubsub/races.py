"""Subscribers that join a running feed at random moments, and check what each of them gets."""

from __future__ import annotations

import asyncio
import random

import rtx
from rtx.pubsub import Policy

START = 1_700_000_000_000


def tick(number: int, symbol: str) -> rtx.Tick:
    return rtx.Tick(symbol, time=START + number, bid=float(number + 1), ask=1e9, lp="LP")


def number_of(item: rtx.Tick | rtx.Gap) -> int:
    assert isinstance(item, rtx.Tick), item
    number = item.time - START
    assert item.bid == number + 1
    return number


class Race:
    """A feed that numbers the ticks of each symbol without a hole, and joins to it."""

    def __init__(self, layer: rtx.DataLayer, feed: rtx.DataLayer, seeded: random.Random) -> None:
        self._layer = layer
        self._feed = feed
        self._seeded = seeded
        self._symbols = [f"R{number}" for number in range(40)]
        self._next = dict.fromkeys(self._symbols, 0)

    async def run(self, races: int, at_once: int = 100) -> None:
        """So many joins in all; raises at the first that sees a gap, a duplicate or a step back."""
        over = asyncio.Event()
        # Each publisher has symbols of its own: two at once keep no order between them.
        shares = [self._symbols[first::3] for first in range(3)]
        publishing = [asyncio.ensure_future(self._publish(share, over)) for share in shares]
        try:
            for _ in range(races // at_once):
                async with asyncio.timeout(60):
                    await asyncio.gather(*(self._join() for _ in range(at_once)))
        finally:
            over.set()
            await asyncio.gather(*publishing)

    def _some(self, symbols: list[str]) -> list[rtx.Tick]:
        ticks = []
        for _ in range(self._seeded.choice([1, 2, 5, 40, 200])):
            symbol = self._seeded.choice(symbols)
            ticks.append(tick(self._next[symbol], symbol))
            self._next[symbol] += 1
        return ticks

    async def _publish(self, symbols: list[str], over: asyncio.Event) -> None:
        while not over.is_set():
            ticks = self._some(symbols)
            if len(ticks) == 1:
                await self._feed.market_data.publish(ticks[0])
            else:
                await self._feed.market_data.publish_many(ticks)
            await asyncio.sleep(self._seeded.choice([0, 0, 0.001, 0.003]))

    async def _join(self) -> None:
        seeded = self._seeded
        symbols = seeded.sample(self._symbols, seeded.choice([1, 1, 2, 8]))
        policy: Policy = seeded.choice(["every", "every", "disconnect"])
        await asyncio.sleep(seeded.uniform(0, 0.02))
        async with self._layer.market_data.subscribe(*symbols, policy=policy) as ticks:
            if seeded.random() < 0.3:
                await ticks.ready()
            last: dict[str, int] = {}
            for _ in range(seeded.randint(3, 40)):
                item = await anext(ticks)
                number = number_of(item)
                assert isinstance(item, rtx.Tick)
                assert number == last.get(item.symbol, number - 1) + 1
                last[item.symbol] = number
