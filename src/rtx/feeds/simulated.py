"""A live simulated feed: the simulated market, walked at the pace of a clock."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from rtx.errors import FeedError
from rtx.feeds.base import Clock, FeedStats, Sleep
from rtx.feeds.instruments import INSTRUMENTS, Instrument
from rtx.feeds.market import Market
from rtx.models import SymbolSpec, Tick, now_ms

BATCH = 500
MAX_LAG = 0.5
"""Seconds behind the clock beyond which the walk goes on from now: live prices are never caught up
in a burst of old ones."""


class SimulatedFeed:
    """Quotes of several liquidity providers for simulated symbols, in real time.

    `symbols` of `instruments` (all of them when None); `rate` is the mean of ticks per second over
    all symbols, and no symbol is silent for more than about 0.7 s even when that means more. The
    same `seed`, symbols and rate give the same prices in the same order; None draws a seed, which
    `.seed` tells. Tick times are now, in epoch milliseconds. Raises `FeedError` for unknown symbols
    and impossible rates.
    """

    name = "simulated"

    def __init__(
        self,
        *,
        seed: int | None = None,
        symbols: Sequence[str] | None = None,
        rate: float = 80.0,
        instruments: Mapping[str, Instrument] = INSTRUMENTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        names = list(dict.fromkeys(instruments if symbols is None else symbols))
        unknown = [name for name in names if name not in instruments]
        if unknown or not names:
            raise FeedError(
                f"no simulated symbol {', '.join(unknown) or 'given'}; "
                f"choose from {', '.join(sorted(instruments))}"
            )
        if not 0.0 < rate < math.inf:
            raise FeedError(f"rate is ticks per second above 0, not {rate}; 80 is the usual one")
        self.seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self.stats = FeedStats()
        self.symbols = tuple(names)
        self.rate = rate
        self._instruments = [instruments[name] for name in names]
        self._clock = clock
        self._sleep = sleep

    @property
    def specs(self) -> tuple[SymbolSpec, ...]:
        """Terms of trade of the simulated symbols."""
        return tuple(instrument.spec for instrument in self._instruments)

    async def batches(self) -> AsyncIterator[Sequence[Tick]]:
        """Yield the quotes of each step of 50 ms when its time has come, at most 500 at once."""
        market = Market(self._instruments, seed=self.seed, rate=self.rate)
        due = self._clock()
        for step in market.steps():
            # A sleep even when late: the loop's other tasks get their turn.
            await self._sleep(max(0.0, due - self._clock()))
            late = self._clock() - due
            due += step.dt + (late if late > MAX_LAG else 0.0)
            for start in range(0, len(step.quotes), BATCH):
                now = now_ms()
                quotes = step.quotes[start : start + BATCH]
                self.stats.ticks += len(quotes)
                yield [Tick(q.symbol, time=now, bid=q.bid, ask=q.ask, lp=q.lp) for q in quotes]
