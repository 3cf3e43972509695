"""Whether the data layer can serve, asked five times a second for everybody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from rtx.errors import RtxError
from rtx.gateway import messages
from rtx.layer import DataLayer
from rtx.layer_health import Health
from rtx.models import now_ms

_log = logging.getLogger("rtx.gateway")

_EVERY = 0.2  # an outage of half a second is told too
_FRESH = 0.1


class StateWatch:
    """Keeps the latest health, and tells the clients when it changes.

    `tell` gets the encoded message at each change, and every `heartbeat` seconds.
    """

    def __init__(self, layer: DataLayer, heartbeat: float, tell: Callable[[str], None]) -> None:
        self._layer = layer
        self._heartbeat = heartbeat
        self._tell = tell
        self._health: Health | None = None
        self._checked = 0.0
        self._lock = asyncio.Lock()

    async def health(self) -> Health:
        """The health, at most a tenth of a second old; asked once for any number of callers."""
        async with self._lock:
            if self._health is None or time.monotonic() - self._checked > _FRESH:
                self._health = await self._layer.health()
                self._checked = time.monotonic()
            return self._health

    async def message(self) -> str:
        """The `state` message of the moment."""
        return _text(self._health or await self.health())

    async def run(self) -> None:
        """Watch and tell, until cancelled."""
        told: tuple[bool, bool] | None = None
        told_at = 0.0
        interval = min(_EVERY, self._heartbeat)
        while True:
            try:
                health = await self.health()
            except RtxError as error:
                _log.warning("the health cannot be read: %s", error)
            else:
                state = (health.ready, health.degraded)
                now = time.monotonic()
                if state != told or now - told_at >= self._heartbeat:
                    told, told_at = state, now
                    self._tell(_text(health))
            await asyncio.sleep(interval)


def _text(health: Health) -> str:
    return messages.state(ready=health.ready, degraded=health.degraded, time=now_ms())
