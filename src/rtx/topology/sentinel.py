"""A primary found through sentinels, and followed through failovers.

Every sentinel is listened to (`+switch-master`) and asked once a second. What one says counts by
its configuration epoch, so that a sentinel that lags cannot lead back to the former primary; and a
server is used only after it has said itself, by ROLE, that it is a primary.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

from rtx import urls
from rtx.errors import ConnectFailed, ConnectionLost, RtxError, ServerBusy, Unavailable
from rtx.topology.base import Manner
from rtx.urls import Address
from rtx.wire.connection import Connection, OnPush
from rtx.wire.options import Push
from rtx.wire.replies import Reply

_ASK_EVERY = 1.0
_SENTINEL_TIMEOUT = 0.5  # the others are asked at the same time, so none is waited for long
_PAUSE = 0.1
_GIVEN_UP_AFTER = 5.0  # of silence; by then all sentinels have told each other of a failover
_DRAIN = 0.2  # what a former primary gets to answer the calls that it has


@dataclass(frozen=True, slots=True)
class _Word:
    """What a sentinel says: where the primary is, by which configuration epoch."""

    epoch: int
    address: Address


class SentinelTopology:
    """Dials the primary of one service, and leaves it at once when it is no longer that.

    Calls that a former primary has not answered within 0.2 s end in `ConnectionLost`.
    """

    def __init__(self, location: urls.Sentinel, manner: Manner) -> None:
        self._location = location
        self._manner = manner
        self._patience = manner.pool.connect_timeout
        self._known: _Word | None = None
        self._words: dict[Address, _Word] = {}
        self._errors: dict[Address, str] = {}
        self._denied: _Word | None = None  # its server is no primary by ROLE, or long silent
        self._answered_at = 0.0  # when the primary last said that it is one
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._attempts: set[asyncio.Task[Connection]] = set()
        self._live: dict[Connection, bool] = {}  # to whether it is a subscriber's
        self._told: list[Callable[[], None]] = []
        self.switches = 0
        """Times that the primary has changed since the topology was opened."""

    @property
    def public_url(self) -> str:
        return str(self._location)

    @property
    def primary(self) -> Address | None:
        """Where the primary is, as far as is known."""
        return self._known.address if self._known else None

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` whenever the primary has changed."""
        self._told.append(told)

    async def open(self) -> None:
        self._tasks = [
            asyncio.create_task(self._watch(address), name=f"rtx-sentinel-{address}")
            for address in self._location.sentinels
        ]
        try:
            async with asyncio.timeout(self._patience):
                while self._known is None:
                    self._changed.clear()
                    if len(self._errors) == len(self._location.sentinels):
                        raise ConnectFailed(self._nobody_knows())
                    await self._wait_for_change()
        except TimeoutError:
            await self.close()
            raise ConnectFailed(self._nobody_knows()) from None
        except BaseException:
            await self.close()
            raise
        self._tasks.append(asyncio.create_task(self._guard(), name="rtx-primary"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _nobody_knows(self) -> str:
        said = "; ".join(
            f"{address}: {self._errors.get(address, 'no answer')}"
            for address in self._location.sentinels
        )
        return f"no sentinel knows the primary of {self._location.service!r} ({said})"

    async def _wait_for_change(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE):
                await self._changed.wait()

    # --- dialing ---------------------------------------------------------------------------

    async def dial(
        self,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None = None,
        liveness: float | None = None,
    ) -> Connection:
        """Open a connection to the primary; when that changes meanwhile, to the new one."""
        last = ""
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    self._changed.clear()
                    address = self.primary
                    if address is not None:
                        try:
                            return await self._attempt(address, db, on_close, on_push, liveness)
                        except ConnectFailed as error:
                            last = str(error)
                        if self.primary != address:
                            continue
                    await self._wait_for_change()
        except TimeoutError:
            raise ConnectFailed(
                f"no primary of {self._location.service!r} to be had: "
                f"{last or self._nobody_knows()}"
            ) from None

    async def _attempt(
        self,
        address: Address,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None,
        liveness: float | None,
    ) -> Connection:
        """Dial in a task of its own, which a switch ends: a frozen primary answers nothing."""
        attempt = asyncio.create_task(self._dial_primary(address, db, on_close, on_push, liveness))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        try:
            connection = await attempt
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise ConnectFailed(f"{address} is no longer the primary") from None
            # Whoever gave up waiting never gets a connection that was made at that very moment.
            if attempt.done() and not attempt.cancelled() and attempt.exception() is None:
                attempt.result().abort(ConnectionLost("nobody waits for this connection any more"))
            raise
        if connection.error is not None:  # it ended between the task's last step and here
            raise ConnectFailed(f"{address} hung up while connecting: {connection.error}")
        return connection

    async def _dial_primary(
        self,
        address: Address,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None,
        liveness: float | None,
    ) -> Connection:
        location = self._location
        options = self._manner.options(
            location.credentials,
            db=db if location.db is None else location.db,
            tls=location.tls,
            liveness=liveness,
            leave_if_readonly=True,
        )
        accepted = False

        def closed(connection: Connection) -> None:
            self._live.pop(connection, None)
            if accepted:
                on_close(connection)

        connection = await Connection.dial(address, options, on_push, closed)
        try:
            await self._check_role(connection)
        except BaseException:
            connection.abort(ConnectionLost(f"{address} was not accepted as the primary"))
            raise
        if connection.error is not None:  # it ended together with its last reply
            raise ConnectFailed(f"{address} hung up while connecting: {connection.error}")
        self._live[connection] = on_push is not None
        accepted = True
        return connection

    async def _check_role(self, connection: Connection) -> None:
        """Raise `ConnectFailed` unless the server says that it is a primary."""
        try:
            reply = await connection.call("ROLE")
        except (Unavailable, ServerBusy) as error:
            raise ConnectFailed(str(error)) from None
        role = reply[0] if isinstance(reply, list) and reply else None
        if role != b"master":
            raise ConnectFailed(
                f"{connection.address} says that it is no primary ({_text(role)}); "
                "waiting for the sentinels to name another"
            )

    # --- following -------------------------------------------------------------------------

    async def _watch(self, address: Address) -> None:
        """Listen to one sentinel, and ask it every second and at each switch it announces."""
        options = replace(
            self._manner.options(
                self._manner.sentinel_credentials,
                tls=self._location.tls,
                liveness=_SENTINEL_TIMEOUT,
            ),
            connect_timeout=_SENTINEL_TIMEOUT,
        )
        ask_now = asyncio.Event()

        def heard(pushes: list[Push]) -> None:
            if any(push[0] == b"message" for push in pushes):
                ask_now.set()

        while True:
            try:
                connection = await Connection.dial(address, options, heard)
                try:
                    await connection.subscribe("SUBSCRIBE", ["+switch-master"])
                    while True:
                        ask_now.clear()
                        service = self._location.service
                        self._hear(address, await connection.call("SENTINEL", "MASTER", service))
                        with suppress(TimeoutError):
                            async with asyncio.timeout(_ASK_EVERY):
                                await ask_now.wait()
                finally:
                    await connection.close()
            except RtxError as error:
                self._errors[address] = str(error)
                self._words.pop(address, None)
            await asyncio.sleep(_PAUSE)

    def _hear(self, sentinel: Address, reply: Reply) -> None:
        if not isinstance(reply, dict):
            return
        fields = cast(dict[bytes, bytes], reply)
        host, port = fields.get(b"ip", b"").decode(), int(fields.get(b"port", b"0"))
        word = _Word(int(fields.get(b"config-epoch", b"0")), Address(host, port))
        self._errors.pop(sentinel, None)
        self._words[sentinel] = word
        known = self._known
        if known is None or (word.epoch > known.epoch and word != self._denied):
            self._follow(word)
        elif known == self._denied:
            self._overrule(known)

    def _overrule(self, known: _Word) -> None:
        """What most sentinels say counts, whatever its epoch: theirs may have begun anew."""
        [(word, votes)] = Counter(self._words.values()).most_common(1)
        if votes > len(self._location.sentinels) // 2 and word.address != known.address:
            self._follow(word)

    def _follow(self, word: _Word) -> None:
        former, self._known = self._known, word
        if former is not None and former.address == word.address:
            return
        self._answered_at = asyncio.get_running_loop().time()
        if former is not None:
            self.switches += 1
            self._leave(former.address, f"the primary moved to {word.address}")
        for attempt in list(self._attempts):
            attempt.cancel()
        self._changed.set()
        for told in self._told:
            told()

    def _leave(self, address: Address, why: str) -> None:
        """End the connections to a server: subscribers at once, the others when drained."""
        error = ConnectionLost(f"{address} is left: {why}", maybe_applied=True)
        loop = asyncio.get_running_loop()
        for connection, subscriber in list(self._live.items()):
            if connection.address != address:
                continue
            if subscriber:
                connection.abort(error)
            else:
                drain = _DRAIN - connection.silent  # a frozen server has had its time
                connection.retire()
                loop.call_later(max(0.0, drain), connection.abort, error)

    async def _guard(self) -> None:
        """Ask the primary for its role every second; leave it when it denies being one."""
        loop = asyncio.get_running_loop()
        while True:
            known = self._known
            if known is not None:
                try:
                    await self._ask_role(known.address)
                except RtxError:
                    if loop.time() - self._answered_at > _GIVEN_UP_AFTER:
                        self._denied = known
            await asyncio.sleep(_ASK_EVERY)

    async def _ask_role(self, address: Address) -> None:
        options = self._manner.options(self._location.credentials, tls=self._location.tls)
        connection = await Connection.dial(address, options)
        try:
            while (asked := self._known) and asked.address == address:
                role = await connection.call("ROLE")
                if isinstance(role, list) and role and role[0] != b"master":
                    self._denied = asked
                    self._leave(address, f"it says that it is no primary ({_text(role[0])})")
                    return
                self._answered_at = asyncio.get_running_loop().time()
                if self._denied == asked:
                    self._denied = None
                await asyncio.sleep(_ASK_EVERY)
        finally:
            await connection.close()


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
