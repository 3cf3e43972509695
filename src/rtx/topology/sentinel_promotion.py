"""The replica that a failover has chosen, asked until it is the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from rtx.errors import RtxError
from rtx.topology.sentinel_words import Word
from rtx.topology.standing import standing_of
from rtx.wire.connection import Connection
from rtx.wire.options import ConnectOptions

_ASK_EVERY = 0.02
_ASK_FOR = 30.0  # after that it is left to the sentinels to say who became the primary


class Promotion:
    """Asks the latest choice for its role every 20 ms, and tells when it is a primary.

    A choice is given up when it is no news any more, another is heard, or 30 s have passed.
    """

    def __init__(
        self,
        options: ConnectOptions,
        *,
        is_news: Callable[[Word], bool],
        on_promoted: Callable[[Word], None],
    ) -> None:
        self._options = options
        self._is_news = is_news
        self._on_promoted = on_promoted
        self._choice: Word | None = None
        self._heard = asyncio.Event()

    def hear(self, choice: Word) -> None:
        """A sentinel that leads a failover has chosen this server."""
        if self._is_news(choice):
            self._choice = choice
            self._heard.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            if self._choice is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_FOR):
                        await self._ask(self._choice)

    async def _ask(self, choice: Word) -> None:
        while self._matters(choice):
            with suppress(RtxError):  # sentinels end its connections together with the promotion
                connection = await Connection.dial(choice.address, self._options)
                try:
                    while self._matters(choice):
                        if standing_of(await connection.call("ROLE")).is_primary:
                            self._on_promoted(choice)
                            return
                        await asyncio.sleep(_ASK_EVERY)
                finally:
                    await connection.close()
            await asyncio.sleep(_ASK_EVERY)

    def _matters(self, choice: Word) -> bool:
        return self._choice == choice and self._is_news(choice)
