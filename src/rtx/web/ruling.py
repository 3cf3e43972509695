"""What limits say of a request, as HTTP says it.

Fields and problem types are those of draft-ietf-httpapi-ratelimit-headers-11 (23 May 2026), the
body is RFC 9457's. `RateLimit-Policy: "orders";q=10;w=1` is what a client may do, and
`RateLimit: "orders";r=3;t=1` what is left of it for how long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from rtx.ratelimit import Decision

PROBLEM_JSON = "application/problem+json"
UNCOUNTED = "X-RTX-Uncounted"
"""The field that names the limits that let a request pass without counting it."""

LONGEST_WAIT = 86_400
"""Seconds that a client is asked to wait for what a limit will never allow."""

_TYPES = "https://iana.org/assignments/http-problem-types#"
_EXCEEDED = "Request cannot be satisfied as assigned quota has been exceeded"
_REDUCED = "Request cannot be satisfied due to temporary server capacity constraints"
_PLAIN = "".join(map(chr, range(32, 127))).translate({34: None, 37: None, 92: None})


class Policy(NamedTuple):
    """A limit as clients are told of it; `per` in seconds, None for so many at once."""

    name: str
    quota: int
    per: float | None = None


class Ruling(msgspec.Struct, frozen=True):
    """What the limits of a request decided; true when all allow.

    `policies` are all that were asked for, `decisions` those that are known. Without decisions
    nobody could decide, and the request is denied.
    """

    policies: tuple[Policy, ...]
    decisions: tuple[Decision, ...]

    def __bool__(self) -> bool:
        return bool(self.decisions) and all(self.decisions)

    @property
    def degraded(self) -> bool:
        """Whether a limit did not count the request, because its server was away."""
        return any(decision.degraded for decision in self.decisions)

    @property
    def denied(self) -> list[Decision]:
        """The decisions that deny because the limit is reached."""
        return [decision for decision in self.decisions if not (decision or decision.degraded)]

    @property
    def violated(self) -> list[str]:
        """Names of the limits that are reached; if none is, of those that could not be asked."""
        denied = self.denied or [decision for decision in self.decisions if not decision]
        return [decision.policy for decision in denied]

    @property
    def status(self) -> int:
        """429 when a limit is reached, 503 when a limit that is closed then could not be asked."""
        return 200 if self else 429 if self.denied else 503

    @property
    def retry_after(self) -> int:
        """Whole seconds after which the same request would be allowed; 0 if it was."""
        if self:
            return 0
        waits = [decision.retry_after for decision in self.decisions if not decision]
        return whole_seconds(max(waits, default=1.0))

    def headers(self) -> dict[str, str]:
        """The fields of the response, allowed or not."""
        found: dict[str, str] = {}
        if self.policies:
            found["RateLimit-Policy"] = ", ".join(map(_policy, self.policies))
        pers = {policy.name: policy.per for policy in self.policies}
        left = [
            _left(decision, pers.get(decision.policy))
            for decision in self.decisions
            if not decision.degraded
        ]
        if left:
            found["RateLimit"] = ", ".join(left)
        passed = [each.policy for each in self.decisions if each.degraded and each.allowed]
        if self and passed:
            found[UNCOUNTED] = ", ".join(map(_string, passed))
        if not self:
            found["Retry-After"] = str(self.retry_after)
        return found

    def problem(self) -> dict[str, object]:
        """The body of a denial: type, title, status, detail and the policies that denied."""
        return problem_of(self.status, self.detail(), self.violated)

    def counted_only(self) -> Ruling:
        """The same where nothing may pass uncounted, whatever `when_down` says."""
        strict = tuple(
            msgspec.structs.replace(decision, allowed=False, retry_after=1.0)
            if decision.degraded and decision.allowed
            else decision
            for decision in self.decisions
        )
        return Ruling(self.policies, strict)

    def detail(self) -> str:
        """A sentence for people: what denied, and when to try again."""
        if not self.denied:
            reasons = sorted({d.reason for d in self.decisions if d.degraded and not d})
            why = f" ({', '.join(reasons)})" if reasons else ""
            return f"requests cannot be counted now{why}; try again in {self.retry_after} s"
        pers = {policy.name: policy.per for policy in self.policies}
        longest = max(self.denied, key=lambda decision: decision.retry_after)
        per = pers.get(longest.policy)
        what = f"{longest.limit} at once" if per is None else f"{longest.limit} in {per:g} s"
        if math.isinf(longest.retry_after):
            return f"it counts for more than {longest.policy} ever allows, which is {what}"
        return f"{longest.policy} allows {what}; try again in {longest.retry_after:.3f} s"


UNDECIDED = Ruling((), ())
"""What is ruled when the limiter itself has failed."""


def problem_of(status: int, detail: str, violated: Sequence[str]) -> dict[str, object]:
    """The problem of a denial: 429 for a limit that is reached, 503 for one that is away."""
    reached = status == 429
    return {
        "type": f"{_TYPES}{'quota-exceeded' if reached else 'temporary-reduced-capacity'}",
        "title": _EXCEEDED if reached else _REDUCED,
        "status": status,
        "detail": detail,
        "violated-policies": list(violated),
    }


def whole_seconds(seconds: float) -> int:
    """Seconds as HTTP has them: whole, rounded up, at least 1 and at most a day."""
    return max(1, math.ceil(min(seconds, LONGEST_WAIT)))


def _string(name: str) -> str:
    """A structured field's string, which has room for printable ASCII."""
    return f'"{quote(name, safe=_PLAIN)}"'


def _policy(policy: Policy) -> str:
    kind = ';qu="concurrent-requests"' if policy.per is None else f";w={whole_seconds(policy.per)}"
    return f"{_string(policy.name)};q={policy.quota}{kind}"


def _left(decision: Decision, per: float | None) -> str:
    item = f"{_string(decision.policy)};r={decision.remaining}"
    if not decision:
        return f"{item};t={whole_seconds(decision.retry_after)}"
    return item if per is None else f"{item};t={whole_seconds(decision.reset_after or per)}"
