"""Telling clients: executions and alerts published once, however Redis fares meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rtx.errors import ServerError, Unavailable
from rtx.layer import DataLayer
from rtx.models import Alert, Execution
from rtx.pubsub import Offset

_OWED_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _Owed:
    account_id: int
    execution: Execution


class Announcer:
    """Publishes what the database has committed; what Redis cannot take now is owed.

    `settle` sends what is owed, oldest first. Each fill has a key: one whose publishing broke
    half-way can be sent again and no client sees it twice.
    """

    def __init__(self, layer: DataLayer, notice: Callable[[str], None] | None = None) -> None:
        self._layer = layer
        self._notice = notice
        self._owed: deque[_Owed] = deque(maxlen=_OWED_AT_MOST)
        self.dropped = 0
        """Executions that are only in the database: more were owed than are kept."""

    @property
    def owed(self) -> int:
        """Executions that still wait to be published."""
        return len(self._owed)

    async def execution(self, account_id: int, execution: Execution) -> Execution:
        """Publish a fill; returns it with its number, or without one while it is owed."""
        if self._owed:  # fills of an account are announced in their order
            self._owe(account_id, execution)
            return execution
        try:
            offset = await self._publish(account_id, execution)
        except (Unavailable, ServerError):
            self._owe(account_id, execution)
            return execution
        return msgspec.structs.replace(execution, seq=offset.seq, epoch=offset.epoch)

    async def alert(self, account_id: int | str, alert: Alert) -> bool:
        """Publish an alert; False when Redis could not take it, so that the caller tries again."""
        try:
            await self._layer.alerts.publish(account_id, alert)
        except (Unavailable, ServerError):
            return False
        return True

    async def settle(self) -> None:
        """Publish what is owed, until Redis is away again."""
        while self._owed:
            owed = self._owed[0]
            try:
                await self._publish(owed.account_id, owed.execution)
            except (Unavailable, ServerError):
                return
            self._owed.popleft()

    async def _publish(self, account_id: int, execution: Execution) -> Offset:
        # Each order has one fill here. The time tells orders of another database apart, whose ids
        # begin anew while the log goes on. Tried once: who waits for an order must not wait long.
        key = f"{execution.order_id}:{execution.timestamp}"
        return await self._layer.executions.publish(account_id, execution, key=key, deadline=0)

    def _owe(self, account_id: int, execution: Execution) -> None:
        if len(self._owed) == _OWED_AT_MOST:
            self.dropped += 1
            if self._notice is not None and self.dropped == 1:
                self._notice(
                    f"more than {_OWED_AT_MOST} fills wait to be published: the oldest are only "
                    "in the database"
                )
        self._owed.append(_Owed(account_id, execution))
