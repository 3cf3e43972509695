"""What waits to be sent to one client, bounded, with everything pending joined into one frame.

Ticks may be conflated, everything else may not. While a client keeps up, all of it leaves in the
order it came. A client that lags more than `limit` ticks gets only the latest of each symbol from
then on until it has caught up. Whoever can wait before putting anything else does so at half of
`limit` (`brake`), and a client that then does not read is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rtx.gateway.counters import Counters

OVERFLOW = 4008
"""Close code: the client is too far behind and must resume executions and alerts from its last."""

INTERNAL = 1011
"""Close code: the gateway failed."""

MAX_CHANNELS = 512
"""Channels one client may follow; `market_data:*` follows all symbols as one."""

# Nobody can wait before saying these: the server confirms all channels at once, and a break is a
# gap in each of them.
_SPARE = 2 * MAX_CHANNELS

PATIENCE = 5.0
"""Seconds without room before a client is ended: a burst out of the log fills any client's queue,
and one that reads has room again at once."""


class Batch:
    """Ticks encoded once and shared by all clients that get them, in the order they came."""

    __slots__ = ("joined", "symbols", "texts")

    def __init__(self, symbols: Sequence[str], texts: Sequence[str]) -> None:
        self.symbols = symbols
        self.texts = texts
        self.joined = ",".join(texts)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a client is being closed: a WebSocket close code and a sentence."""

    code: int
    reason: str


class Outbox:
    """Queue of one client; the writer awaits `frame`, everyone else only puts and returns."""

    __slots__ = (
        "_count",
        "_counters",
        "_kept",
        "_latest",
        "_limit",
        "_loop",
        "_queue",
        "_room",
        "_ticks",
        "_waiter",
        "all_symbols",
        "ended",
    )

    def __init__(self, limit: int, counters: Counters) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._counters = counters
        self._queue: list[str | Batch] = []
        self._latest: dict[str, str] | None = None  # by symbol, while the client lags
        self._kept = 0  # messages in the queue that may not be dropped
        self._ticks = 0  # ticks in the queue
        self._count = 0  # messages of the next frame
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.ended: asyncio.Future[Ending] = self._loop.create_future()
        self.all_symbols = False

    @property
    def lagging(self) -> bool:
        """Whether ticks are being conflated."""
        return self._latest is not None

    @property
    def has_room(self) -> bool:
        """Whether less than half of the messages that may wait do wait."""
        return self._kept * 2 < self._limit

    def put(self, text: str) -> None:
        """Queue a message that may not be dropped; ends a client that is too far behind."""
        if self.ended.done():
            return
        if self._kept >= self._limit + _SPARE:
            self.overflow()
            return
        self._kept += 1
        self._count += 1
        self._queue.append(text)
        self._wake()

    def offer(self, batch: Batch) -> None:
        """Queue ticks, which are conflated by symbol while the client lags."""
        if self.ended.done():
            return
        latest = self._latest
        if latest is None:
            self._queue.append(batch)
            added = len(batch.texts)
            self._ticks += added
            self._count += added
            if self._ticks > self._limit:
                self._collapse()
        else:
            before = len(latest)
            latest.update(zip(batch.symbols, batch.texts, strict=True))
            added = len(latest) - before
            self._count += added
            self._counters.conflated += len(batch.texts) - added
        self._wake()

    def _collapse(self) -> None:
        """Keep the latest tick of each symbol, and every other message."""
        latest: dict[str, str] = {}
        kept: list[str | Batch] = []
        for item in self._queue:
            if isinstance(item, str):
                kept.append(item)
            else:
                latest.update(zip(item.symbols, item.texts, strict=True))
        self._counters.conflated += self._ticks - len(latest)
        self._count -= self._ticks - len(latest)
        self._queue = kept
        self._latest = latest
        self._ticks = 0

    def take(self) -> str:
        """Everything pending as the text of one JSON array; empty when nothing is."""
        if not self._count:
            return ""
        parts = [item if isinstance(item, str) else item.joined for item in self._queue]
        if self._latest is not None:
            parts += self._latest.values()
            self._latest = None
        self._counters.frames += 1
        self._counters.messages += self._count
        self._queue = []
        self._kept = self._ticks = self._count = 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return f"[{','.join(parts)}]"

    async def frame(self) -> str:
        """Wait until something is pending, and take it; empty once the client is ended.

        For one writer at a time.
        """
        while not self._count and not self.ended.done():
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    async def brake(self) -> bool:
        """Wait until `has_room`; False when the client is ended, if only because it never reads.

        Several may wait.
        """
        deadline = self._loop.time() + PATIENCE
        while not self.has_room and not self.ended.done():
            left = deadline - self._loop.time()
            if left <= 0:
                self.overflow()
                break
            if self._room is None or self._room.done():
                self._room = self._loop.create_future()
            await asyncio.wait(
                (self._room, self.ended), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        return not self.ended.done()

    def overflow(self) -> None:
        """End the client because messages that may not be dropped cannot be queued."""
        if not self.ended.done():
            self._counters.closed_overflow += 1
            self.end(
                OVERFLOW,
                f"{self._kept} messages behind; connect again and resume with `after`",
            )

    def end(self, code: int, reason: str) -> None:
        """Ask for the client to be closed; nothing is queued from here on."""
        if not self.ended.done():
            self.ended.set_result(Ending(code, reason))
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
