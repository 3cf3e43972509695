"""Executions and alerts: channels with a capped log, so that nothing is missed in silence."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar, cast

import msgspec

from rtx import codecs
from rtx.errors import ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Alert, Execution
from rtx.pubsub.base import Subscription
from rtx.pubsub.hub import Hub
from rtx.pubsub.journal_inbox import JournalInbox, JournalStats, Page
from rtx.pubsub.offset import NOWHERE, Offset
from rtx.setting_groups import ChannelSettings
from rtx.wire import Caller, Script

M = TypeVar("M", bound="Execution | Alert")

_PAGE = 1_000
_Reply: TypeAlias = "tuple[bytes | None, int, int, int, list[bytes]]"


@dataclass(frozen=True, slots=True)
class History(Generic[M]):
    """Messages of a log in order, and whether they follow on `after` without a hole.

    `reason` says why not: `trimmed` (the log kept fewer), `epoch changed` (the log was begun anew)
    or `rewound` (the server lost its newest entries). `last` is the log's newest position.
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

    Messages are numbered from 1 within an epoch. The log keeps `log_size` messages for `log_ttl`
    after its last one; when it is gone a new epoch begins.
    """

    def __init__(
        self,
        pool: Caller,
        hub: Hub,
        channel: Callable[[int | str], str],
        decode: Callable[[bytes], M],
        settings: ChannelSettings,
    ) -> None:
        self._pool = pool
        self._hub = hub
        self._channel = channel
        self._decode = decode
        self._settings = settings
        self._publish = Script.load("rtx.pubsub", "publish")
        self._history = Script.load("rtx.pubsub", "history")
        self._tasks: set[asyncio.Task[None]] = set()
        self.stats = JournalStats()

    async def close(self) -> None:
        """End the tasks that catch up with logs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def publish(self, account_id: int | str, message: M) -> Offset:
        """Append to the log and publish, atomically; returns the position it got.

        Raises `Unavailable`; with `maybe_applied` set the message may be in the log nevertheless.
        """
        channel = self._channel(account_id)
        bare = codecs.encode(_unnumbered(message))
        reply = await self._publish.run(
            self._pool,
            _keys(channel),
            channel,
            bare,
            secrets.token_hex(8),
            self._settings.log_size,
            round(self._settings.log_ttl * 1000),
            "SPUBLISH" if self._hub.sharded else "PUBLISH",
        )
        seq, epoch = cast(list[object], reply)
        self.stats.published += 1
        return Offset(cast(bytes, epoch).decode(), cast(int, seq))

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
            release=self._hub.remove,
            catch_up=self._start,
        )
        self._hub.add(inbox, [channel], self._decode)
        return JournalSubscription(inbox)

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
        arguments = (after.seq if after else -1, max(0, limit))
        reply = await self._history.run(self._pool, _keys(channel), *arguments)
        epoch, newest, oldest, read, raws = cast(_Reply, reply)
        last = Offset(epoch.decode() if epoch else "", newest)
        reason = _hole(after, last, oldest)
        if after and reason == "epoch changed":
            # Its number means nothing in this log: what the log has is all new to the reader.
            page = await self._read(channel, Offset(last.epoch, 0), limit)
            return replace(page, reason=reason)
        if after and len(raws) < limit:
            read = newest  # fewer than asked for: these are all there are
        if after and limit > 0 and not reason and len(raws) != read - after.seq:
            reason = "trimmed"
        messages: list[M] = []
        for raw in raws:
            try:
                messages.append(self._decode(raw))
            except codecs.DecodeError:
                self.stats.undecodable += 1
        return Page(messages, last, reason, read)


def _keys(channel: str) -> list[str]:
    return [Keys.companion(channel, "meta"), Keys.companion(channel, "log")]


def _hole(after: Offset | None, last: Offset, oldest: int) -> str:
    """Why messages between a position and the log are missing; empty when none is."""
    if after is None:
        return ""
    # A position in a log that did not exist yet is before the first message of the one that came.
    if after.epoch != last.epoch and after != NOWHERE:
        return "epoch changed"
    if after.seq > last.seq:
        return "rewound"
    if after.seq < last.seq and (oldest == 0 or after.seq + 1 < oldest):
        return "trimmed"
    return ""


def _unnumbered(message: M) -> M:
    """The message without a number it may have got in another log."""
    if not message.seq and not message.epoch:
        return message
    return msgspec.structs.replace(message, seq=0, epoch="")
