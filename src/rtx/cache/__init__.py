"""Typed caches in front of the system of record."""

from rtx.cache.accounts import AccountCache, PositionCache, Updates
from rtx.cache.base import Cache
from rtx.cache.breaker import Breaker, BreakerStats
from rtx.cache.contract import CacheStats, Edit, Lookup
from rtx.cache.entities import PriceCache, SymbolCache
from rtx.cache.loading import Loader
from rtx.cache.sessions import SessionCache

__all__ = [
    "AccountCache",
    "Breaker",
    "BreakerStats",
    "Cache",
    "CacheStats",
    "Edit",
    "Loader",
    "Lookup",
    "PositionCache",
    "PriceCache",
    "SessionCache",
    "SymbolCache",
    "Updates",
]
