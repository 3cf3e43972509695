"""Alert rules as a layer has them: put, removed, listed, re-armed, and evaluated by engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rtx.alerts.engine import AlertEngine
from rtx.alerts.rules import AlertRule, Owner, RuleState
from rtx.alerts.stats import AlertRuleStats
from rtx.alerts.store import RuleStore
from rtx.keys import Keys
from rtx.setting_groups import AlertSettings
from rtx.wire import Caller


class AlertRules:
    """Rules of all accounts; `layer.alert_rules`.

    Calls raise `Unavailable` and `ServerError`; each may be made again. Changes are in force in
    every engine within a second.
    """

    def __init__(
        self,
        caller: Caller,
        keys: Keys,
        settings: AlertSettings,
        make: Callable[[RuleStore, AlertRuleStats], AlertEngine],
    ) -> None:
        self.stats = AlertRuleStats()
        self._store = RuleStore(caller, keys, settings.per_account)
        self._make = make
        self._engines: set[AlertEngine] = set()
        caller.on_loss(self._doubt)

    async def put(self, rule: AlertRule) -> bool:
        """Store a rule, in the place of one with its id in the account, and arm it.

        False when the same rule was there: it stays as it is, fired or armed. Raises `BadRule`.
        """
        stored = await self._store.put(rule)
        self._hurry()
        return stored

    async def remove(self, account_id: Owner, id: str) -> bool:
        """Drop a rule; False when there was none."""
        removed = await self._store.remove(account_id, id)
        self._hurry()
        return removed

    async def list(self, account_id: Owner) -> list[RuleState]:
        """The rules of an account, or of `"system"`, and whether they are armed, by id."""
        return await self._store.list(account_id)

    async def rearm(self, account_id: Owner, id: str) -> bool:
        """Arm a rule, fired or not: it fires when its condition holds. False when there is none."""
        armed = await self._store.rearm(account_id, id)
        self._hurry()
        return armed

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[AlertEngine]:
        """Evaluate the rules of all accounts in this process, as any number of others may."""
        async with self._make(self._store, self.stats) as engine:
            self._engines.add(engine)
            try:
                yield engine
            finally:
                self._engines.discard(engine)

    async def close(self) -> None:
        """End the engines that nobody has left."""
        await asyncio.gather(*(engine.close() for engine in [*self._engines]))

    def _hurry(self) -> None:
        for engine in self._engines:
            engine.hurry()

    def _doubt(self) -> None:
        for engine in self._engines:
            engine.hurry(doubt=True)
