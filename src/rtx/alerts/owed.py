"""Steps on their way to the server: each is tried until the server has it, and none is made twice.

A firing is three calls: what does the server know, publish with a key, mark as fired. The key is
the rule's revision and the number of its firings, so that of all processes that come to the same
firing one publishes, whatever dies in between, and the others see that it is done. Steps of a rule
go one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

from rtx.alerts.slot import Slot, State, Step
from rtx.alerts.stats import AlertRuleStats
from rtx.alerts.store import RuleStore
from rtx.errors import RtxError
from rtx.models import Alert
from rtx.pubsub import Journal
from rtx.wire import Backoff

_log = logging.getLogger("rtx.alerts")

_AT_ONCE = 32
_PUBLISH_FOR = 2.0


class Owed:
    """Sends steps in the background, at most `at_most` of them waiting; the oldest rule gives way.

    `adopt` is called with the server's state where that is ahead of the rule's; with None where
    the server has another revision of the rule, or none.
    """

    def __init__(
        self,
        store: RuleStore,
        alerts: Journal[Alert],
        stats: AlertRuleStats,
        at_most: int,
        adopt: Callable[[Slot, State | None], None],
    ) -> None:
        self._store = store
        self._alerts = alerts
        self._stats = stats
        self._at_most = at_most
        self._adopt = adopt
        self._steps: dict[Slot, deque[Step]] = {}
        self._count = 0
        self._queue: asyncio.Queue[Slot] = asyncio.Queue()  # each rule is in it once at most
        self._queued: set[Slot] = set()
        self._backoffs = [Backoff() for _ in range(_AT_ONCE)]
        self._told = False

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._steps

    def add(self, slot: Slot, *steps: Step) -> None:
        """Let a rule's steps be made."""
        while self._count + len(steps) > self._at_most and self._steps:
            self._stats.dropped += self.forget(next(iter(self._steps)))
        self._steps.setdefault(slot, deque()).extend(steps)
        self._add(len(steps))
        if slot not in self._queued:
            self._queued.add(slot)
            self._queue.put_nowait(slot)

    def forget(self, slot: Slot) -> int:
        """Make none of a rule's steps any more; how many these were."""
        count = len(self._steps.pop(slot, ()))
        self._add(-count)
        return count

    def hurry(self) -> None:
        """Try now rather than after a pause."""
        for backoff in self._backoffs:
            backoff.hurry()

    async def run(self) -> None:
        """Send until cancelled."""
        self._queue, self._queued = asyncio.Queue(), set(self._steps)
        for slot in self._queued:
            self._queue.put_nowait(slot)
        async with asyncio.TaskGroup() as workers:
            for backoff in self._backoffs:
                workers.create_task(self._work(backoff), name="rtx-alerts-send")

    async def _work(self, backoff: Backoff) -> None:
        while True:
            slot = await self._queue.get()
            sent = await self._send(slot)
            if slot in self._steps:
                self._queue.put_nowait(slot)  # behind the others, which may be on another node
            else:
                self._queued.discard(slot)
            if sent:
                backoff.reset()
            else:
                await backoff.rest()

    async def _send(self, slot: Slot) -> bool:
        """Make the first step of a rule; False when it has to be tried again."""
        steps = self._steps.get(slot)
        if not steps:
            return True
        step = steps[0]
        try:
            done, state = await self._make(slot, step)
        except (RtxError, ValueError) as error:
            self._stats.failed += 1
            # Once for an outage; what is owed is in the metrics.
            level = logging.DEBUG if self._told else logging.WARNING
            _log.log(level, "%s of account %s waits: %s", slot.rule.id, slot.account, error)
            self._told = True
            return False
        self._told = False
        slot.touched = monotonic()
        if step.alert is None:
            self._stats.rearmed += done
        else:
            self._stats.fired += done
            self._stats.refused += not done
        if self._steps.get(slot) is not steps:
            return True  # forgotten meanwhile
        if state is None or state.revision != step.revision:
            self.forget(slot)
            self._adopt(slot, None)
            return True
        steps.popleft()
        self._add(-1)
        if state.armed is (step.alert is None):
            slot.done.append(step)
        if not steps:
            del self._steps[slot]
            if not done and (state.armed, state.position) != (slot.armed, slot.position):
                self._adopt(slot, state)
        return True

    async def _make(self, slot: Slot, step: Step) -> tuple[bool, State | None]:
        if step.alert is not None:
            state = await self._store.state(slot)
            if (
                state is None
                or state.revision != step.revision
                or not state.armed
                or state.position >= step.position
            ):
                return False, state
            key = f"{slot.rule.id} {state.revision} {state.firings}"
            await self._alerts.publish(
                slot.rule.account_id, step.alert, key=key, deadline=_PUBLISH_FOR
            )
        return await self._store.step(slot, step)

    def _add(self, count: int) -> None:
        self._count += count
        self._stats.owed += count
