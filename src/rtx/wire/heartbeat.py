"""Whether the peer of a connection still lives, asked by PINGs whose answers are compared."""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from rtx.errors import ConnectionLost, ProtocolViolation, RtxError
from rtx.urls import Address
from rtx.wire.options import Argument
from rtx.wire.replies import Reply

_NEARLY = 0.9  # a timer may be early by its resolution, and the next beat is far away


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
    PING is not the one that belongs to it: then a reply went astray, and all after it would. One
    that is still sending is slow, its answer behind the rest. A beat that comes late, because the
    event loop stood still, judges nobody: what the peer said meanwhile has not been read yet.
    """

    def __init__(self, connection: _Patient, every: float, limit: float) -> None:
        self._connection = connection
        self._every = every
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + every
        self._timer = self._loop.call_at(self._due, self._beat)
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
        silent, now = connection.silent, self._loop.time()
        on_time = now - self._due < self._every
        if silent >= _NEARLY * self._limit and on_time:
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
        self._due = now + self._every
        self._timer = self._loop.call_at(self._due, self._beat)

    def _ping(self) -> None:
        connection, token = self._connection, os.urandom(8).hex().encode()

        def compare(future: asyncio.Future[Reply]) -> None:
            if future.cancelled():
                return
            if future.exception() is None and future.result() != token:
                connection.abort(
                    ProtocolViolation(f"{connection.address} answered PING with another reply")
                )

        self._pinged = asked = connection.call("PING", token)
        asked.add_done_callback(compare)
