"""Asks the logs now and then whether they have more than their subscribers got.

A message that was lost on its way, with none after it, is noticed by nothing else. One HMGET for
each log that anyone listens to, spread over the interval; none while nobody does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import islice
from typing import Generic, TypeVar, cast

import hiredis

from rtx.errors import ServerError, Unavailable
from rtx.keys import Keys
from rtx.models import Alert, Execution
from rtx.pubsub.journal_inbox import JournalInbox
from rtx.pubsub.offset import Offset
from rtx.wire import Caller, Reply

M = TypeVar("M", bound="Execution | Alert")

_TOGETHER = 500  # one millisecond of the event loop
_GRACE = 0.1  # a message that the log has may just be on its way to the subscriber


class JournalWatch(Generic[M]):
    """Compares each log that has subscribers with what they have, once per `interval` seconds."""

    def __init__(self, pool: Caller, interval: float) -> None:
        self._pool = pool
        self._interval = interval
        self._inboxes: dict[str, set[JournalInbox[M]]] = {}
        self._questions: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, inbox: JournalInbox[M]) -> None:
        """Watch for a subscriber."""
        self._inboxes.setdefault(inbox.channel, set()).add(inbox)
        if inbox.channel not in self._questions:
            self._questions[inbox.channel] = _question(inbox.channel)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="rtx-journal-watch")

    def remove(self, inbox: JournalInbox[M]) -> None:
        """Forget a subscriber."""
        several = self._inboxes.get(inbox.channel)
        if several is None:
            return
        several.discard(inbox)
        if not several:
            del self._inboxes[inbox.channel], self._questions[inbox.channel]
            if not self._inboxes and self._task is not None:
                self._task.cancel()
                self._task = None

    async def close(self) -> None:
        """End; subscribers that are left are not watched any more."""
        self._inboxes.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            channels = iter(list(self._inboxes))
            pause = self._interval / max(1, -(-len(self._inboxes) // _TOGETHER))
            while several := list(islice(channels, _TOGETHER)):
                # Earlier by chance, so that the processes do not all ask at once.
                await asyncio.sleep(pause * random.uniform(0.8, 1.0))
                await self._look(several)

    async def _look(self, channels: Sequence[str]) -> None:
        before = [
            (channel, [(inbox, inbox.settled) for inbox in self._inboxes.get(channel, ())])
            for channel in channels
        ]
        asked = [
            (channel, live)
            for channel, inboxes in before
            if (live := [(inbox, at) for inbox, at in inboxes if at is not None])
        ]
        if not asked:
            return
        try:
            replies = await self._pool.batch_packed(
                [self._questions[channel] for channel, _ in asked], patient=False
            )
        except (Unavailable, ServerError):
            return  # an outage is noticed and told by others
        late = [
            (inbox, at)
            for (_, live), reply in zip(asked, replies, strict=True)
            if (newest := _newest(reply)) is not None
            for inbox, at in live
            if newest.epoch != at.epoch or newest.seq > at.seq
        ]
        if late:
            asyncio.get_running_loop().call_later(_GRACE, _tell, late)


def _tell(late: Sequence[tuple[JournalInbox[M], Offset]]) -> None:
    for inbox, at in late:
        if not inbox.ended:
            inbox.overlooked(at)


def _question(channel: str) -> bytes:
    command = ("HMGET", Keys.companion(channel, "meta"), "epoch", "seq")
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def _newest(reply: Reply) -> Offset | None:
    """The position in a reply; None for a log that is not there, or for an error."""
    if not isinstance(reply, list) or None in reply:
        return None
    epoch, seq = cast(list[bytes], reply)
    return Offset(epoch.decode(), int(seq))
