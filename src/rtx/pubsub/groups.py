"""Workers that share the messages of logs: each message is done by one of them, at least once.

A message goes to one worker of its group and stays noted as under way until that one says `done`.
What is not done for `idle` seconds, because its worker died or failed, goes to another; what was
delivered too often is put aside as a dead letter. Consumer groups of the server's streams keep
count; the channels only wake the workers up.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from rtx import codecs
from rtx.errors import RtxError, ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Alert, Execution
from rtx.pubsub.base import Gap
from rtx.pubsub.hub import Hub
from rtx.pubsub.journal_inbox import JournalStats
from rtx.wire import Backoff, Caller, Script
from rtx.wire.options import Argument

M = TypeVar("M", bound="Execution | Alert")

_DEAD_AT_MOST = 1_000
_SWEPT_PER_SECOND = 1_000  # logs of one worker, each a script of some 10 µs of the server's time
_ASKED_AT_ONCE = 100
_DONE_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Way:
    """What the workers of a journal work with."""

    pool: Caller
    hub: Hub
    stats: JournalStats
    poll_interval: float
    keep_for: float


@dataclass(frozen=True, slots=True)
class Terms:
    """How a group works: see `Journal.work`."""

    group: str
    consumer: str
    batch: int
    idle: float
    deliveries: int


class Work(Generic[M]):
    """A message to be done by this worker; as a context it is done when that ends without error.

    `deliveries` counts this one: above 1 another worker, or this one, may have begun before.
    """

    def __init__(
        self,
        message: M,
        account_id: int | str,
        channel: str,
        deliveries: int,
        done: Callable[[Work[M]], Awaitable[bool]],
    ) -> None:
        self.message = message
        self.account_id = account_id
        self.channel = channel
        self.deliveries = deliveries
        self._done = done

    def __repr__(self) -> str:
        return f"<Work {self.message!r}, delivery {self.deliveries}>"

    async def done(self) -> bool:
        """Say that it is done, so that nobody gets it again; False when it was not to be any more.

        Tried for 10 s. Raises `Unavailable`: another worker will get it then.
        """
        return await self._done(self)

    async def __aenter__(self) -> M:
        return self.message

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.done()


class Workers(Generic[M]):
    """One worker of a group: an async iterator of `Work`, and an async context manager.

    Yields a `Gap` where messages were trimmed before anyone had done them, with their number as
    `skipped`. Outages are waited out. Iteration ends when it is closed, or raises what the server
    refuses.
    """

    def __init__(
        self,
        way: Way,
        channels: Mapping[str, int | str],
        terms: Terms,
        decode: Callable[[bytes], M],
    ) -> None:
        self._way = way
        self._channels = channels
        self._terms = terms
        self._decode = decode
        self._take = Script.load("rtx.pubsub", "take")
        self._done = Script.load("rtx.pubsub", "done")
        self._queue: deque[Work[M] | Gap] = deque()
        self._rung: dict[str, bool] = dict.fromkeys(channels, True)  # to whether to take over
        self._news = asyncio.Event()
        self._backoff = Backoff()
        self._error: RtxError | None = None
        self._closed = False
        self._sweep_every = max(way.poll_interval, len(channels) / _SWEPT_PER_SECOND)
        self._sweep_at = asyncio.get_running_loop().time() + self._sweep_every
        self._bells = [_Bell(self, channel) for channel in channels]
        for bell in self._bells:
            way.hub.add(bell, [bell.channel], decode)

    @property
    def consumer(self) -> str:
        """The worker's name in the group."""
        return self._terms.consumer

    async def close(self) -> None:
        """End; what was fetched and not handed out goes to other workers at once."""
        if self._closed:
            return
        self._closed = True
        for bell in self._bells:
            self._way.hub.remove(bell)
        self._news.set()
        fetched = [item for item in self._queue if isinstance(item, Work)]
        self._queue.clear()
        with suppress(Unavailable, ServerError):  # they go to others after `idle` then
            await asyncio.gather(*(self._give_back(work) for work in fetched))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Work[M] | Gap]:
        return self

    async def __anext__(self) -> Work[M] | Gap:
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            try:
                await self._fetch()
            except (Unavailable, ServerError) as error:
                if not error.retryable:
                    raise
                self._rung.update(dict.fromkeys(self._channels, True))
                await self._backoff.rest()
            else:
                self._backoff.reset()
        return self._queue.popleft()

    # --- fetching --------------------------------------------------------------------------

    def ring(self, channel: str) -> None:
        """A log may have something new."""
        self._rung.setdefault(channel, False)
        self._news.set()

    def fail(self, error: RtxError) -> None:
        """The server refuses the subscription."""
        self._error = error
        self._news.set()

    async def _fetch(self) -> None:
        """Ask the logs that may have something; wait for a bell or the next sweep if none has."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._sweep_at:
            self._sweep_at = loop.time() + self._sweep_every
            self._rung.update(dict.fromkeys(self._channels, True))
        if not self._rung:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._sweep_at):
                    await self._news.wait()
            return
        # Together at most a batch: what waits here for its turn is idle already.
        batch = self._terms.batch
        several = list(self._rung)[: min(batch, _ASKED_AT_ONCE)]
        count = batch // len(several)
        asked = [(channel, self._rung.pop(channel)) for channel in several]
        outcomes = await asyncio.gather(
            *(self._ask(channel, count, take_over) for channel, take_over in asked),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _ask(self, channel: str, count: int, take_over: bool) -> None:
        terms = self._terms
        args: tuple[Argument, ...] = (
            terms.group,
            terms.consumer,
            count,
            round(terms.idle * 1000) if take_over else 0,
            terms.deliveries,
            _DEAD_AT_MOST,
            round(self._way.keep_for * 1000),
        )
        keys = [Keys.companion(channel, "log"), dead_letters_of(channel, terms.group)]
        reply = await self._take.run(self._way.pool, keys, *args)
        missed, died, taken = cast(tuple[int, int, list[tuple[bytes, bytes, int]]], reply)
        stats = self._way.stats
        stats.dead_letters += died
        if missed:
            stats.missed_by_groups += missed
            self._queue.append(Gap(channel, "trimmed before it was done", skipped=missed))
        for _, raw, deliveries in taken:
            stats.taken_over += deliveries > 1
            try:
                message = self._decode(raw)
            except codecs.DecodeError:
                stats.undecodable += 1  # never done, so that it ends as a dead letter
                continue
            account_id = self._channels[channel]
            self._queue.append(Work(message, account_id, channel, deliveries, self._finish))
        if len(taken) == count:
            self._rung[channel] = take_over or self._rung.get(channel, False)

    # --- ends ------------------------------------------------------------------------------

    async def _finish(self, work: Work[M]) -> bool:
        message = work.message
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _DONE_WITHIN
        backoff = Backoff()
        while True:
            try:
                reply = await self._done.run(
                    self._way.pool,
                    [Keys.companion(work.channel, "log")],
                    self._terms.group,
                    f"{message.seq}-0",
                    message.epoch,
                )
            except (Unavailable, ServerError) as error:
                if not error.retryable or loop.time() > give_up:
                    raise
                await backoff.rest()
            else:
                self._way.stats.worked += 1
                return bool(reply)

    async def _give_back(self, work: Work[M]) -> None:
        log = Keys.companion(work.channel, "log")
        terms = self._terms
        long_ago = round(terms.idle * 1000)
        await self._way.pool.call(
            *("XCLAIM", log, terms.group, terms.consumer, 0, f"{work.message.seq}-0"),
            *("IDLE", long_ago, "JUSTID"),
        )


class _Bell:
    """Wakes a worker up when a channel brings something."""

    def __init__(self, workers: Workers[M], channel: str) -> None:
        self._workers = workers
        self.channel = channel

    def deliver_many(self, messages: Sequence[object]) -> None:
        self._workers.ring(self.channel)

    def up(self) -> None:
        self._workers.ring(self.channel)

    def down(self, cause: str, lost: Mapping[str, object]) -> None:
        pass  # `up` follows

    def fail(self, error: RtxError) -> None:
        self._workers.fail(error)


def worker_name() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def dead_letters_of(channel: str, group: str) -> str:
    """The stream of a group's dead letters of one log."""
    return Keys.companion(channel, f"dead:{group}")
