"""Executions and alerts: channels with a capped log, so that nothing is missed in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

import msgspec

from rtx import codecs
from rtx.errors import ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Alert, Execution
from rtx.pubsub.base import Inbox, Subscription
from rtx.pubsub.groups import Terms, Way, Workers, dead_letters_of, worker_name
from rtx.pubsub.hub import Hub
from rtx.pubsub.journal_inbox import JournalInbox, JournalStats, Page
from rtx.pubsub.journal_watch import JournalWatch
from rtx.pubsub.journal_writer import JournalWriter
from rtx.pubsub.listener import Handler, Listener, Listeners
from rtx.pubsub.offset import Offset
from rtx.setting_groups import ChannelSettings
from rtx.timing import Lag
from rtx.topology.base import Homes
from rtx.wire import Caller, Script

M = TypeVar("M", bound="Execution | Alert")

_PAGE = 1_000
_Reply: TypeAlias = "tuple[bytes | None, int, int, int, list[bytes], int, bytes]"


@dataclass(frozen=True, slots=True)
class History(Generic[M]):
    """Messages of a log in order, and whether they follow on `after` without a hole.

    `reason` says why not: `trimmed` (the log kept fewer), `epoch changed` (the log was begun anew)
    or `rewound` (`after` was lost with a server; the messages are those after what it still had).
    `last` is the log's newest position.
    """

    messages: list[M]
    recovered: bool
    reason: str
    last: Offset


class JournalSubscription(Subscription[M]):
    """Messages of one log, each once and in order."""

    _inbox: JournalInbox[M]

    @property
    def recovered(self) -> bool:
        """Whether everything after the position asked for was there; known once `ready`."""
        return self._inbox.recovered

    @property
    def reason(self) -> str:
        """Why not, as in `History`."""
        return self._inbox.reason

    @property
    def position(self) -> Offset | None:
        """The newest message queued so far; a subscription after it would miss nothing."""
        return self._inbox.position


class Journal(Generic[M]):
    """Messages per account, on a channel and in a log, written by one script.

    Messages are numbered from 1. The log keeps the last `log_size` of them, each for `log_ttl`, and
    is gone that long after the last one; then it begins anew, from 1 and in another epoch. Where
    another server carries a log on, the epoch is another too and the numbers go on; positions of
    former epochs are good as far as that server had them.
    """

    def __init__(
        self,
        pool: Caller,
        homes: Homes,
        hub: Hub,
        channel: Callable[[int | str], str],
        decode: Callable[[bytes], M],
        settings: ChannelSettings,
        read_timeout: float,
    ) -> None:
        self._pool = pool
        self._hub = hub
        self._channel = channel
        self._decode = decode
        self._settings = settings
        self._history = Script.load("rtx.pubsub", "history")
        self._tasks: set[asyncio.Task[None]] = set()
        self.stats = JournalStats()
        self.lag = Lag("timestamp")
        self._listeners: Listeners[M] = Listeners(self.stats)
        self._writer = JournalWriter(pool, homes, settings, self.stats, read_timeout)
        self._watch: JournalWatch[M] = JournalWatch(pool, settings.poll_interval)

    async def close(self) -> None:
        """End listeners, the tasks that catch up with logs, and what publishes."""
        await self._listeners.close()
        await self._watch.close()
        await self._writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def publish(
        self,
        account_id: int | str,
        message: M,
        *,
        key: str | bytes | None = None,
        durable: bool | None = None,
        deadline: float | None = None,
    ) -> Offset:
        """Append to the log and publish, atomically; returns the position it got.

        With a `key` it is done once: a later publish to the same account with the same key gives
        the first one's position and sends nothing, for as long as the log has that message. It is
        tried again for `deadline` seconds (`publish_deadline`; 0 is once), whatever was lost. There
        is no key by default: one order has many fills, so only the publisher can tell them apart.

        `durable` (by default as set) waits until `durable_replicas` have it.

        Raises `Unavailable`; with `maybe_applied` set the message may be in the log nevertheless.
        `NotReplicated` when too few replicas had it in time, or at once and with nothing done when
        there are too few.
        """
        bare = codecs.encode(_unnumbered(message))
        return await self._writer.append(self._channel(account_id), bare, key, durable, deadline)

    async def history(
        self, account_id: int | str, after: Offset | str | None = None, limit: int = 100
    ) -> History[M]:
        """Up to `limit` messages after a position, or the latest ones. Raises `Unavailable`."""
        position = Offset.parse(after) if isinstance(after, str) else after
        page = await self._read(self._channel(account_id), position, limit)
        return History(page.messages, not page.reason, page.reason, page.last)

    def subscribe(
        self, account_id: int | str, after: Offset | str | None = None
    ) -> JournalSubscription[M]:
        """Messages of an account: those after a position, then the live ones.

        Without `after` it begins with the next message. A consumer that falls behind loses nothing:
        its queue is refilled from the log. Raises `ValueError` for a malformed position.
        """
        position = Offset.parse(after) if isinstance(after, str) else after
        channel = self._channel(account_id)
        inbox: JournalInbox[M] = JournalInbox(
            channel=channel,
            position=position,
            queue_size=self._settings.queue_size,
            stats=self.stats,
            release=self._release,
            catch_up=self._start,
        )
        self._hub.add(inbox, [channel], self._decode, lag=self.lag)
        self._watch.add(inbox)
        return JournalSubscription(inbox)

    def listen(
        self,
        handler: Handler[M],
        account_id: int | str,
        after: Offset | str | None = None,
        *,
        end_on_error: bool = False,
    ) -> Listener[M]:
        """Call `handler` with each message and `Gap` of a subscription, in a task of this layer.

        `handler` is a function or a coroutine function, called for one message at a time; while it
        is slow the log keeps the rest. What it raises is counted and logged, and the next message
        follows: it is not given that one again, see `work` for that. With `end_on_error` it ends
        the listener. Raises as `subscribe`.
        """
        subscription = self.subscribe(account_id, after)
        return self._listeners.start(subscription, handler, end_on_error=end_on_error)

    @property
    def listeners(self) -> tuple[Listener[M], ...]:
        """Those that have not ended, each with its stats."""
        return self._listeners.running

    def _release(self, inbox: Inbox[M]) -> None:
        self._hub.remove(inbox)
        self._watch.remove(cast(JournalInbox[M], inbox))

    # --- sharing the work ------------------------------------------------------------------

    def work(
        self,
        account_ids: Iterable[int | str],
        group: str,
        *,
        consumer: str = "",
        batch: int = 16,
        idle: float = 30.0,
        deliveries: int = 5,
    ) -> Workers[M]:
        """Messages of several accounts for one worker of a group, each of which is done once.

        A group begins with the oldest message of each log. A message that no worker has said to be
        `done` for `idle` seconds goes to another, so `idle` is longer than a `batch` takes; after
        `deliveries` it is put aside, see `dead_letters`. At least once: a worker that dies between
        its work and `done` leaves it to be done again. Workers are woken up by the channels, and
        look every `poll_interval`, or with over 1,000 accounts every second for each 1,000.
        """
        if not group or batch < 1 or idle < 0.001 or deliveries < 1:
            raise ValueError("a group has a name, and batch, idle and deliveries are above zero")
        terms = Terms(group, consumer or worker_name(), batch, idle, deliveries)
        channels = {self._channel(account_id): account_id for account_id in account_ids}
        settings = self._settings
        way = Way(self._pool, self._hub, self.stats, settings.poll_interval, settings.log_ttl)
        return Workers(way, channels, terms, self._decode)

    async def dead_letters(self, account_id: int | str, group: str, limit: int = 1_000) -> list[M]:
        """Messages that a group was given too often and has not done, oldest first."""
        name = dead_letters_of(self._channel(account_id), group)
        entries = await self._pool.execute(
            "XRANGE", name, "-", "+", "COUNT", limit, idempotent=True
        )
        found = cast("list[tuple[bytes, list[bytes]]]", entries)
        return [self._decode(fields[1]) for _, fields in found]

    # --- catching up -----------------------------------------------------------------------

    def _start(self, inbox: JournalInbox[M]) -> None:
        task = asyncio.create_task(self._catch_up(inbox, inbox.generation), name="rtx-catch-up")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _catch_up(self, inbox: JournalInbox[M], generation: int) -> None:
        """Read pages of the log until the inbox has all of it, is full, or is down again."""
        pause = 0.05
        while inbox.generation == generation and not inbox.ended:
            if inbox.position is not None and inbox.room <= 0:
                inbox.wait_for_room()
                return
            limit = 0 if inbox.position is None else min(_PAGE, inbox.room)
            try:
                page = await self._read(inbox.channel, inbox.position, limit)
            except (Unavailable, ServerError) as error:
                if not error.retryable:
                    inbox.fail(error)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                if inbox.generation == generation and inbox.take_page(page):
                    return

    async def _read(self, channel: str, after: Offset | None, limit: int) -> Page[M]:
        seq, epoch = (after.seq, after.epoch) if after else (-1, "")
        if seq > 0 and not epoch:
            epoch = "?"  # only the beginning of a log that was not there needs none
        reply = await self._history.run(self._pool, _keys(channel), seq, max(0, limit), epoch)
        named, newest, oldest, read, raws, start, why = cast(_Reply, reply)
        last, reason = Offset(named.decode() if named else "", newest), why.decode()
        if after and not reason and start < newest and (oldest == 0 or start + 1 < oldest):
            reason = "trimmed"
        if after and len(raws) < limit:
            read = newest  # fewer than asked for: these are all there are
        if after and limit > 0 and not reason and len(raws) != read - start:
            reason = "trimmed"
        messages: list[M] = []
        for raw in raws:
            try:
                messages.append(self._decode(raw))
            except codecs.DecodeError:
                self.stats.undecodable += 1
        return Page(messages, last, reason, start, max(read, start))


def _keys(channel: str) -> list[str]:
    return [Keys.companion(channel, "meta"), Keys.companion(channel, "log")]


def _unnumbered(message: M) -> M:
    """The message without a number it may have got in another log."""
    if not message.seq and not message.epoch:
        return message
    return msgspec.structs.replace(message, seq=0, epoch="")
