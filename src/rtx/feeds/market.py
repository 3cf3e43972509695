"""A simulated market: a seed gives a sequence of steps, without a clock or a task.

Mids follow correlated geometric random walks whose step is scaled by the time it covers. Each
symbol moves between quiet, normal and busy spells, which change how often it is quoted, how far it
moves and how wide it is. Each liquidity provider sees the mid with a lag of its own and quotes
around it with a spread of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rtx.feeds.instruments import Instrument

YEAR = 365.0 * 86_400.0
STEP = 0.05
"""Seconds of market time in one step: short enough for a live page, long enough to batch."""
MAX_SILENCE = 0.65
"""Seconds a symbol may go unquoted: with a step's rounding and a late wake-up a cached price of
1 s stays fresh."""
RELAX = 1.5
"""Seconds in which a spread follows a change of spell."""


class Provider(NamedTuple):
    """A liquidity provider: spread relative to the symbol's, lag in seconds, share of quotes."""

    name: str
    spread: float
    lag: float
    weight: float


PROVIDERS = (
    Provider("LP-ALPHA", 0.85, 0.02, 4.0),
    Provider("LP-BRAVO", 1.00, 0.08, 3.0),
    Provider("LP-CHARLIE", 1.15, 0.15, 2.0),
    Provider("LP-DELTA", 1.40, 0.40, 1.0),
)


class Spell(NamedTuple):
    """A spell of the market: mean seconds, how often it is drawn, and what it multiplies."""

    name: str
    seconds: float
    weight: float
    activity: float
    variance: float
    spread: float


SPELLS = (
    Spell("quiet", 20.0, 0.35, 0.45, 0.5, 0.9),
    Spell("normal", 25.0, 0.45, 1.0, 1.0, 1.0),
    Spell("busy", 5.0, 0.20, 4.0, 3.0, 2.4),
)
_TIME = sum(spell.seconds * spell.weight for spell in SPELLS)
_MEAN_ACTIVITY = sum(spell.seconds * spell.weight * spell.activity for spell in SPELLS) / _TIME
_MEAN_VARIANCE = sum(spell.seconds * spell.weight * spell.variance for spell in SPELLS) / _TIME


class Quote(NamedTuple):
    """What a provider quotes for a symbol, in price units rounded to the symbol's digits."""

    symbol: str
    bid: float
    ask: float
    lp: str


class Step(NamedTuple):
    """The quotes of the `dt` seconds of market time since the step before."""

    dt: float
    quotes: list[Quote]


class _Line:
    """One symbol of the market."""

    __slots__ = (
        "due",
        "instrument",
        "mid",
        "rate",
        "seen",
        "seen_at",
        "spell",
        "spell_end",
        "widening",
    )

    def __init__(self, instrument: Instrument, rate: float) -> None:
        self.instrument = instrument
        self.rate = rate
        self.mid = instrument.price
        self.due = 0.0
        self.spell = SPELLS[1]
        self.spell_end = 0.0
        self.widening = 1.0
        self.seen = [instrument.price] * len(PROVIDERS)
        self.seen_at = [0.0] * len(PROVIDERS)


class Market:
    """Instruments quoted by `PROVIDERS`; the same arguments give the same steps.

    `rate` is the mean of quotes per second over all symbols. A symbol is quoted at least every
    `MAX_SILENCE` + `STEP` seconds, whatever the rate. A market can be walked once.
    """

    def __init__(self, instruments: Sequence[Instrument], *, seed: int, rate: float) -> None:
        self._random = random.Random(seed)
        whole = sum(instrument.tick_rate for instrument in instruments)
        scale = rate / whole / _MEAN_ACTIVITY
        self._lines = [_Line(item, item.tick_rate * scale) for item in instruments]
        self._by_symbol = {line.instrument.symbol: line for line in self._lines}
        self._factors = sorted({item.factor for item in instruments if item.factor})
        self._weights = [provider.weight for provider in PROVIDERS]

    def spell(self, symbol: str) -> str:
        """The spell a symbol is in: `quiet`, `normal` or `busy`."""
        return self._by_symbol[symbol].spell.name

    def steps(self) -> Iterator[Step]:
        """Yield steps without end; the first quotes every symbol."""
        now = 0.0
        while True:
            now += STEP
            self._move(now)
            quotes: list[tuple[float, Quote]] = []
            for line in self._lines:
                while line.due < now:
                    quotes.append((line.due, self._quote(line)))
                    gap = self._random.expovariate(line.rate * line.spell.activity)
                    line.due += min(gap, MAX_SILENCE)
            quotes.sort(key=lambda item: item[0])
            yield Step(STEP, [quote for _, quote in quotes])

    def _move(self, now: float) -> None:
        gauss = self._random.gauss
        shocks = {factor: gauss(0.0, 1.0) for factor in self._factors}
        for line in self._lines:
            if now >= line.spell_end:
                line.spell = self._random.choices(SPELLS, [spell.weight for spell in SPELLS])[0]
                line.spell_end = now + self._random.expovariate(1.0 / line.spell.seconds)
            line.widening += (line.spell.spread - line.widening) * (STEP / RELAX)
            item = line.instrument
            own = gauss(0.0, 1.0)
            shared = shocks.get(item.factor, 0.0)
            shock = item.loading * shared + math.sqrt(1.0 - item.loading**2) * own
            variance = item.volatility**2 * STEP / YEAR * line.spell.variance / _MEAN_VARIANCE
            # Half the variance less: a log-normal step whose mean is where it started.
            line.mid *= math.exp(math.sqrt(variance) * shock - variance / 2)
        for line in self._lines:
            cross = line.instrument.cross
            if cross and cross[0] in self._by_symbol and cross[1] in self._by_symbol:
                line.mid = self._by_symbol[cross[0]].mid / self._by_symbol[cross[1]].mid

    def _quote(self, line: _Line) -> Quote:
        index = self._random.choices(range(len(PROVIDERS)), self._weights)[0]
        provider = PROVIDERS[index]
        waited = line.due - line.seen_at[index]
        line.seen[index] += (line.mid - line.seen[index]) * -math.expm1(-waited / provider.lag)
        line.seen_at[index] = line.due
        item = line.instrument
        noise = self._random.uniform(0.8, 1.2)
        half = item.spread * provider.spread * line.widening * noise / 2
        digits = item.spec.digits
        point = 10.0**-digits
        bid = max(round(line.seen[index] - half, digits), point)
        ask = max(round(line.seen[index] + half, digits), round(bid + point, digits))
        return Quote(item.symbol, bid, ask, provider.name)
