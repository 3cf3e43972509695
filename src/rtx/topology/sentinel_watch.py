"""One sentinel, listened to and asked every second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from rtx.errors import RtxError, ServerError
from rtx.topology.sentinel_words import COURSE, NEWS, Course, Word, replicas_of, word_of
from rtx.urls import Address
from rtx.wire.connection import Connection
from rtx.wire.options import ConnectOptions, Push

_ASK_EVERY = 1.0
_PAUSE = 0.1
_NEWS = frozenset(channel.encode() for channel in NEWS)


class SentinelWatch:
    """Keeps a connection to one sentinel, and hands on what it says about one service.

    `on_word` gets its word at each answer, `on_choice` the server that is to become the primary in
    a failover that it leads, `on_error` why it does not answer. It is asked for the replicas where
    there is an `on_replicas`.
    """

    def __init__(
        self,
        address: Address,
        options: ConnectOptions,
        service: str,
        *,
        on_word: Callable[[Address, Word], None],
        on_choice: Callable[[Word], None],
        on_error: Callable[[Address, RtxError], None],
        on_replicas: Callable[[Address, frozenset[Address]], None] | None = None,
    ) -> None:
        self._address = address
        self._options = options
        self._service = service
        self._on_word = on_word
        self._on_choice = on_choice
        self._on_error = on_error
        self._on_replicas = on_replicas
        self._ask_now = asyncio.Event()
        self._course = Course(service)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self._course = Course(self._service)
                connection = await Connection.dial(self._address, self._options, self._hear)
                try:
                    await self._listen(connection)
                    while True:
                        self._ask_now.clear()
                        await self._ask(connection)
                        with suppress(TimeoutError):
                            async with asyncio.timeout(_ASK_EVERY):
                                await self._ask_now.wait()
                finally:
                    await connection.close()
            except RtxError as error:
                self._on_error(self._address, error)
            await asyncio.sleep(_PAUSE)

    async def _listen(self, connection: Connection) -> None:
        await connection.subscribe("SUBSCRIBE", NEWS)
        with suppress(ServerError):  # a user without these channels learns of a failover at its end
            await connection.subscribe("SUBSCRIBE", COURSE)

    async def _ask(self, connection: Connection) -> None:
        questions = ["MASTER", "GET-MASTER-ADDR-BY-NAME"]
        if self._on_replicas is not None:
            questions.append("REPLICAS")
        state, address, *replicas = await connection.batch(
            [("SENTINEL", question, self._service) for question in questions]
        )
        if isinstance(state, ServerError):
            raise state
        if word := word_of(state, address):
            self._on_word(self._address, word)
        if self._on_replicas is not None:
            self._on_replicas(self._address, replicas_of(replicas[0]))

    def _hear(self, pushes: list[Push]) -> None:
        for push in pushes:
            if push[0] != b"message":
                continue
            if push[1] in _NEWS:
                self._ask_now.set()
            elif word := self._course.hear(push[1], push[2]):
                self._on_choice(word)
