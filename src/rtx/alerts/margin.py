"""Margin levels: accounts are valued anew when a price of theirs has moved.

The processes take turns. Whoever gets the account's turn values it for all, and the others wait
until the turn is over; an account has been looked at after its last price move by whoever saw that
move, so that a process that dies leaves nothing undone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from time import monotonic

from rtx.alerts.book import Decide
from rtx.alerts.slot import Slot, position_of
from rtx.alerts.stats import AlertRuleStats
from rtx.alerts.store import RuleStore
from rtx.cache import SymbolCache
from rtx.errors import RtxError
from rtx.marking import Marked, MarkedAccount, valuation

_log = logging.getLogger("rtx.alerts")

_AT_ONCE = 32
_LOOK_AGAIN = 5.0
"""Seconds after which an account is looked at without a price move, because of its trades."""


class MarginWatch:
    """Checks the accounts that have margin rules, each at most once in `every` seconds.

    `follow` is told which symbols are needed now.
    """

    def __init__(
        self,
        store: RuleStore,
        marked: Marked,
        symbols: SymbolCache,
        stats: AlertRuleStats,
        every: float,
        decide: Decide,
        follow: Callable[[], None],
    ) -> None:
        self._store = store
        self._marked = marked
        self._specs = symbols
        self._stats = stats
        self._every = every
        self._decide = decide
        self._follow = follow
        self._slots: dict[str, set[Slot]] = {}
        self._needs: dict[str, frozenset[str]] = {}
        self._holders: dict[str, set[str]] = {}
        self._dirty: set[str] = set()
        self._next: dict[str, float] = {}
        self._looked: dict[str, float] = {}
        self._moved = asyncio.Event()

    @property
    def symbols(self) -> Iterable[str]:
        """Whose prices decide over the accounts."""
        return self._holders.keys()

    def add(self, slot: Slot) -> None:
        """Follow a margin rule."""
        self._slots.setdefault(slot.account, set()).add(slot)
        self._needs.setdefault(slot.account, frozenset())
        self.look(slot.account)

    def remove(self, slot: Slot) -> None:
        """Follow it no more."""
        slots = self._slots.get(slot.account, set())
        slots.discard(slot)
        if not slots:
            self._slots.pop(slot.account, None)
            self._need(slot.account, frozenset())
            for table in (self._needs, self._next, self._looked):
                table.pop(slot.account, None)
            self._dirty.discard(slot.account)

    def look(self, account: str) -> None:
        """Check an account as soon as it may be."""
        self._dirty.add(account)
        self._moved.set()

    def price_moved(self, symbol: str) -> None:
        """Check all whose value has changed with it."""
        holders = self._holders.get(symbol)
        if holders and not holders <= self._dirty:
            self._dirty |= holders
            self._moved.set()

    async def run(self) -> None:
        """Check until cancelled."""
        scanned = 0.0
        while True:
            now = monotonic()
            if now - scanned >= 1.0:
                scanned = now
                self._dirty |= {
                    account
                    for account in self._slots
                    if now - self._looked.get(account, -_LOOK_AGAIN) >= _LOOK_AGAIN
                }
            due = [name for name in self._dirty if now >= self._next.get(name, 0.0)][:_AT_ONCE]
            if due:
                await asyncio.gather(*map(self._check, due))
                continue
            self._moved.clear()
            pause = min((self._next.get(name, 0.0) - now for name in self._dirty), default=1.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(pause, 0.01), 1.0)):
                    await self._moved.wait()

    async def _check(self, account: str) -> None:
        self._next[account] = monotonic() + self._every
        try:
            if not await self._store.take_turn(account, self._every):
                self._next[account] = monotonic() + self._every / 4
                return  # and looked at again when it may be
            self._dirty.discard(account)
            self._looked[account] = monotonic()
            found = await self._marked.account(int(account))
            self._stats.margin_checks += 1
            if found is not None and account in self._slots:
                await self._watch_prices(account, found)
                self._judge(account, found)
        except RtxError as error:
            _log.debug("the margin of account %s cannot be checked: %s", account, error)
            self._dirty.add(account)

    async def _watch_prices(self, account: str, found: MarkedAccount) -> None:
        held = frozenset(marked.position.symbol for marked in found.positions)
        if held <= self._needs[account] and (held or not self._needs[account]):
            return
        specs = await self._specs.get_many(held)
        converting = {
            name for spec in specs.values() for name in valuation.conversion_symbols(spec.quote)
        }
        if account in self._slots:
            self._need(account, held | converting)
            self._follow()

    def _need(self, account: str, symbols: frozenset[str]) -> None:
        for symbol in self._needs.get(account, frozenset()) - symbols:
            holders = self._holders[symbol]
            holders.discard(account)
            if not holders:
                del self._holders[symbol]
        for symbol in symbols:
            self._holders.setdefault(symbol, set()).add(account)
        self._needs[account] = symbols

    def _judge(self, account: str, found: MarkedAccount) -> None:
        if found.stale or not found.consistent:
            self._stats.unvalued += 1
            return
        level = valuation.level(found.account.equity, found.account.margin)
        times = [marked.price_time for marked in found.positions if marked.price_time is not None]
        for slot in self._slots[account]:
            # Without positions nothing has a time, and the level is none: what is next will do.
            position = position_of(max(times), 0) if times else slot.position + 1
            if position <= slot.position:
                continue
            if slot.armed:
                passed = level is not None and level < Decimal(repr(slot.fire))
            else:
                passed = slot.automatic and (level is None or level > Decimal(repr(slot.clear)))
                passed = passed and (not times or max(times) >= slot.due)
            if passed:
                self._decide(slot, position, {"value": str(level)})
