"""One named limit: asks the server, unless it is known what that would say, or it is away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping
from time import monotonic
from typing import cast

from rtx.errors import RtxError, ServerError, Unavailable
from rtx.keys import Keys
from rtx.ratelimit.base import Decision, Id, LimitStats
from rtx.ratelimit.decider import Decider
from rtx.ratelimit.known import KnownDenial, KnownDenials
from rtx.ratelimit.local import LocalLog
from rtx.ratelimit.outages import Outage, Outages
from rtx.ratelimit.rules import FOREIGN, NEVER, NOT_TAKEN, TAKEN, micros, rule
from rtx.setting_groups import LimiterSettings, LimitSettings
from rtx.wire import Caller, Script

_YIELD_EVERY = 64  # a loop that hits until it is allowed must not starve the others
_RETRY_DOWN = 1.0  # seconds: what a caller is told while nobody knows
_TAKEN, _unpack = TAKEN.size, TAKEN.unpack
_FOREIGN = Outage("wrong_type", -math.inf, -math.inf)  # of one key, and for good


class NamedLimit:
    """Implements `Limit`; made by `Limits`. Its numbers may change at any time."""

    def __init__(
        self,
        name: str,
        settings: LimitSettings,
        limiter: LimiterSettings,
        keys: Keys,
        caller: Caller,
        decider: Decider,
        outages: Outages,
    ) -> None:
        self._name = name
        self._stats = LimitStats()
        self._limiter = limiter
        self._prefix = keys.limit(name, "")
        self._caller = caller
        self._decider = decider
        self._outages = outages
        self._refund = Script.load("rtx.ratelimit", "refund")
        self._known = KnownDenials()
        self._local = LocalLog()
        self.epoch = 0
        """Raised when hits were set free; a denial from before then is not remembered."""
        self.redefine(settings, {})

    @property
    def name(self) -> str:
        return self._name

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def per(self) -> float:
        return self._per

    @property
    def stats(self) -> LimitStats:
        return self._stats

    # --- what everybody calls --------------------------------------------------------------

    async def hit(self, id: Id, cost: int = 1) -> Decision:
        denied = self._known.get(id)
        if denied is not None:
            for_cost, until, retry_at, reset_at, limit, left = denied
            now = monotonic()
            if now < until and for_cost == cost:
                stats = self._stats
                stats.denied += 1
                stats.known_denied += 1
                if not stats.known_denied % _YIELD_EVERY:
                    await asyncio.sleep(0)
                return Decision(False, limit, left, retry_at - now, reset_at - now, self._name)
        if cost < 1:
            raise bad_cost(cost)
        key = f"{self._prefix}{id}"
        away = self._outages.found
        if away and (outage := self._outages.stop(key)) is not None:
            return self.count(self.without(id, cost, outage))
        limit, message = self._limit, self._usual
        if cost != 1 or self.overrides:
            limit = self.limit_of(id)
            message = rule(self.settings, limit, cost)
        asked, epoch, decider = monotonic(), self.epoch, self._decider
        # On the way of every hit: each call that is saved here is some percent of its latency.
        answer: Awaitable[bytes]
        if decider.in_flight and decider.gathers:
            answer = decider.gather(key, message)
        else:
            answer = decider.call("EVALSHA", decider.sha, 1, key, message, timeout=decider.deadline)
        decider.in_flight += 1
        try:
            try:
                record = await answer
            except ServerError as error:
                record = await decider.again(error, key, message)
        except RtxError as error:
            return self.count(self.failed(id, cost, error))
        finally:
            decider.in_flight -= 1
        if away:
            self._outages.answered(key)
        if len(record) == _TAKEN:
            at, left = _unpack(record)
            self._stats.allowed += 1
            return Decision(True, limit, left, 0.0, self._per, self._name, at / 1e6)
        return self.count(self.judge(id, cost, limit, record, asked, epoch))

    async def peek(self, id: Id, cost: int = 1) -> Decision:
        if cost < 1:
            raise bad_cost(cost)
        try:
            return await self._look(id, cost)
        except RtxError as error:
            decision = self.failed(id, cost, error, take=False)
            self._count_degraded(decision)
            return decision

    async def remaining(self, id: Id) -> int:
        return (await self._look(id, 1)).remaining

    async def reset(self, id: Id) -> None:
        key, deadline = self.key_of(id), self._limiter.deadline
        await self._caller.execute("DEL", key, idempotent=True, timeout=deadline)
        self._set_free(id)

    async def refund(self, id: Id, cost: int = 1, *, of: Decision | None = None) -> int:
        if cost < 1:
            raise bad_cost(cost)
        if of is not None and not (of.allowed and of.at):
            return 0
        at = -1 if of is None else round(of.at * 1e6)
        try:
            back = await self._refund.run(
                self._caller,
                [self.key_of(id)],
                *(cost, at, micros(self.settings)),
                timeout=self._limiter.deadline,
            )
        finally:
            self._set_free(id)
        self._stats.refunded += cast(int, back)
        return cast(int, back)

    # --- what several limits together are made of --------------------------------------------

    def redefine(self, settings: LimitSettings, overrides: Mapping[str, int]) -> None:
        """Take over other numbers; hits that were counted stay counted."""
        self.settings = settings
        self.overrides = overrides
        self._limit = settings.limit
        self._per = settings.per
        self._usual = rule(settings, settings.limit, 1)
        self.epoch += 1
        self._known.clear()

    def limit_of(self, id: Id) -> int:
        """The limit in force for an id."""
        return self.overrides.get(str(id), self._limit)

    def key_of(self, id: Id) -> str:
        """The key that counts an id."""
        return f"{self._prefix}{id}"

    def known(self, id: Id, cost: int) -> Decision | None:
        """The denial that the server would surely repeat, if there is one."""
        denied, now = self._known.get(id), monotonic()
        if denied is None or now >= denied.until or denied.cost != cost:
            return None
        wait, reset = denied.retry_at - now, denied.reset_at - now
        return Decision(False, denied.limit, denied.remaining, wait, reset, self._name)

    def judge(
        self, id: Id, cost: int, limit: int, record: bytes, asked: float, epoch: int
    ) -> Decision:
        """The decision that a record tells; a denial is remembered.

        `asked` and `epoch` are of the moment when the question was sent.
        """
        if len(record) == _TAKEN:
            at, left = _unpack(record)
            return Decision(True, limit, left, 0.0, self._per, self._name, at / 1e6)
        at, _, wait, left, reset = NOT_TAKEN.unpack(record)
        if wait == FOREIGN:
            return self.without(id, cost, _FOREIGN)
        if wait == NEVER or wait == 0:
            never = math.inf if wait else 0.0
            return Decision(not wait, limit, left, never, reset / 1e6, self._name, at / 1e6)
        wait, reset = wait / 1e6, reset / 1e6
        if epoch == self.epoch:
            now = monotonic()
            denied = KnownDenial(cost, asked + wait, now + wait, now + reset, limit, left)
            self._known.note(id, denied)
        return Decision(False, limit, left, wait, reset, self._name, at / 1e6)

    def failed(self, id: Id, cost: int, error: RtxError, *, take: bool = True) -> Decision:
        """The decision for a question that this error came back for."""
        lost = take and isinstance(error, Unavailable) and error.maybe_applied
        outage = self._outages.failed(self.key_of(id), error)
        return self.without(id, cost, outage, lost=lost, take=take)

    def without(
        self, id: Id, cost: int, outage: Outage, *, lost: bool = False, take: bool = True
    ) -> Decision:
        """The decision without the server, as `when_down` has it."""
        limit, allowed, left = self.limit_of(id), False, 0
        wait = _RETRY_DOWN if cost <= limit else math.inf
        if self.settings.when_down == "open":
            allowed, left = cost <= limit, limit
        elif self.settings.when_down == "local":
            now = monotonic()
            if now - outage.since < self._limiter.local_for:
                share = limit // self._limiter.processes
                left, found = self._local.look(id, cost, share, self.per, now)
                allowed = found == 0 and (not take or self._local.take(id, cost, self.per, now))
                left -= cost if allowed and take else 0
                wait = min(found, wait) if found else wait
        if allowed:
            wait = 0.0
        reason, name = outage.reason, self._name
        return Decision(allowed, limit, left, wait, 0.0, name, 0.0, True, reason, lost)

    def give_back_local(self, id: Id, cost: int) -> None:
        """Undo what `without` has just taken."""
        self._local.give_back(id, cost)

    def count(self, decision: Decision) -> Decision:
        """Count a decision of this limit, and return it."""
        if decision.allowed:
            self._stats.allowed += 1
        else:
            self._stats.denied += 1
        if decision.degraded:
            self._count_degraded(decision)
        return decision

    # --- within ----------------------------------------------------------------------------

    async def _look(self, id: Id, cost: int) -> Decision:
        limit, key = self.limit_of(id), self.key_of(id)
        asked, epoch = monotonic(), self.epoch
        message = rule(self.settings, limit, cost, take=False)
        record = await self._decider.decide_together((key,), (message,))
        self._outages.answered(key)
        return self.judge(id, cost, limit, record, asked, epoch)

    def _set_free(self, id: Id) -> None:
        self.epoch += 1
        self._known.forget(id)

    def _count_degraded(self, decision: Decision) -> None:
        stats, reason = self._stats, decision.reason
        stats.errors += 1
        stats.lost += decision.maybe_taken
        stats.degraded[reason] = stats.degraded.get(reason, 0) + 1


def bad_cost(cost: int) -> ValueError:
    """The error for a cost below 1."""
    return ValueError(f"the cost of a hit is 1 or more, not {cost}")
