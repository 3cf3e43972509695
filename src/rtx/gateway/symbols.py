"""Which symbols there are: those of the database, and those this process has had a price of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from rtx.errors import DatabaseUnavailable
from rtx.layer import DataLayer

_log = logging.getLogger("rtx.gateway")

_REFRESH = 60.0


class KnownSymbols:
    """Names of symbols; whoever gets a price says so with `saw`."""

    def __init__(self, layer: DataLayer) -> None:
        self._layer = layer
        self._seen: set[str] = set()
        self._listed: frozenset[str] = frozenset()
        self._due = 0.0
        self._lock = asyncio.Lock()

    def saw(self, symbols: Iterable[str]) -> None:
        """Remember that there were prices of them."""
        self._seen.update(symbols)

    async def exists(self, symbol: str) -> bool:
        """Whether it has a spec, or had a price here. Raises as `layer.symbols.get`."""
        return symbol in self._seen or await self._layer.symbols.get(symbol) is not None

    async def names(self) -> list[str]:
        """All of them, sorted; the database's list is at most a minute old."""
        await self._refresh()
        return sorted(self._listed | self._seen)

    async def _refresh(self) -> None:
        database = self._layer.database
        if database is None:
            return
        async with self._lock:
            now = time.monotonic()
            if now < self._due:
                return
            self._due = now + _REFRESH
            try:
                self._listed = frozenset(await database.symbols(None))
            except DatabaseUnavailable as error:
                self._due = now + 1.0
                _log.warning("the list of symbols cannot be read, the last one is used: %s", error)
