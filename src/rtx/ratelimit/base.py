"""The contract of a limit: at most so many hits in any window, and what a caller is told.

Guarantees of the exact algorithm (`sliding_log`), over all processes:

- in no window of `per` seconds, wherever it begins, are more than `limit` hits allowed, and none is
  denied that would fit;
- a hit exactly one window old no longer counts;
- a denied call takes nothing, and a hit is sent once and never again;
- time is the server's alone, so the clocks of the callers do not matter.

`sliding_counter` keeps two numbers for an id in place of a time for each hit. It is about right for
steady traffic, and lets a burst at the edge of a window through, like every counter.

`hit`, `peek` and `Limits.check` never raise because of a server. While it does not answer, the
limit's `when_down` decides, the decision is marked `degraded`, and it is counted by reason:

- `closed`: denied;
- `open`: allowed;
- `local`: by an exact limit of `limit / processes` in this process, for `local_for` seconds from
  the beginning of the outage, then denied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec

from rtx.errors import RtxError

Id: TypeAlias = int | str
"""Whom a limit counts: a user, an account, an address. 1 and "1" are the same."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Answer of a limit; true when it allows. Times in seconds from now.

    - `limit`: hits allowed in a window, for this id; `remaining`: hits left in it
    - `retry_after`: when the same call would be allowed: 0 if it was, infinite if its cost is above
      the limit
    - `reset_after`: when all hits are free
    - `policy`: name of the limit that decided; of several that were checked together, the one that
      denied for longest, else the one with the fewest hits left
    - `at`: when the server decided, by its clock: seconds since 1970, exact to the microsecond; 0
      when it was not asked
    - `degraded`: the server gave no answer, `reason` is the error's code (such as `timeout`), and
      `remaining` and `reset_after` are not known. `maybe_taken`: the hit was sent and may have been
      counted, although it was denied
    """

    allowed: bool
    limit: int
    remaining: int
    retry_after: float
    reset_after: float
    policy: str = ""
    at: float = 0.0
    degraded: bool = False
    reason: str = ""
    maybe_taken: bool = False

    def __bool__(self) -> bool:
        return self.allowed


class RateLimited(RtxError):
    """A limit denied; `decision` says which and for how long, `degraded` when nobody could know.

    Raised where there is no other way to say no: by `hold` of a concurrency limit, and by functions
    behind `limited`.
    """

    code = "rate_limited"
    retryable = True

    def __init__(self, decision: Decision) -> None:
        super().__init__(_sentence(decision))
        self.decision = decision


def _sentence(decision: Decision) -> str:
    if decision.degraded:
        why = f"cannot be counted now ({decision.reason})"
    else:
        why = f"is reached: {decision.limit}"
    if math.isinf(decision.retry_after):
        return f"the limit {decision.policy!r} {why}; it never allows so much at once"
    return f"the limit {decision.policy!r} {why}; try again in {decision.retry_after:.3f} s"


@dataclass(slots=True)
class LimitStats:
    """Counters since the layer was opened.

    `allowed` and `denied` count every decision of `hit` and `check`. `known_denied`: denied without
    asking the server, because it had said until when. `errors`: decisions without the server's
    answer, `degraded` counts them by reason, and `lost` those that it may have counted.
    """

    allowed: int = 0
    denied: int = 0
    known_denied: int = 0
    errors: int = 0
    lost: int = 0
    refunded: int = 0
    degraded: dict[str, int] = field(default_factory=dict)


class Limit(Protocol):
    """One named limit over all processes: at most `limit` hits in any `per` seconds for an id."""

    @property
    def name(self) -> str:
        """What it is called in the settings, and in a decision's `policy`."""

    @property
    def limit(self) -> int:
        """Hits allowed in a window, for ids without a limit of their own."""

    @property
    def per(self) -> float:
        """The window in seconds."""

    @property
    def stats(self) -> LimitStats:
        """Counters since the layer was opened."""

    async def hit(self, id: Id, cost: int = 1) -> Decision:
        """Take `cost` hits if they all fit, else none. Raises `ValueError` for a cost below 1."""

    async def peek(self, id: Id, cost: int = 1) -> Decision:
        """What `hit` would answer now, without taking or counting anything."""

    async def remaining(self, id: Id) -> int:
        """Hits left in the window that ends now. Raises `Unavailable`, `ServerError`."""

    async def reset(self, id: Id) -> None:
        """Forget all hits of an id. Raises `Unavailable`, `ServerError`."""

    async def refund(self, id: Id, cost: int = 1, *, of: Decision | None = None) -> int:
        """Give hits back that were taken for nothing; returns how many were.

        With `of`, the decision that took them, exactly those, if they still count. Without it, the
        oldest that count: call it within a window of the hit, or somebody else's is given back.
        Never sent twice. Raises `Unavailable`, `ServerError`.
        """
