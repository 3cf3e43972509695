"""Evaluates rules on the tick stream and fires them; any number of engines may do the same.

Every engine evaluates every rule. That costs each a look at the nearest levels per tick, whatever
the number of rules, and buys that there is no owner whose death would leave a gap: an alert is
missed only when no engine sees its tick. What an engine decides is a step to a position in the
ticks (see `rtx.alerts.book`), and the server takes each step once (see `rtx.alerts.owed`). Margins,
which cost reads, are taken in turns.

Rules are read twice a second if their version has changed, all of them again after a connection
broke: another server may know less than the last one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from types import TracebackType

from rtx.alerts.book import SymbolBook
from rtx.alerts.margin import MarginWatch
from rtx.alerts.owed import Owed
from rtx.alerts.rules import AlertRule, sentence
from rtx.alerts.silence import Silence
from rtx.alerts.slot import Slot, State, Step
from rtx.alerts.stats import AlertRuleStats
from rtx.alerts.store import RuleStore
from rtx.cache import PriceCache, SymbolCache
from rtx.errors import RtxError
from rtx.marking import Marked
from rtx.models import Alert, Tick
from rtx.pubsub import Gap, Journal, MarketData, Subscription
from rtx.setting_groups import AlertSettings
from rtx.wire import Backoff

_log = logging.getLogger("rtx.alerts")

_LOOK_EVERY = 0.5
_READ_ALL_EVERY = 300.0
"""Seconds after which all are read again, for those whose writer died before he said so."""

_READ_AT_ONCE = 64


class AlertEngine:
    """Entered it evaluates, until it is left; made by `layer.alert_rules.engine()`."""

    def __init__(
        self,
        store: RuleStore,
        market_data: MarketData,
        alerts: Journal[Alert],
        marked: Marked,
        symbols: SymbolCache,
        prices: PriceCache,
        settings: AlertSettings,
        stats: AlertRuleStats,
        price_ttl: float,
    ) -> None:
        self._store = store
        self._market_data = market_data
        self._stats = stats
        self._price_ttl = price_ttl
        self._slots: dict[str, dict[str, Slot]] = {}
        self._books: dict[str, _Followed] = {}
        self._owed = Owed(store, alerts, stats, settings.owed, self._adopt)
        self._margins = MarginWatch(
            store, marked, symbols, stats, settings.margin_every, self._decide, self._follow
        )
        self._silence = Silence(prices, self._decide)
        self._version: bytes | None = None
        self._versions: dict[str, bytes] = {}
        self._read_all_at = 0.0
        self._unsettled = False
        """An account is to be read again, although it has not changed."""
        self._news = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._read = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> AlertEngine:
        await self._look()
        for name, run in (
            ("watch", self._watch),
            ("owed", self._owed.run),
            ("margins", self._margins.run),
            ("silence", self._silence.run),
        ):
            self._tasks.append(asyncio.create_task(_kept(name, run), name=f"rtx-alerts-{name}"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all tasks; what is owed is given up, and other engines have it too."""
        followed = (followed.task for followed in self._books.values())
        tasks = [*self._tasks, *followed, *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slots in self._slots.values():
            self._stats.rules -= len(slots)
            for slot in slots.values():
                self._owed.forget(slot)
        self._slots.clear()

    async def ready(self) -> None:
        """Return when the rules have been read and their symbols' ticks arrive."""
        await self._read.wait()
        for followed in list(self._books.values()):
            await followed.ready.wait()

    def hurry(self, *, doubt: bool = False) -> None:
        """Look for changed rules now; with `doubt` read all of them, as after a failover."""
        if doubt:
            self._read_all_at = 0.0
            self._owed.hurry()
        self._news.set()

    # --- rules -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            if not await self._look():
                await asyncio.sleep(_LOOK_EVERY)

    async def _look(self) -> bool:
        """Read what has changed; False when that was not to be had."""
        try:
            unsettled, self._unsettled = self._unsettled, False
            version = await self._store.version()
            everything = monotonic() >= self._read_all_at
            if version == self._version and not everything and not unsettled:
                return True
            if everything:
                self._read_all_at = monotonic() + _READ_ALL_EVERY
            accounts = await self._store.accounts()
            changed = [
                name
                for name, at in accounts.items()
                if everything or self._versions.get(name) != at
            ]
            for start in range(0, len(changed), _READ_AT_ONCE):
                some = changed[start : start + _READ_AT_ONCE]
                await asyncio.gather(*(self._read_account(n, accounts[n]) for n in some))
            for name in self._slots.keys() - accounts.keys():  # the server was emptied
                self._apply(name, {}, monotonic())
            self._version = version
        except RtxError as error:
            self._version, self._read_all_at = None, 0.0
            _log.debug("the alert rules cannot be read: %s", error)
            return False
        self._follow()
        self._read.set()
        return True

    async def _read_account(self, name: str, version: bytes) -> None:
        asked = monotonic()
        found, unreadable = await self._store.read(int(name) if name.isdecimal() else name)
        self._stats.unreadable += unreadable
        self._stats.reloads += 1
        if self._apply(name, found, asked):
            self._versions[name] = version
        else:
            self._forget(name)

    def _forget(self, account: str) -> None:
        """Read an account again at the next look."""
        self._versions.pop(account, None)
        self._unsettled = True

    def _apply(
        self, account: str, found: Mapping[str, tuple[AlertRule, State]], asked: float
    ) -> bool:
        """Take an account's rules as they are; False where a step of ours crossed the reading."""
        slots = self._slots.setdefault(account, {})
        settled = True
        for id in [id for id in slots if id not in found]:
            self._drop(slots.pop(id))
        for id, (rule, state) in found.items():
            slot = slots.get(id)
            if slot is None or slot.rule != rule:
                if slot is not None:
                    self._drop(slot)
                slots[id] = slot = Slot(rule, account, state)
                self._stats.rules += 1
                self._place(slot)
            elif slot.revision != state.revision:
                self._owed.forget(slot)
                slot.done.clear()
                self._change(slot, state)
            elif slot in self._owed:
                continue  # the answers to its steps will tell
            elif slot.touched >= asked:
                settled = False
            elif state.position > slot.position:
                self._change(slot, state)
            elif state.position < slot.position:
                self._repeat(slot, state)
        if not slots:
            del self._slots[account]
        return settled

    def _repeat(self, slot: Slot, state: State) -> None:
        """The server has forgotten what it had: it is another one now. Tell it again."""
        lost = [step for step in slot.done if step.position > state.position]
        if lost and (lost[0].alert is not None) is state.armed:
            self._owed.add(slot, *lost)
        else:
            self._change(slot, state)

    def _place(self, slot: Slot) -> None:
        if slot.rule.kind == "margin_below":
            self._margins.add(slot)
            return
        followed = self._books.get(slot.rule.symbol)
        book = followed.book if followed else self._open_book(slot.rule.symbol)
        book.add(slot, monotonic())
        if slot.rule.kind == "price_stale":
            self._silence.add(slot, book)

    def _drop(self, slot: Slot) -> None:
        slot.gone = True
        self._stats.rules -= 1
        self._owed.forget(slot)
        if slot.rule.kind == "margin_below":
            self._margins.remove(slot)
        elif (followed := self._books.get(slot.rule.symbol)) is not None:
            followed.book.remove(slot)

    def _change(self, slot: Slot, state: State) -> None:
        """Take the server's state for ours."""
        if slot.rule.kind == "margin_below":
            slot.adopt(state)
            self._margins.look(slot.account)
        elif (followed := self._books.get(slot.rule.symbol)) is not None:
            followed.book.changed(slot)
            slot.adopt(state)
            followed.book.watch(slot, monotonic())

    # --- ticks -----------------------------------------------------------------------------

    def _open_book(self, symbol: str) -> SymbolBook:
        book = SymbolBook(symbol, self._decide, self._stats, self._price_ttl)
        ready = asyncio.Event()
        task = asyncio.create_task(self._read_ticks(book, ready), name=f"rtx-alerts-{symbol}")
        self._books[symbol] = _Followed(book, task, ready)
        return book

    def _follow(self) -> None:
        """Follow the symbols that are needed now, and no others."""
        for symbol in self._margins.symbols:
            if symbol not in self._books:
                self._open_book(symbol)
        margins = set(self._margins.symbols)
        for symbol, followed in list(self._books.items()):
            if not followed.book.slots and symbol not in margins:
                followed.task.cancel()
                self._ending.add(followed.task)
                followed.task.add_done_callback(self._ending.discard)
                del self._books[symbol]

    async def _read_ticks(self, book: SymbolBook, ready: asyncio.Event) -> None:
        backoff = Backoff()
        while True:
            try:
                async with self._market_data.subscribe(book.symbol) as subscription:
                    await subscription.ready()
                    backoff.reset()
                    ready.set()
                    await self._take(book, subscription)
            except RtxError as error:
                _log.warning("the ticks of %s cannot be followed: %s", book.symbol, error)
            self._broken(book)
            await backoff.rest()

    async def _take(self, book: SymbolBook, subscription: Subscription[Tick]) -> None:
        async for items in subscription.batches():
            now = monotonic()
            for item in items:
                if isinstance(item, Gap):
                    self._broken(book)
                else:
                    book.take(item, now)
            self._margins.price_moved(book.symbol)

    def _broken(self, book: SymbolBook) -> None:
        self._stats.gaps += 1
        if book.moving:
            _log.info("ticks of %s were missed: its windows of moves begin anew", book.symbol)
        book.restart()

    # --- steps -----------------------------------------------------------------------------

    def _decide(self, slot: Slot, position: int, facts: Mapping[str, str]) -> None:
        alert = None
        if slot.armed:
            rule = slot.rule
            alert = Alert(rule.kind, rule.severity, sentence(rule, facts), rule=rule.id)
        slot.armed = not slot.armed
        slot.position = position
        self._owed.add(slot, Step(slot.revision, position, alert))

    def _adopt(self, slot: Slot, state: State | None) -> None:
        if slot.gone:
            return
        if state is not None:
            self._change(slot, state)
        else:
            self._forget(slot.account)
            self._news.set()


class _Followed:
    """A symbol's book, and the task that reads its ticks."""

    __slots__ = ("book", "ready", "task")

    def __init__(self, book: SymbolBook, task: asyncio.Task[None], ready: asyncio.Event) -> None:
        self.book = book
        self.task = task
        self.ready = ready


async def _kept(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a task again that has failed, which it should not; its error goes to the log."""
    backoff = Backoff()
    while True:
        try:
            await run()
        except Exception:
            _log.exception("the task %s of the alert engine has failed and is begun anew", name)
        await backoff.rest()
