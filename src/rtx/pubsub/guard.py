"""Which ticks are published: whole quotes, in the order of their times, at credible prices."""

from __future__ import annotations

import math
import time as _time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from rtx import codecs
from rtx.errors import BadTick
from rtx.models import Tick, check_quote
from rtx.setting_groups import MarketDataSettings

_SYMBOLS_AT_MOST = 100_000
_ANOTHER_RECORDING = 60_000  # milliseconds: a tick that was held up on its way is not so late

_Line: TypeAlias = "str | tuple[str, str]"
"""What keeps to one order: a symbol, or a symbol and a provider."""


@dataclass(slots=True)
class _Late:
    """A time that a symbol seems to have stepped back to, and how many are in order there."""

    at: int
    count: int
    since: float


@dataclass(slots=True)
class _Level:
    """A level that a symbol seems to have jumped to: the last mid there, and how many agree."""

    mid: float
    count: int
    since: float


class TickGuard:
    """Refuses bad ticks, and counts them by reason; shared by all that one process publishes.

    Reasons beside `not_finite`, `not_positive`, `crossed` and `bad_time`, and how each ends, so
    that no symbol is locked out for ever:

    - `out_of_order`: the tick is older than the newest of its symbol, or with `in_order =
      "provider"` than the newest that its provider had of it. When nothing else has come for
      `settle` seconds (a clock was set back, or a tick came from the future), the next counts; and
      so does the last of `agree` ticks in a row that are more than a minute back and in order among
      themselves (another recording).
    - `jump`: its mid is further than `max_jump`, a fraction, from the last good one. When `agree`
      ticks in a row agree with each other in this sense, or nothing else has come for `settle`
      seconds, that is the new level.

    A good tick in between starts both counts afresh. It remembers 100,000 symbols, and then forgets
    them all: the next tick of each is good.
    """

    def __init__(self, settings: MarketDataSettings, refused: Counter[str]) -> None:
        self._settings = settings
        self._refused = refused
        self._in_order = settings.in_order != "off"
        self._by_provider = settings.in_order == "provider"
        self._usual_jump = math.inf if settings.max_jump is None else settings.max_jump
        # A step below the least bound is none whatever the symbol, as nearly all steps are.
        self._least_jump = min((self._usual_jump, *settings.max_jump_of.values()))
        self._jumps = self._least_jump < math.inf
        self._newest: dict[_Line, int] = {}
        self._mids: dict[str, float] = {}
        self._late: dict[_Line, _Late] = {}
        self._levels: dict[str, _Level] = {}

    def refusal(self, tick: Tick) -> BadTick | None:
        """Why the tick may not be published; None for a good one, which then counts as such."""
        symbol, at, bid, ask = tick.symbol, tick.time, tick.bid, tick.ask
        if not (0.0 < bid <= ask < math.inf and 0 <= at < codecs.END_OF_TIME):
            return self._refuse(_malformed(tick))
        line = (symbol, tick.lp) if self._by_provider else symbol
        newest = self._newest.get(line)
        if newest is None:
            self._make_room()
        elif at < newest and self._in_order and not self._is_new_order(line, newest, at):
            return self._refuse(
                BadTick(
                    "out_of_order",
                    f"{symbol}: time {at} is {newest - at} ms before that of a tick published "
                    'before it; publish in order, or set market_data.in_order = "off"',
                )
            )
        if self._jumps:
            mid = (bid + ask) * 0.5
            good = self._mids.get(symbol)
            if (
                good is not None
                and abs(mid - good) > good * self._least_jump
                and abs(mid - good) > good * self._limit(symbol)
                and not self._is_new_level(symbol, mid)
            ):
                return self._refuse(
                    BadTick(
                        "jump",
                        f"{symbol}: the mid went from {good:g} to {mid:g}; a wrong price, or "
                        "raise market_data.max_jump",
                    )
                )
            self._mids[symbol] = mid
        self._newest[line] = at
        if self._late:
            self._late.pop(line, None)
        if self._levels:
            self._levels.pop(symbol, None)
        return None

    def passed(self, ticks: Iterable[Tick]) -> tuple[list[Tick], dict[str, int]]:
        """The good ticks, and the number of the others by reason."""
        good: list[Tick] = []
        refused: dict[str, int] = {}
        refusal = self.refusal
        for tick in ticks:
            bad = refusal(tick)
            if bad is None:
                good.append(tick)
            else:
                refused[bad.reason] = refused.get(bad.reason, 0) + 1
        return good, refused

    def _refuse(self, bad: BadTick) -> BadTick:
        self._refused[bad.reason] += 1
        return bad

    def _limit(self, symbol: str) -> float:
        return self._settings.max_jump_of.get(symbol, self._usual_jump)

    def _is_new_order(self, line: _Line, newest: int, at: int) -> bool:
        now = _time.monotonic()
        late = self._late.get(line)
        if late is None:
            late = self._late[line] = _Late(at, 0, now)
        late.count = late.count + 1 if at >= late.at else 1
        late.at = at
        another = newest - at > _ANOTHER_RECORDING and late.count >= self._settings.agree
        return another or now - late.since >= self._settings.settle

    def _is_new_level(self, symbol: str, mid: float) -> bool:
        now = _time.monotonic()
        level = self._levels.get(symbol)
        if level is None:
            level = self._levels[symbol] = _Level(mid, 0, now)
        agrees = abs(mid - level.mid) <= level.mid * self._limit(symbol)
        level.mid, level.count = mid, level.count + 1 if agrees else 1
        return level.count >= self._settings.agree or now - level.since >= self._settings.settle

    def _make_room(self) -> None:
        if len(self._newest) >= _SYMBOLS_AT_MOST:
            for known in (self._newest, self._mids, self._late, self._levels):
                known.clear()


def _malformed(tick: Tick) -> BadTick:
    try:
        check_quote(tick.symbol, tick.bid, tick.ask)
        codecs.check_time(tick.symbol, tick.time)
    except BadTick as bad:
        return bad
    raise AssertionError("unreachable")
