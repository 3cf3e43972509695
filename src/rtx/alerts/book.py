"""The rules of one symbol, and what each of its ticks does to them.

Every process that sees the same ticks comes to the same steps at the same positions, so that the
server can tell one that was made from one that is yet to be made. What makes them the same:

- ticks count in the order of their own times; one that is older than the last is late and passed
  over, unless the last came so long ago that the feed must have been set back;
- a position is a tick's time and its number among those of that time;
- a step that is not behind the position where the server has the rule already is not made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TypeAlias

from rtx.alerts.gauge import Gauge
from rtx.alerts.rules import AlertRule
from rtx.alerts.slot import Slot, position_of
from rtx.alerts.stats import AlertRuleStats
from rtx.alerts.window import Window
from rtx.models import Tick, middle, spread

Decide: TypeAlias = Callable[[Slot, int, Mapping[str, str]], None]
"""Makes a rule's next step, at a position and with the facts of its message."""

_number = count().__next__
_GARBAGE = 64


class SymbolBook:
    """Rules of one symbol but for those of margins.

    `decide` is called for each step and changes the slot before it returns. `quiet_after`: seconds
    without a tick after which a tick with an older time counts again.
    """

    def __init__(
        self, symbol: str, decide: Decide, stats: AlertRuleStats, quiet_after: float
    ) -> None:
        self.symbol = symbol
        self.last: Tick | None = None
        self.arrived = -math.inf
        """When the last tick came, by the monotonic clock."""
        self.slots: set[Slot] = set()
        self._decide = decide
        self._stats = stats
        self._quiet_after = quiet_after
        self._time = -1
        self._nth = 0
        self._bid, self._ask, self._mid, self._spread, self._ticks = (Gauge() for _ in range(5))
        self._of_middle = 0  # rules that need a middle or a spread
        self._windows: dict[tuple[str, float], _Moves] = {}
        self._cooling: list[tuple[int, int, int, Slot]] = []
        self._cooled_at = math.inf

    @property
    def position(self) -> int:
        """Of the last tick; 0 before the first."""
        return 0 if self._time < 0 else position_of(self._time, self._nth)

    @property
    def moving(self) -> bool:
        """Whether there are rules about moves."""
        return bool(self._windows)

    # --- rules -----------------------------------------------------------------------------

    def add(self, slot: Slot, now: float) -> None:
        """Follow a rule; a price that is still fresh is looked at right away."""
        self.slots.add(slot)
        self._of_middle += _of_middle(slot.rule)
        if slot.rule.kind == "price_moved":
            key = (slot.rule.side, slot.rule.seconds)
            self._windows.setdefault(key, _Moves(slot.rule.seconds)).rules += 1
        self.watch(slot, now)

    def remove(self, slot: Slot) -> None:
        """Follow a rule no more."""
        self.slots.discard(slot)
        self.changed(slot)
        self._of_middle -= _of_middle(slot.rule)
        if slot.rule.kind == "price_moved":
            key = (slot.rule.side, slot.rule.seconds)
            self._windows[key].rules -= 1
            if not self._windows[key].rules:
                del self._windows[key]

    def changed(self, slot: Slot) -> None:
        """The rule's level is none any more; call before `watch` puts up its next one."""
        slot.token += 1
        self._of(slot.rule).forget()
        if len(self._cooling) > 2 * len(self.slots) + _GARBAGE:
            self._cooling = [entry for entry in self._cooling if entry[2] == entry[3].token]
            heapify(self._cooling)
            self._cooled_at = self._cooling[0][0] if self._cooling else math.inf

    def watch(self, slot: Slot, now: float) -> None:
        """Wait for a rule's next step, and make it if the price that is there asks for it."""
        self._put_up(slot)
        if self.last is not None and now - self.arrived < self._quiet_after:
            self._look(self.last)

    def _put_up(self, slot: Slot) -> None:
        if slot.armed:
            if slot.rule.kind != "price_stale":  # whose silence is nothing that a tick could tell
                self._of(slot.rule).watch(slot)
        elif slot.automatic:
            if slot.due > self._time:
                heappush(self._cooling, (slot.due, _number(), slot.token, slot))
                self._cooled_at = self._cooling[0][0]
            else:
                self._of(slot.rule).watch(slot)

    def _of(self, rule: AlertRule) -> Gauge:
        if rule.kind == "price_moved":
            moves = self._windows[rule.side, rule.seconds]
            return moves.gauges.setdefault(rule.direction, Gauge())
        if rule.kind == "price_stale":
            return self._ticks
        if rule.kind == "spread_above":
            return self._spread
        return {"bid": self._bid, "ask": self._ask, "mid": self._mid}[rule.side]

    # --- ticks -----------------------------------------------------------------------------

    def restart(self) -> None:
        """Ticks were missed: what was the highest and the lowest meanwhile is not known."""
        for moves in self._windows.values():
            moves.window.restart()

    def take(self, tick: Tick, now: float) -> None:
        """Evaluate one tick that came in at `now`."""
        time = tick.time
        if time > self._time:
            self._time, self._nth = time, 0
        elif time == self._time:
            if (
                not tick.lp
                and self.last is not None
                and (tick.bid == self.last.bid and tick.ask == self.last.ask)
            ):
                return  # the cached price of the tick that is there already
            self._nth += 1
        elif now - self.arrived < self._quiet_after:
            self._stats.late += 1
            return
        else:
            self._time, self._nth = time, 0
            self.restart()
        self.last = tick
        self.arrived = now
        self._stats.evaluated += 1
        while time >= self._cooled_at:
            _, _, token, slot = heappop(self._cooling)
            self._cooled_at = self._cooling[0][0] if self._cooling else math.inf
            if token == slot.token:
                self._of(slot.rule).watch(slot)
        for (side, _), moves in self._windows.items():
            self._move(moves, side, tick)
        self._look(tick)

    def _look(self, tick: Tick) -> None:
        """Compare everything but the moves, which go with each tick once."""
        bid, ask = tick.bid, tick.ask
        gauge = self._bid
        if bid > gauge.top or bid < gauge.bottom:
            self._pass(gauge, bid, tick)
        gauge = self._ask
        if ask > gauge.top or ask < gauge.bottom:
            self._pass(gauge, ask, tick)
        if self._of_middle:
            gauge, value = self._mid, middle(bid, ask)
            if value > gauge.top or value < gauge.bottom:
                self._pass(gauge, value, tick)
            gauge, value = self._spread, spread(bid, ask)
            if value > gauge.top or value < gauge.bottom:
                self._pass(gauge, value, tick)
        if self._ticks.bottom > 1.0:
            self._pass(self._ticks, 1.0, tick)

    def _move(self, moves: _Moves, side: str, tick: Tick) -> None:
        window = moves.window
        price = tick.bid if side == "bid" else tick.ask if side == "ask" else None
        if price is None:
            price = middle(tick.bid, tick.ask)
        up, down = window.add(tick.time, price)
        self._stats.windows_cut += window.cut
        window.cut = 0
        for direction, gauge in moves.gauges.items():
            moved = up if direction == "up" else down if direction == "down" else max(up, down)
            if moved > gauge.top or moved < gauge.bottom:
                self._pass(gauge, moved, tick, whole=window.whole(tick.time))

    def _pass(self, gauge: Gauge, value: float, tick: Tick, *, whole: bool = True) -> None:
        position = position_of(self._time, self._nth)
        again: list[Slot] = []
        for slot in gauge.passed(value):
            if position <= slot.position or not (slot.armed or whole):
                again.append(slot)  # the server is ahead of this tick, or the window is not whole
                continue
            facts = {"value": f"{value:.12g}", "bid": repr(tick.bid), "ask": repr(tick.ask)}
            self._decide(slot, position, facts)
            slot.token += 1
            self._put_up(slot)
        for slot in again:
            gauge.watch(slot)


class _Moves:
    """A window that rules share, and its gauges by direction."""

    __slots__ = ("gauges", "rules", "window")

    def __init__(self, seconds: float) -> None:
        self.window = Window(seconds)
        self.gauges: dict[str, Gauge] = {}
        self.rules = 0


def _of_middle(rule: AlertRule) -> bool:
    return rule.kind == "spread_above" or (rule.side == "mid" and rule.kind != "price_moved")
