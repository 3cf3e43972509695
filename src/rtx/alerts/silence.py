"""Rules about prices that stay away, which no tick can tell."""

from __future__ import annotations

import asyncio
import math
import time
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic

from rtx.alerts.book import Decide, SymbolBook
from rtx.alerts.hours import Hours
from rtx.alerts.slot import Slot
from rtx.cache import PriceCache
from rtx.errors import RtxError

_EVERY = 0.1
_STOOD_STILL = 1.0
"""A loop that did nothing for so many seconds has not read the ticks of that time yet either."""


class Silence:
    """Fires the rules of symbols whose ticks stay away."""

    def __init__(self, prices: PriceCache, decide: Decide) -> None:
        self._prices = prices
        self._decide = decide
        self._due: list[tuple[float, int, Slot, SymbolBook]] = []
        self._number = count().__next__
        self._since = monotonic()
        """When this process began to listen, or to listen again."""

    def add(self, slot: Slot, book: SymbolBook) -> None:
        """Follow a rule; its silence counts from now if there was no tick yet."""
        if book.arrived == -math.inf:
            book.arrived = monotonic()
        heappush(self._due, (monotonic(), self._number(), slot, book))
        if len(self._due) > 2 * sum(1 for entry in self._due if not entry[2].gone) + 64:
            self._due = [entry for entry in self._due if not entry[2].gone]
            heapify(self._due)

    async def run(self) -> None:
        """Look at the clock until cancelled."""
        last = monotonic()
        while True:
            await asyncio.sleep(_EVERY)
            now = monotonic()
            if now - last > _STOOD_STILL + _EVERY:
                self._since = now
            last = now
            while self._due and self._due[0][0] <= now:
                _, _, slot, book = heappop(self._due)
                if not slot.gone:
                    due = await self._judge(slot, book, now)
                    heappush(self._due, (max(due, now + _EVERY), self._number(), slot, book))

    async def _judge(self, slot: Slot, book: SymbolBook, now: float) -> float:
        """Fire if it is time to; when to look again."""
        seconds = slot.rule.seconds
        open_for = Hours.parse(slot.rule.hours).open_for(time.time())
        if open_for < 0:
            return now + 1.0
        silent_for = min(now - max(book.arrived, self._since), open_for)
        if silent_for < seconds:
            return now + seconds - silent_for
        if not slot.armed:
            return now + _EVERY
        token = slot.token
        try:
            price = await self._prices.get(slot.rule.symbol)
        except RtxError:
            return now + 1.0  # nobody is to be asked: this process may be the one that is deaf
        if price is not None and (book.last is None or price.time > book.last.time):
            return now + 1.0  # there are ticks: they do not get here
        if slot.token == token and monotonic() - book.arrived >= silent_for:
            # After the last tick; after the last that any process saw, where none has come to this.
            position = max(book.position, slot.position) + 1
            book.changed(slot)
            self._decide(slot, position, {"value": f"{silent_for:.3f}"})
            book.watch(slot, now)
        return now + _EVERY
