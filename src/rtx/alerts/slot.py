"""A rule as one engine has it in hand: its state, and where in the ticks that was reached."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from rtx.alerts.rules import AlertRule
from rtx.marking.valuation import exact
from rtx.models import Alert


class State(NamedTuple):
    """What the server has of a rule.

    `revision` changes when the rule is put or re-armed by somebody: what was decided before counts
    no more. `position` is that of the tick by which the state was reached.
    """

    revision: str
    armed: bool
    position: int
    firings: int
    fired_at: int

    @classmethod
    def parse(cls, raw: bytes) -> State:
        """State from its text; raises `ValueError`."""
        revision, state, position, firings, at = raw.decode("ascii").split(" ")
        return cls(revision, state == "armed", int(position), int(firings), int(at))


def position_of(time: int, nth: int) -> int:
    """Place of a tick among those of its symbol, the same in every process.

    `time` in epoch milliseconds; `nth` counts the ticks of the same time from 0. It is even: the
    silence after a tick has the odd number that follows.
    """
    return (time << 12) | (min(nth, 2047) << 1)


def time_of(position: int) -> int:
    """The time that a position was made from, in epoch milliseconds."""
    return position >> 12


class Step(NamedTuple):
    """A change of a rule's state: it fires (with its alert), or it is armed again (without)."""

    revision: str
    position: int
    alert: Alert | None


class Slot:
    """One rule in one engine.

    The state here runs ahead of the server's by the steps that are owed. `fire` and `clear` are the
    values that the rule fires, or is armed again, beyond: upwards if `rising`, and the other way
    round for the clearing.
    """

    __slots__ = (
        "account", "armed", "clear", "done", "fire", "gone", "position", "revision", "rising",
        "rule", "token", "touched",
    )  # fmt: skip

    def __init__(self, rule: AlertRule, account: str, state: State) -> None:
        self.rule = rule
        self.account = account
        """The account id as it stands in names of keys."""
        self.revision = state.revision
        self.armed = state.armed
        self.position = state.position
        self.rising = rule.kind not in ("price_below", "margin_below")
        self.fire, self.clear = _levels(rule)
        self.token = 0
        """Counts the changes, so that what was put aside for an older one is known as such."""
        self.done: deque[Step] = deque(maxlen=2)
        """The latest steps that the server had, in case that it forgets them in a failover."""
        self.touched = 0.0
        """When the server's word on it came last, by this process's monotonic clock."""
        self.gone = False

    @property
    def automatic(self) -> bool:
        return self.rule.rearm == "auto"

    @property
    def due(self) -> int:
        """When its cooldown is over, in epoch milliseconds of the ticks."""
        return time_of(self.position) + math.ceil(self.rule.cooldown * 1000)

    def adopt(self, state: State) -> None:
        """Take the server's word."""
        self.revision, self.armed, self.position = state.revision, state.armed, state.position


def _levels(rule: AlertRule) -> tuple[float, float]:
    """Levels to be strictly beyond, to fire and to be armed again."""
    threshold = exact(rule.threshold)
    under = float(threshold - exact(rule.hysteresis))
    over = float(threshold + exact(rule.hysteresis))
    if rule.kind in ("price_above", "spread_above"):
        return rule.threshold, math.nextafter(under, math.inf)
    if rule.kind in ("price_below", "margin_below"):
        return rule.threshold, math.nextafter(over, -math.inf)
    if rule.kind == "price_moved":
        return math.nextafter(rule.threshold, -math.inf), under
    return 0.0, math.inf  # price_stale: any tick clears it
