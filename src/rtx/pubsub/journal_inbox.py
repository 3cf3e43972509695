"""A log consumer's queue: every message once and in order, refilled from the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from rtx.models import Alert, Execution
from rtx.pubsub.base import Gap, Inbox
from rtx.pubsub.offset import Offset

M = TypeVar("M", bound="Execution | Alert")

LOST = "a message was lost on the way"


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """A part of a log after `start` up to `read_to`, by their seq.

    `reason` is empty when it follows on without a hole.
    """

    messages: list[M]
    last: Offset
    reason: str
    start: int
    read_to: int


@dataclass(slots=True)
class JournalStats:
    """Counters since the layer was opened, and `listeners` as of now."""

    published: int = 0
    repeated: int = 0
    retries: int = 0
    unreplicated: int = 0
    delivered: int = 0
    duplicates: int = 0
    gaps: int = 0
    lost_wakeups: int = 0
    recoveries: int = 0
    recovery_failures: int = 0
    undecodable: int = 0
    worked: int = 0
    taken_over: int = 0
    dead_letters: int = 0
    missed_by_groups: int = 0
    listeners: int = 0
    handled: int = 0
    handler_errors: int = 0


class JournalInbox(Inbox[M]):
    """Takes live messages while they follow on, and asks for the log whenever they do not.

    `position` is the newest message queued. While it catches up live messages are only noted: the
    log has them too. Messages without a number, from writers that keep no log, are passed on.
    """

    def __init__(
        self,
        *,
        channel: str,
        position: Offset | None,
        queue_size: int,
        stats: JournalStats,
        release: Callable[[Inbox[M]], None],
        catch_up: Callable[[JournalInbox[M]], None],
    ) -> None:
        super().__init__(queue_size, release)
        self.channel = channel
        self.position = position
        self.recovered = True
        self.reason = ""
        self.generation = 0
        """Counts starts and breaks, so that a catch-up begun before one ends with it."""
        self._stats = stats
        self._catch_up = catch_up
        self._live = False
        self._waiting = False  # full: catches up when the consumer has taken everything
        self._first_page = True
        self._first_seen: Offset | None = None  # oldest and newest live message noted
        self._seen: Offset | None = None  # while catching up
        self._broken: tuple[float, str] | None = None

    @property
    def room(self) -> int:
        """Messages that fit into the queue."""
        return self.queue_size - len(self.queue)

    def deliver(self, message: object) -> None:
        live = cast(M, message)
        position = self.position
        if not live.seq:
            self._pass_on(live)
        elif not self._live or position is None:
            self._seen = Offset(live.epoch, live.seq)
            self._first_seen = self._first_seen or self._seen
        elif live.epoch == position.epoch and live.seq <= position.seq:
            self._stats.duplicates += 1
        elif self.room <= 0:
            self._live, self._waiting = False, True
        elif live.seq == position.seq + 1 and live.epoch == (position.epoch or live.epoch):
            self._append(live)
            self.wake()
        else:
            # The next number in another epoch is no hole in itself: the log will tell.
            if live.seq != position.seq + 1:
                self._broken = self._broken or (time.monotonic(), LOST)
            self._restart()

    def _append(self, message: M) -> None:
        self.queue.append(message)
        self.position = Offset(message.epoch, message.seq)
        self._stats.delivered += 1

    def _pass_on(self, message: M) -> None:
        """Take a message of a writer that keeps no log; one that finds no room is lost."""
        if self.room > 0:
            self.queue.append(message)
            self._stats.delivered += 1
        else:
            self.skipped += 1
            last = self.queue[-1]
            skipped = 1
            if isinstance(last, Gap) and last.skipped:
                self.queue.pop()
                skipped += last.skipped
            self.queue.append(Gap(self.channel, "the consumer is slow", skipped=skipped))
        self.wake()

    def up(self) -> None:
        self._restart()

    def down(self, cause: str, lost: Mapping[str, object]) -> None:
        self.generation += 1
        self._live = self._waiting = False
        if self._broken is None:
            self._broken = (time.monotonic(), cause)

    def refill(self) -> None:
        if self._waiting:
            self._restart()

    def _restart(self) -> None:
        self.generation += 1
        self._live = self._waiting = False
        self._catch_up(self)

    def wait_for_room(self) -> None:
        """Stop catching up until the consumer has taken everything."""
        self._waiting = True
        self.ready.set()

    def take_page(self, page: Page[M]) -> bool:
        """Queue a page of the log; True when no more pages are needed now."""
        self._tell_of_gap(page)
        position = self.position or self._start(page)
        if page.reason in ("epoch changed", "rewound"):
            position = Offset(page.last.epoch, page.start)
        elif page.reason and not page.messages:
            position = page.last
        for message in page.messages:
            self._append(message)
        self.position = position = Offset(page.last.epoch, max(position.seq, page.read_to))
        self.wake()
        if position.seq < page.last.seq or self._behind_live(position):
            return False
        self._live, self._seen = True, None
        self.ready.set()
        return True

    def _start(self, page: Page[M]) -> Offset:
        """Where a subscription without a position begins: after the messages before it was live."""
        seen = self._first_seen
        return page.last if seen is None else Offset(seen.epoch, seen.seq - 1)

    def _behind_live(self, position: Offset) -> bool:
        seen = self._seen
        if seen is None:
            return False
        if seen.epoch == position.epoch:
            return seen.seq > position.seq
        self._seen = None  # of an epoch that began after the page was read, or ended before
        return True

    # --- the log asked now and then --------------------------------------------------------

    @property
    def settled(self) -> Offset | None:
        """The newest message queued, while live messages are taken; else None."""
        return self.position if self._live else None

    def overlooked(self, settled: Offset) -> None:
        """The log had newer messages a while ago: catch up, if none has come since."""
        if self.settled is settled:
            self._stats.lost_wakeups += 1
            self._broken = self._broken or (time.monotonic(), LOST)
            self._restart()

    def _tell_of_gap(self, page: Page[M]) -> None:
        recovered = not page.reason
        if self._first_page:
            self._first_page = False
            self.recovered, self.reason = recovered, page.reason
        broken, self._broken = self._broken, None
        if broken is None and recovered:
            return
        if not self.ready.is_set() and recovered:
            return  # it broke before the consumer had anything to miss
        since, cause = broken or (time.monotonic(), page.reason)
        if not recovered:
            cause = page.reason
        self._stats.gaps += 1
        if recovered:
            self._stats.recoveries += 1
        else:
            self._stats.recovery_failures += 1
        self.queue.append(Gap(self.channel, cause, time.monotonic() - since, recovered))
