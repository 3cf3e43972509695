"""Whether the peer of a connection still lives, asked by PINGs whose answers are compared."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from rtx.errors import CallTimeout, ConnectionLost, ProtocolViolation, RtxError
from rtx.urls import Address
from rtx.wire.options import Argument
from rtx.wire.replies import Reply


class _Patient(Protocol):
    """The connection whose heart it is."""

    address: Address

    @property
    def silent(self) -> float: ...
    @property
    def retiring(self) -> bool: ...
    def call(self, *args: Argument) -> asyncio.Future[Reply]: ...
    def abort(self, error: RtxError) -> None: ...


class Heartbeat:
    """Pings the peer every `every` seconds, and ends the connection when it is found dead.

    Dead is a peer that has said nothing for `limit` seconds while calls wait, or whose answer to
    PING is not the one that belongs to it: then a reply went astray, and all after it would.
    """

    def __init__(self, connection: _Patient, every: float, limit: float) -> None:
        self._connection = connection
        self._every = every
        self._limit = limit
        self._call_later: Callable[..., asyncio.TimerHandle] = asyncio.get_running_loop().call_later
        self._timer = self._call_later(every, self._beat)
        self._pinged: asyncio.Future[Reply] | None = None

    @property
    def asking(self) -> bool:
        """Whether a PING of ours waits for its answer."""
        return self._pinged is not None and not self._pinged.done()

    def stop(self) -> None:
        """End; harmless when ended."""
        self._timer.cancel()

    def _beat(self) -> None:
        connection = self._connection
        silent = connection.silent
        if silent >= self._limit:
            connection.abort(
                ConnectionLost(
                    f"{connection.address} has been silent for {silent:.1f} s with calls waiting; "
                    "it is frozen or cut off",
                    maybe_applied=True,
                )
            )
            return
        # Asked even under load: a reply that went astray is found out by the answer to PING.
        if not self.asking and not connection.retiring:
            self._ping()
        self._timer = self._call_later(self._every, self._beat)

    def _ping(self) -> None:
        connection, token = self._connection, os.urandom(8).hex().encode()

        def compare(future: asyncio.Future[Reply]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None and future.result() != token:
                connection.abort(
                    ProtocolViolation(f"{connection.address} answered PING with another reply")
                )
            elif isinstance(error, CallTimeout):
                connection.abort(
                    ConnectionLost(
                        f"{connection.address} did not answer a PING; it is frozen or cut off",
                        maybe_applied=True,
                    )
                )

        self._pinged = asked = connection.call("PING", token)
        asked.add_done_callback(compare)
