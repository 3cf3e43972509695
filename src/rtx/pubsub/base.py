"""The contract of the channels: what a subscriber gets, and what it is told when it misses some.

Guarantees:

- the connection's read loop never waits for a consumer; each subscription has a bounded queue;
- a message is decoded once per process, however many subscriptions it goes to;
- every break (a reconnect, a consumer that fell behind, a log that was trimmed) is a `Gap`, which
  the consumer gets before the next message;
- an exception in a consumer, or its cancellation, touches no other consumer.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Literal, Protocol, Self, TypeVar

import msgspec

from rtx.errors import RtxError

M = TypeVar("M")

Policy = Literal["every", "latest", "disconnect"]
"""What a full queue does: skip and say how many, keep the latest per symbol, or end."""


class Gap(msgspec.Struct, frozen=True, tag_field="type", tag="gap"):
    """Notice that messages may be missing between the one before and the one after.

    `duration` is in seconds. `recovered` True means that none is missing: what was lost on the way
    was read again from the log. `skipped` counts messages dropped here, where that is known.
    """

    channel: str
    cause: str
    duration: float = 0.0
    recovered: bool = False
    skipped: int = 0


class Sink(Protocol):
    """What the hub delivers to. No method may raise or wait."""

    def deliver_many(self, messages: Sequence[object]) -> None:
        """Take decoded messages, in the order in which they came. Others get the same sequence."""

    def up(self) -> None:
        """All channels are subscribed; from here on every message arrives."""

    def down(self, cause: str, lost: Mapping[str, object]) -> None:
        """These channels are lost: their messages from here on, until `up`.

        Each comes with the last message that came over it in this process, or None.
        """

    def fail(self, error: RtxError) -> None:
        """The server refuses the subscription, and asking again will not help."""


class Inbox(ABC, Generic[M]):
    """The queue between the hub and one consumer; the base of every sink."""

    def __init__(self, queue_size: int, release: Callable[[Inbox[M]], None]) -> None:
        self.queue: deque[M | Gap] = deque()
        self.queue_size = queue_size
        self.error: RtxError | None = None
        self.ended = False
        self.ready = asyncio.Event()
        self.skipped = 0
        self.conflated = 0
        self.loop = asyncio.get_running_loop()
        self._release = release
        self._waiter: asyncio.Future[None] | None = None

    def deliver_many(self, messages: Sequence[object]) -> None:
        """See `Sink`."""
        for message in messages:
            self.deliver(message)

    @abstractmethod
    def deliver(self, message: object) -> None:
        """Take one message."""

    @abstractmethod
    def up(self) -> None:
        """See `Sink`."""

    @abstractmethod
    def down(self, cause: str, lost: Mapping[str, object]) -> None:
        """See `Sink`."""

    @abstractmethod
    def refill(self) -> None:
        """The consumer has taken everything: move on what waits elsewhere, if anything."""

    async def wait(self) -> None:
        """Return when there may be something to take, or the inbox has ended."""
        if self._waiter is not None:
            raise RuntimeError("a subscription has one consumer at a time; subscribe once for each")
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let a waiting consumer look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: RtxError) -> None:
        """End with an error, which the consumer gets after what is queued."""
        self.end(error)

    def end(self, error: RtxError | None = None) -> None:
        """Take no more messages and let go of the channels."""
        if self.ended:
            return
        self.ended = True
        self.error = error
        self._release(self)
        self.ready.set()
        self.wake()


class Subscription(Generic[M]):
    """Messages of one or more channels: an async iterator and an async context manager.

    Yields messages and `Gap`s. Iteration ends when it is closed, or raises what ended it. One
    consumer at a time. A subscription dropped without `close` is closed when it is collected.
    """

    def __init__(self, inbox: Inbox[M]) -> None:
        self._inbox = inbox

    @property
    def skipped(self) -> int:
        """Messages dropped because the consumer was slow (policy `every`)."""
        return self._inbox.skipped

    @property
    def conflated(self) -> int:
        """Messages replaced by a newer one before they were read (policy `latest`)."""
        return self._inbox.conflated

    async def ready(self) -> None:
        """Return when the server has confirmed and what was missed is queued.

        Raises what the subscription failed with.
        """
        await self._inbox.ready.wait()
        if self._inbox.error is not None:
            raise self._inbox.error

    async def close(self) -> None:
        """End the subscription; a consumer that waits is done."""
        self._inbox.queue.clear()
        self._inbox.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[M | Gap]:
        return self

    async def __anext__(self) -> M | Gap:
        inbox = self._inbox
        queue = inbox.queue
        while not queue:
            inbox.refill()
            if queue:
                break
            if inbox.error is not None:
                raise inbox.error
            if inbox.ended:
                raise StopAsyncIteration
            await inbox.wait()
        return queue.popleft()

    async def batches(self) -> AsyncGenerator[list[M | Gap], None]:
        """The same in lists of all that has come since the last one."""
        inbox = self._inbox
        async for first in self:
            batch = [first, *inbox.queue]
            inbox.queue.clear()
            yield batch

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None and not inbox.ended:
            # The collector may run in any thread and in the middle of a delivery.
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                inbox.loop.call_soon_threadsafe(inbox.end)
