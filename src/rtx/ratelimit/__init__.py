"""Rate limits that hold in every window."""

from rtx.ratelimit.base import Decision, Id, Limit, LimitStats
from rtx.ratelimit.limits import Limits

__all__ = ["Decision", "Id", "Limit", "LimitStats", "Limits"]
