"""What a rule says, whether it can be one, and the sentence that its alert has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from rtx.alerts.hours import Hours
from rtx.errors import BadRule
from rtx.keys import SYSTEM
from rtx.models import Severity

Kind = Literal[
    "price_above", "price_below", "price_moved", "spread_above", "price_stale", "margin_below"
]
Owner: TypeAlias = int | str
"""An account id, or `system`, whose alerts go to everyone."""


class AlertRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When to publish an alert to an account, or to `"system"`; ids are unique in an account.

    - `price_above`, `price_below`: bid, ask or mid (`side`) is over, under `threshold`
    - `price_moved`: `side` has moved by `threshold` percent or more within `seconds`, up, down or
      either (`direction`)
    - `spread_above`: ask minus bid is over `threshold`, in price units
    - `price_stale`: no tick for `seconds`, within `hours` such as `"Sun 22:00-Fri 22:00"` (UTC)
    - `margin_below`: the account's margin level is under `threshold` percent

    A rule fires once, and again after it was re-armed: by `rearm`, or with `rearm="auto"` by itself
    when the condition is false by `hysteresis` or more, in the units of `threshold`, and `cooldown`
    seconds have passed since it fired. A rule of `price_moved` is re-armed by itself only over a
    window without a break.

    `message` may have `{symbol}`, `{value}`, `{threshold}`, `{seconds}`, `{bid}`, `{ask}`,
    `{account_id}` and `{id}` in it; empty, the alert has a sentence of the kind's own.
    """

    id: str
    account_id: int | str
    kind: Kind
    symbol: str = ""
    side: Literal["bid", "ask", "mid"] = "mid"
    threshold: float = 0.0
    seconds: float = 0.0
    direction: Literal["any", "up", "down"] = "any"
    severity: Severity = "warning"
    message: str = ""
    rearm: Literal["manual", "auto"] = "manual"
    hysteresis: float = 0.0
    cooldown: float = 0.0
    hours: str = ""


class RuleState(msgspec.Struct, frozen=True):
    """A rule, whether it is armed, how often it has fired, and when last, in epoch milliseconds.

    `fired_at` is 0 for a rule that has not fired.
    """

    rule: AlertRule
    armed: bool
    firings: int
    fired_at: int


_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_SYMBOL = re.compile(r"[!-)+-~]{1,64}")  # all printable but *, which means every symbol
_NAME = re.compile(r"\{(\w*)\}")
_NAMES = frozenset({"symbol", "value", "threshold", "seconds", "bid", "ask", "account_id", "id"})
_MESSAGE_AT_MOST = 500
_LONGEST = 7 * 86_400.0

# What a kind must have, and what it may have besides.
_NEEDS: dict[Kind, tuple[frozenset[str], frozenset[str]]] = {
    "price_above": (frozenset({"symbol", "threshold"}), frozenset({"side", "hysteresis"})),
    "price_below": (frozenset({"symbol", "threshold"}), frozenset({"side", "hysteresis"})),
    "price_moved": (
        frozenset({"symbol", "threshold", "seconds"}),
        frozenset({"side", "direction", "hysteresis"}),
    ),
    "spread_above": (frozenset({"symbol", "threshold"}), frozenset({"hysteresis"})),
    "price_stale": (frozenset({"symbol", "seconds"}), frozenset({"hours"})),
    "margin_below": (frozenset({"threshold"}), frozenset({"hysteresis"})),
}
_OF_SOME = ("symbol", "side", "threshold", "seconds", "direction", "hysteresis", "hours")
_OMITTED = {
    field.name: field.default
    for field in msgspec.structs.fields(AlertRule)
    if field.default is not msgspec.NODEFAULT
}

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(AlertRule).decode


def check(rule: AlertRule) -> AlertRule:
    """The rule in its one form, if it can be evaluated; raises `BadRule`, which names the field.

    Rules that say the same have the same JSON then.
    """
    fields = msgspec.structs.asdict(rule)
    said = {name: value for name, value in fields.items() if value != _OMITTED.get(name)}
    try:
        # The types and the words, which nobody checks in the constructor.
        rule = msgspec.convert(said, AlertRule)
    except msgspec.MsgspecError as error:
        raise BadRule("rule", str(error)) from None
    if not _ID.fullmatch(rule.id):
        raise BadRule("id", f"{rule.id!r}: use 1 to 64 letters, digits, _ . : and -")
    owner(rule.account_id)
    if rule.kind == "margin_below" and rule.account_id == SYSTEM:
        raise BadRule("account_id", "the system has no margin level; name an account")
    needs, may = _NEEDS[rule.kind]
    for name in _OF_SOME:
        value = getattr(rule, name)
        if name in needs and not value:
            raise BadRule(name, f"a rule of kind {rule.kind} needs it, and not zero or empty")
        if name not in needs | may and value != _OMITTED[name]:
            raise BadRule(name, f"has no meaning for {rule.kind}; leave it out")
    if rule.symbol and not _SYMBOL.fullmatch(rule.symbol):
        raise BadRule("symbol", "1 to 64 printable characters without blanks and *")
    for name in ("threshold", "seconds", "hysteresis", "cooldown"):
        number = getattr(rule, name)
        if not (math.isfinite(number) and number >= 0):
            raise BadRule(name, f"{number} is no finite number from zero on")
    if max(rule.seconds, rule.cooldown) > _LONGEST:
        name = "seconds" if rule.seconds > _LONGEST else "cooldown"
        raise BadRule(name, f"at most {_LONGEST:.0f}, a week")
    if rule.rearm == "manual" and (rule.hysteresis or rule.cooldown):
        name = "hysteresis" if rule.hysteresis else "cooldown"
        raise BadRule(name, 'is for rules that re-arm by themselves; set rearm = "auto"')
    if rule.hysteresis and rule.kind in _OVER and rule.hysteresis >= rule.threshold:
        raise BadRule("hysteresis", "is not below the threshold: it would never be re-armed")
    if len(rule.message) > _MESSAGE_AT_MOST:
        raise BadRule("message", f"is longer than {_MESSAGE_AT_MOST} characters")
    for name in _NAME.findall(rule.message):
        if name not in _NAMES:
            raise BadRule("message", f"{{{name}}} is none of {', '.join(sorted(_NAMES))}")
    Hours.parse(rule.hours)
    return rule


_OVER = ("price_above", "price_moved", "spread_above")


def owner(account_id: Owner) -> Owner:
    """The account id, or `system`; raises `BadRule` for anything else."""
    if account_id != SYSTEM and (not isinstance(account_id, int) or account_id < 0):
        raise BadRule("account_id", f"{account_id!r} is neither a number from zero on nor 'system'")
    return account_id


_SENTENCES: dict[Kind, str] = {
    "price_above": "{symbol} {side} {value} is above {threshold}",
    "price_below": "{symbol} {side} {value} is below {threshold}",
    "price_moved": "{symbol} {side} has moved by {value} % within {seconds} s",
    "spread_above": "{symbol} spread {value} is wider than {threshold}",
    "price_stale": "{symbol} has had no tick for {seconds} s",
    "margin_below": "margin level {value} % is below {threshold} %",
}


def sentence(rule: AlertRule, facts: Mapping[str, str]) -> str:
    """The alert's message; names in braces that are no facts stay as they are."""
    known = {
        "id": rule.id,
        "account_id": str(rule.account_id),
        "symbol": rule.symbol,
        "side": rule.side,
        "threshold": f"{rule.threshold:.12g}",
        "seconds": f"{rule.seconds:.12g}",
        **facts,
    }
    text = rule.message or _SENTENCES[rule.kind]
    return _NAME.sub(lambda found: known.get(found[1], found[0]), text)
