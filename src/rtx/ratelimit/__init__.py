"""Rate limits that hold in every window, and places for so many at once."""

from rtx.ratelimit.base import Decision, Id, Limit, LimitStats, RateLimited
from rtx.ratelimit.concurrency import Concurrency, NamedConcurrency
from rtx.ratelimit.decorator import limited
from rtx.ratelimit.lease import Lease
from rtx.ratelimit.limits import Limits, Wanted

__all__ = [
    "Concurrency",
    "Decision",
    "Id",
    "Lease",
    "Limit",
    "LimitStats",
    "Limits",
    "NamedConcurrency",
    "RateLimited",
    "Wanted",
    "limited",
]
