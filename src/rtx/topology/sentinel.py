"""A primary found through sentinels, and followed through failovers.

Every sentinel is listened to and asked once a second; `sentinel_words` says whose word counts. A
server is used only after it has said itself, by ROLE, that it is a primary.

In a failover the sentinel that leads it tells which replica it chose. That one is asked for its
role until it is the primary, and followed in the same moment, a second before the sentinels name
it. It is left again if none of them does so within `_CONFIRMED_WITHIN`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from rtx import urls
from rtx.errors import ConnectFailed, ConnectionLost, RtxError, ServerBusy, Unavailable
from rtx.topology.base import Manner
from rtx.topology.sentinel_promotion import Promotion
from rtx.topology.sentinel_watch import SentinelWatch
from rtx.topology.sentinel_words import Council, Word
from rtx.topology.standing import PRIMARY, standing_of
from rtx.urls import Address
from rtx.wire.connection import Connection, OnPush
from rtx.wire.options import ConnectOptions

_ASK_EVERY = 1.0
_SENTINEL_TIMEOUT = 0.5  # the others are asked at the same time, so none is waited for long
_PAUSE = 0.1
_GIVEN_UP_AFTER = 5.0  # of silence; by then all sentinels have told each other of a failover
_DRAIN = 0.2  # what a former primary gets to answer the calls that it has
_CONFIRMED_WITHIN = 3.0  # a sentinel that lives sees a promotion within one second


class SentinelTopology:
    """Dials the primary of one service, and leaves it at once when it is no longer that.

    Calls that a former primary has not answered within 0.2 s end in `ConnectionLost`. The replicas
    are asked for only `with_replicas`.
    """

    def __init__(
        self, location: urls.Sentinel, manner: Manner, *, with_replicas: bool = False
    ) -> None:
        self._location = location
        self._manner = manner
        self._patience = manner.pool.connect_timeout
        self._council = Council(len(location.sentinels))
        self._with_replicas = with_replicas
        self._replicas: dict[Address, frozenset[Address]] = {}  # that each sentinel knows
        self._errors: dict[Address, str] = {}
        self._answered_at = 0.0  # when the primary last said that it is one
        self._changed = asyncio.Event()
        self._doubted = asyncio.Event()  # the primary is to be asked for its role now
        self._promotion = Promotion(
            replace(self._data_options(), connect_timeout=_SENTINEL_TIMEOUT),
            is_news=self._council.is_news,
            on_promoted=self._follow_early,
        )
        self._recall: asyncio.TimerHandle | None = None
        self._question: asyncio.Task[None] | None = None
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
        known = self._council.known
        return known.address if known else None

    @property
    def replicas(self) -> frozenset[Address]:
        """The servers that any sentinel calls a replica, whatever state they are in."""
        return frozenset().union(*self._replicas.values())

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` whenever the primary has changed."""
        self._told.append(told)

    async def open(self) -> None:
        self._tasks = [
            asyncio.create_task(self._watch(address).run(), name=f"rtx-sentinel-{address}")
            for address in self._location.sentinels
        ]
        try:
            async with asyncio.timeout(self._patience):
                while self.primary is None:
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
        self._tasks.append(asyncio.create_task(self._promotion.run(), name="rtx-promotion"))

    async def close(self) -> None:
        if self._recall is not None:
            self._recall.cancel()
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

    async def dial_replica(
        self, replica: Address, db: int, on_close: Callable[[Connection], None], liveness: float
    ) -> Connection:
        """Open a connection to a replica, to read from; what it is is not looked at."""
        return await Connection.dial(replica, self._data_options(db, liveness), None, on_close)

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
        options = replace(self._data_options(db, liveness), leave_if_readonly=True)
        accepted = False

        def closed(connection: Connection) -> None:
            self._live.pop(connection, None)
            if accepted:
                self._doubted.set()  # its end may be a read-only reply: the others go at once then
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
        role = standing_of(reply).role
        if role != PRIMARY:
            raise ConnectFailed(
                f"{connection.address} says that it is no primary ({role}); "
                "waiting for the sentinels to name another"
            )

    # --- following -------------------------------------------------------------------------

    def _watch(self, address: Address) -> SentinelWatch:
        options = self._manner.options(
            self._manner.sentinel_credentials, tls=self._location.tls, liveness=_SENTINEL_TIMEOUT
        )
        return SentinelWatch(
            address,
            replace(options, connect_timeout=_SENTINEL_TIMEOUT),
            self._location.service,
            on_word=self._hear,
            on_choice=self._promotion.hear,
            on_error=self._miss,
            on_replicas=self._replicas.__setitem__ if self._with_replicas else None,
        )

    def _miss(self, sentinel: Address, error: RtxError) -> None:
        self._errors[sentinel] = str(error)
        self._council.lose(sentinel)

    def _hear(self, sentinel: Address, word: Word) -> None:
        self._errors.pop(sentinel, None)
        former = self._council.known
        self._council.hear(sentinel, word)
        self._follow(former)

    def _follow(self, former: Word | None) -> None:
        """Do what follows when another word counts than the `former`."""
        known = self._council.known
        if not self._council.early and self._recall is not None:
            self._recall.cancel()
            self._recall = None
        if known is None or (former is not None and former.address == known.address):
            return
        self._answered_at = asyncio.get_running_loop().time()
        if former is not None:
            self.switches += 1
            self._leave(former.address, f"the primary moved to {known.address}")
        for attempt in list(self._attempts):
            attempt.cancel()
        if self._question is not None:
            self._question.cancel()
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

    # --- a failover before its end ---------------------------------------------------------

    def _follow_early(self, choice: Word) -> None:
        former = self._council.known
        self._council.hear_early(choice)
        if self._council.early:
            loop = asyncio.get_running_loop()
            if self._recall is not None:
                self._recall.cancel()
            self._recall = loop.call_later(_CONFIRMED_WITHIN, self._go_back)
        self._follow(former)

    def _go_back(self) -> None:
        former = self._council.known
        self._council.recall()
        self._follow(former)

    # --- guarding --------------------------------------------------------------------------

    async def _guard(self) -> None:
        """Ask the primary for its role every second; leave it when it denies being one."""
        while True:
            self._question = asyncio.create_task(self._ask_primary(), name="rtx-role")
            await asyncio.gather(self._question, return_exceptions=True)

    async def _ask_primary(self) -> None:
        """Until it denies being one, or does not answer, or another is followed."""
        loop, council = asyncio.get_running_loop(), self._council
        if (known := council.known) is not None:
            try:
                await self._ask_role(known)
            except RtxError:
                if loop.time() - self._answered_at > _GIVEN_UP_AFTER:
                    council.denied = known
        await asyncio.sleep(_ASK_EVERY)

    async def _ask_role(self, asked: Word) -> None:
        connection = await Connection.dial(asked.address, self._data_options())
        council = self._council
        try:
            while (known := council.known) and known.address == asked.address:
                self._doubted.clear()
                role = standing_of(await connection.call("ROLE")).role
                if role != PRIMARY:
                    council.denied = known
                    self._leave(asked.address, f"it says that it is no primary ({role})")
                    return
                self._answered_at = asyncio.get_running_loop().time()
                if council.denied == known:
                    council.denied = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_EVERY):
                        await self._doubted.wait()
        finally:
            await connection.close()

    def _data_options(self, db: int = 0, liveness: float | None = None) -> ConnectOptions:
        """Options of connections to servers; a database in the URL takes the place of `db`."""
        location = self._location
        return self._manner.options(
            location.credentials,
            db=db if location.db is None else location.db,
            tls=location.tls,
            liveness=liveness,
        )
