"""Publishing the ticks of a feed: many in one write, without waiting for each."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from rtx.errors import NotPublished, ServerError, Unavailable
from rtx.models import Tick
from rtx.pubsub.backlog import Backlog, DropPolicy
from rtx.pubsub.guard import TickGuard
from rtx.pubsub.tick_writer import AT_ONCE, TickWriter

_PAUSE = 0.05
"""Seconds between looks for a server that is away: short beside the outage, cheap beside a tick."""


@dataclass(slots=True)
class PublisherStats:
    """Counters since the publisher was made, and `queued` as of now.

    Every tick that was given is in `published`, `refused` or `dropped`, is queued, or is in the
    write under way. Reasons in `dropped`, beside the codes of errors that the server answered with:

    - `conflated`, `overflow`: by the policy, for want of room
    - `unconfirmed`: sent, and no answer came; it may have been published, and is not sent again
    - `unsent`: still waiting when the publisher was closed
    - `malformed`: it cannot be written, such as a symbol with half a character
    """

    queued: int = 0
    writes: int = 0
    published: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, other: PublisherStats) -> None:
        """Count what another has counted, too."""
        self.queued += other.queued
        self.writes += other.writes
        self.published += other.published
        self.dropped.update(other.dropped)
        self.refused.update(other.refused)


class _Lane:
    """Ticks that are written one batch after the other, and so stay in order."""

    __slots__ = ("backlog", "name", "settled", "task", "under_way")

    def __init__(self, name: str, backlog: Backlog) -> None:
        self.name = name
        self.backlog = backlog
        self.under_way = 0
        self.settled = 0
        """How many have left, by being written or given up; those that made room do not count."""
        self.task: asyncio.Task[None] | None = None


class TickPublisher:
    """A bounded queue before the server, an async context manager; made by `MarketData.publisher`.

        async with layer.market_data.publisher() as out:
            out.offer(tick)        # never waits; a full queue makes room by the policy
            await out.send(tick)   # waits for room

    What was given in one turn of the event loop leaves in one write, and one write is under way at
    a time: what comes meanwhile leaves with the next. So the ticks of a symbol stay in order,
    whatever breaks. In a cluster each symbol has its own writes, so that a node that is away holds
    up no tick of another; then the queue may have one tick of each symbol more than its size.

    While the server is away ticks wait, by the policy, and leave when it is back. A tick that was
    sent is never sent again.
    """

    def __init__(
        self,
        writer: TickWriter,
        guard: TickGuard,
        *,
        policy: DropPolicy,
        queue_size: int,
        close_timeout: float,
        by_symbol: bool,
        release: Callable[[TickPublisher], None],
    ) -> None:
        if policy not in ("conflate", "drop_oldest"):
            raise ValueError(f'no policy {policy!r}; there are "conflate" and "drop_oldest"')
        if queue_size < 1:
            raise ValueError("queue_size is at least 1")
        self._stats = PublisherStats()
        self._writer = writer
        self._guard = guard
        self._policy: DropPolicy = policy
        self._size = queue_size
        self._close_timeout = close_timeout
        self._by_symbol = by_symbol
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _Lane] = {}
        self._queued = 0
        self._senders: deque[asyncio.Future[None]] = deque()  # that wait for room
        self._watchers: set[asyncio.Future[None]] = set()  # that wait for any progress
        self._closed = False

    @property
    def stats(self) -> PublisherStats:
        """Counters, as of now."""
        self._stats.queued = self._queued
        return self._stats

    # --- giving ----------------------------------------------------------------------------

    def offer(self, tick: Tick) -> bool:
        """Queue a tick without waiting; False when it is bad, which is counted by its reason.

        Raises `Unavailable` when the publisher is closed.
        """
        self._check_open()
        bad = self._guard.refusal(tick)
        if bad is not None:
            self._stats.refused[bad.reason] += 1
            return False
        name = tick.symbol if self._by_symbol else ""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(name, Backlog(self._policy, self._stats.dropped))
        backlog = lane.backlog
        before = len(backlog)
        backlog.put(tick, self._queued < self._size)
        self._queued += len(backlog) - before
        if lane.task is None:
            lane.task = self._loop.create_task(self._drain(lane), name="rtx-publisher")
        return True

    async def send(self, tick: Tick) -> bool:
        """Queue a tick when there is room; as `offer` otherwise.

        A cancelled `send` has queued nothing. While the server is away it waits for as long as that
        takes: bound it with `asyncio.timeout` where that matters.
        """
        if self._queued and not self._queued % AT_ONCE:
            await asyncio.sleep(0)  # a feed that always has more must not keep the loop to itself
        join = self._senders.append
        while self._queued >= self._size and not self._closed:
            waiter: asyncio.Future[None] = self._loop.create_future()
            join(waiter)
            join = self._senders.appendleft  # who is woken in vain keeps the place in the queue
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._senders:
                    self._senders.remove(waiter)
                else:
                    self._wake_senders()  # the room this one was woken for is another's now
                raise
        return self.offer(tick)

    # --- ending ----------------------------------------------------------------------------

    async def flush(self, timeout: float | None = None) -> None:
        """Return when every tick that was given before has left the queue and its write has ended.

        Raises `NotPublished` when one of the writes it waited for lost ticks, or when some are
        still waiting after `timeout` seconds; these stay queued.
        """
        before = self._lost()
        try:
            async with asyncio.timeout(timeout):
                await self._pass(
                    {
                        lane: lane.settled + lane.under_way + len(lane.backlog)
                        for lane in self._lanes.values()
                    }
                )
        except TimeoutError:
            waiting = self._queued + sum(lane.under_way for lane in self._lanes.values())
            why = self._writer.down or "the server answers too slowly"
            raise NotPublished(
                f"{waiting} ticks still wait after {timeout:g} s: {why}",
                {"waiting": waiting},
            ) from None
        self._raise_if_lost(before)

    async def close(self, timeout: float | None = None) -> None:
        """Take no more ticks, flush for `timeout` seconds (`close_timeout`), and give up the rest.

        Raises `NotPublished` for what is lost meanwhile: it is counted as `unsent`, or as
        `unconfirmed` where its write was under way. A second call returns at once.
        """
        if self._closed:
            return
        self._closed = True
        self._wake_senders()
        before = self._lost()
        try:
            with_time = self._close_timeout if timeout is None else timeout
            async with asyncio.timeout(with_time):
                await self._pass(dict.fromkeys(self._lanes.values()))
        except TimeoutError:
            pass
        finally:
            await self._give_up()
        self._raise_if_lost(before)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            await self.close()
        except NotPublished:
            if error is None:  # else it would hide what ended the block; the counters have it
                raise

    async def _pass(self, targets: dict[_Lane, int] | dict[_Lane, None]) -> None:
        """Return when each lane is empty, or has settled as many ticks as its target."""
        while True:
            for lane, target in targets.items():
                if lane.task is not None and (target is None or lane.settled < target):
                    break
            else:
                return
            watcher: asyncio.Future[None] = self._loop.create_future()
            self._watchers.add(watcher)
            try:
                await watcher
            finally:
                self._watchers.discard(watcher)

    async def _give_up(self) -> None:
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._queued:
            self._stats.dropped["unsent"] += self._queued
        self._queued = 0
        self._lanes.clear()
        self._release(self)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the publisher is closed; open another for more ticks")

    def _lost(self) -> Counter[str]:
        lost = Counter(self._stats.dropped)
        del lost["conflated"], lost["overflow"]
        return lost

    def _raise_if_lost(self, before: Counter[str]) -> None:
        lost = self._lost() - before
        if lost:
            reasons = ", ".join(f"{count} {reason}" for reason, count in lost.items())
            why = self._writer.down or "see to the server, and publish later ones"
            raise NotPublished(f"ticks were lost: {reasons}; {why}", dict(lost))

    # --- writing ---------------------------------------------------------------------------

    async def _drain(self, lane: _Lane) -> None:
        """Write what the lane has, until it is empty."""
        backlog = lane.backlog
        try:
            while backlog:
                # In a cluster one node may be away and this lane's not.
                if self._writer.down is not None and not self._by_symbol:
                    await asyncio.sleep(_PAUSE)
                    continue
                ticks = backlog.take(AT_ONCE)
                self._queued -= len(ticks)
                lane.under_way = len(ticks)
                if self._senders:
                    self._wake_senders()
                if not await self._write(lane, ticks):
                    await asyncio.sleep(_PAUSE)
        finally:
            lane.task = None
            if self._by_symbol and not backlog:
                self._lanes.pop(lane.name, None)
            self._tell_progress()

    async def _write(self, lane: _Lane, ticks: list[Tick]) -> bool:
        """One write; False when nothing was done, and the ticks are back in the queue."""
        lost = ""
        errors: list[ServerError | None] = []
        try:
            errors = await self._writer.attempt(ticks)
        except (Unavailable, ServerError) as error:  # a ServerError is why none can be dialed
            if not getattr(error, "maybe_applied", False):
                self._restore(lane, ticks)
                return False
            lost = "unconfirmed"
        except asyncio.CancelledError:
            self._stats.dropped["unconfirmed"] += len(ticks)
            raise
        except (ValueError, TypeError, OverflowError):
            good = [tick for tick in ticks if self._writer.can_pack(tick)]
            if 0 < len(good) < len(ticks):
                self._restore(lane, good)
                ticks = ticks[len(good) :]
            lost = "malformed"
        finally:
            lane.under_way = 0
        if errors and all(error is not None and error.retryable for error in errors):
            self._restore(lane, ticks)
            return False
        if lost:
            self._stats.dropped[lost] += len(ticks)
        else:
            failed = Counter(error.code for error in errors if error is not None)
            self._stats.dropped.update(failed)
            self._stats.published += len(ticks) - failed.total()
            self._stats.writes += 1
        lane.settled += len(ticks)
        self._tell_progress()
        return True

    def _restore(self, lane: _Lane, ticks: list[Tick]) -> None:
        before = len(lane.backlog)
        lane.backlog.restore(ticks, max(1, self._size - self._queued + before))
        self._queued += len(lane.backlog) - before

    def _wake_senders(self) -> None:
        room = len(self._senders) if self._closed else self._size - self._queued
        while self._senders and room > 0:
            sender = self._senders.popleft()
            if not sender.done():
                sender.set_result(None)
                room -= 1

    def _tell_progress(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
