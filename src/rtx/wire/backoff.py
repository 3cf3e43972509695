"""Pauses between attempts to reach a server."""

from __future__ import annotations

import asyncio
import random

_FIRST = 0.05
_LAST = 1.0


class Backoff:
    """Pauses of 50 ms, doubling to 1 s, each shortened by chance so that clients spread out."""

    def __init__(self) -> None:
        self._next = _FIRST
        self._hurry = asyncio.Event()

    async def rest(self) -> None:
        """Wait the next pause, or until `hurry`."""
        pause, self._next = self._next * random.uniform(0.5, 1.0), min(self._next * 2, _LAST)
        self._hurry.clear()
        try:
            async with asyncio.timeout(pause):
                await self._hurry.wait()
        except TimeoutError:
            return

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._next = _FIRST

    def hurry(self) -> None:
        """End the pause: there is news of the server."""
        self.reset()
        self._hurry.set()
