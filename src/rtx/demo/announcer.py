"""Telling clients: executions and alerts published once, however Redis fares meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rtx.errors import ServerError, Unavailable
from rtx.layer import DataLayer
from rtx.models import Alert, Execution

_OWED_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _Owed:
    account_id: int
    execution: Execution
    maybe_published: bool


class Announcer:
    """Publishes what the database has committed; what Redis cannot take now is owed.

    `settle` sends what is owed, oldest first. A fill whose publishing broke half-way is looked for
    in the log before it is sent again, so that no client sees it twice.
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
            self._owe(account_id, execution, maybe_published=False)
            return execution
        try:
            offset = await self._layer.executions.publish(account_id, execution)
        except Unavailable as error:
            self._owe(account_id, execution, maybe_published=error.maybe_applied)
            return execution
        except ServerError:
            self._owe(account_id, execution, maybe_published=False)
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
                if not owed.maybe_published or not await self._is_in_log(owed):
                    await self._layer.executions.publish(owed.account_id, owed.execution)
            except Unavailable as error:
                if error.maybe_applied:
                    self._owed[0] = _Owed(owed.account_id, owed.execution, maybe_published=True)
                return
            except ServerError:
                return
            self._owed.popleft()

    async def _is_in_log(self, owed: _Owed) -> bool:
        history = await self._layer.executions.history(owed.account_id, limit=1_000)
        return any(fill.order_id == owed.execution.order_id for fill in history.messages)

    def _owe(self, account_id: int, execution: Execution, *, maybe_published: bool) -> None:
        if len(self._owed) == _OWED_AT_MOST:
            self.dropped += 1
            if self._notice is not None and self.dropped == 1:
                self._notice(
                    f"more than {_OWED_AT_MOST} fills wait to be published: the oldest are only "
                    "in the database"
                )
        self._owed.append(_Owed(account_id, execution, maybe_published))
