"""Rules evaluated the slow and obvious way, over a whole list of ticks at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from rtx.alerts import AlertRule
from rtx.alerts.book import SymbolBook
from rtx.alerts.slot import Slot, State
from rtx.alerts.stats import AlertRuleStats
from rtx.models import Tick


def expected(rule: AlertRule, ticks: Sequence[Tick]) -> list[int]:
    """Indexes of the ticks at which the rule fires; the times of the ticks do not fall."""
    fired: list[int] = []
    armed = True
    since = 0
    for index, tick in enumerate(ticks):
        if armed and _holds(rule, ticks, index, Fraction(0)):
            fired.append(index)
            armed, since = False, tick.time
        elif not armed and rule.rearm == "auto":
            over = tick.time >= since + math.ceil(rule.cooldown * 1000)
            begun = rule.kind != "price_moved" or tick.time >= ticks[0].time + rule.seconds * 1000
            if over and begun and not _holds(rule, ticks, index, _decimal(rule.hysteresis)):
                armed = True
    return fired


def _holds(rule: AlertRule, ticks: Sequence[Tick], index: int, ease: Fraction) -> bool:
    """Whether the condition is true of this tick, with the threshold made easier by `ease`."""
    threshold = _decimal(rule.threshold)
    tick = ticks[index]
    if rule.kind == "spread_above":
        value = _decimal(round(tick.ask - tick.bid, 10))
        return value > threshold if not ease else value > threshold - ease
    if rule.kind == "price_above":
        return _decimal(_price(rule, tick)) > threshold - ease
    if rule.kind == "price_below":
        return _decimal(_price(rule, tick)) < threshold + ease
    assert rule.kind == "price_moved"
    now = _price(rule, tick)
    for before in ticks[: index + 1]:
        if before.time < tick.time - rule.seconds * 1000:
            continue
        then = _price(rule, before)
        moves = {"up": (now - then) / then * 100, "down": (then - now) / then * 100}
        moves["any"] = max(moves.values())
        if moves[rule.direction] >= float(threshold - ease):
            return True
    return False


def _price(rule: AlertRule, tick: Tick) -> float:
    if rule.side == "mid":
        return round((tick.bid + tick.ask) / 2, 10)
    return tick.bid if rule.side == "bid" else tick.ask


def _decimal(number: float) -> Fraction:
    return Fraction(repr(number))


def armed_slot(rule: AlertRule) -> Slot:
    return Slot(rule, str(rule.account_id), State("1", True, 0, 0, 0))


@dataclass
class Recorded:
    """A book whose steps are kept rather than sent."""

    quiet_after: float = 1.0
    fired: dict[str, list[int]] = field(default_factory=dict)
    stats: AlertRuleStats = field(default_factory=AlertRuleStats)
    index: int = 0

    def __post_init__(self) -> None:
        self.book = SymbolBook("EURUSD", self._decide, self.stats, self.quiet_after)

    def _decide(self, slot: Slot, position: int, facts: object) -> None:
        if slot.armed:
            self.fired.setdefault(slot.rule.id, []).append(self.index)
        assert position > slot.position
        slot.armed, slot.position = not slot.armed, position

    def run(self, ticks: Sequence[Tick]) -> None:
        for self.index, tick in enumerate(ticks):
            self.book.take(tick, 0.0)
