"""Rate limits that hold in every window."""

from rtx.ratelimit.base import Decision, LimitStats
from rtx.ratelimit.sliding_log import Limit, Limits

__all__ = ["Decision", "Limit", "LimitStats", "Limits"]
