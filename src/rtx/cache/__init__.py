"""Typed caches in front of the system of record."""

from rtx.cache.accounts import AccountCache, PositionCache
from rtx.cache.base import Cache, CacheStats, Loader
from rtx.cache.entities import PriceCache, SymbolCache
from rtx.cache.sessions import SessionCache

__all__ = [
    "AccountCache",
    "Cache",
    "CacheStats",
    "Loader",
    "PositionCache",
    "PriceCache",
    "SessionCache",
    "SymbolCache",
]
