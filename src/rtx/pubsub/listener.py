"""A handler that is called with every message of a subscription, in a task of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

from rtx.pubsub.base import Gap, Subscription

M = TypeVar("M")

Handler: TypeAlias = Callable[["M | Gap"], object]
"""Called with each message and each `Gap`; what it returns is awaited if it can be."""

_log = logging.getLogger("rtx.pubsub")

_TURN = 0.005
"""Seconds of handling without a pause after which everything else on the loop has its turn."""
_LOG_EVERY = 10.0
_PATIENCE = 3.0
"""Seconds that `close` waits for a handler which does not end when it is cancelled."""


@dataclass(slots=True)
class HandlerStats:
    """What one handler has done; `busy` and `slowest` in seconds, waits inside it included."""

    handled: int = 0
    errors: int = 0
    busy: float = 0.0
    slowest: float = 0.0


class Totals(Protocol):
    """Counters of all handlers together, and `listeners` as of now."""

    listeners: int
    handled: int
    handler_errors: int


class Listener(Generic[M]):
    """A subscription and the task that hands its messages to a handler, one after the other.

    What a handler raises is counted and logged; then the next message follows, or with
    `end_on_error` the listener ends with that error. A cancellation that comes out of the handler
    counts like an error, unless the task itself is being cancelled. Lives until it is closed, its
    subscription ends, or the layer is closed; nobody needs to keep it.
    """

    def __init__(
        self,
        subscription: Subscription[M],
        handler: Handler[M],
        *,
        end_on_error: bool,
        totals: Totals,
        on_end: Callable[[Listener[M]], None],
    ) -> None:
        self.name: str = getattr(handler, "__qualname__", None) or repr(handler)
        self.stats = HandlerStats()
        self.error: Exception | None = None
        """What ended it, if anything did."""
        self._subscription = subscription
        self._handler = handler
        self._end_on_error = end_on_error
        self._totals = totals
        self._logged_at = -_LOG_EVERY
        self._unlogged = 0
        self._task = asyncio.create_task(self._run(), name=f"rtx-listener {self.name}")
        self._task.add_done_callback(lambda _: on_end(self))

    def __repr__(self) -> str:
        return f"<Listener {self.name} {'ended' if self.ended else 'listening'}, {self.stats}>"

    @property
    def ended(self) -> bool:
        """Whether it calls its handler no more."""
        return self._task.done()

    @property
    def skipped(self) -> int:
        """Messages dropped because the handler was slow (policy `every`)."""
        return self._subscription.skipped

    @property
    def conflated(self) -> int:
        """Messages replaced by a newer one before they were handled (policy `latest`)."""
        return self._subscription.conflated

    async def ready(self) -> None:
        """Return when the server has confirmed; raises what the subscription failed with."""
        await self._subscription.ready()

    async def wait(self) -> None:
        """Return when it has ended, and raise what ended it. Cancelling this ends nothing."""
        await asyncio.wait([self._task])
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """End it; a handler that is waiting is cancelled. May be called by the handler itself."""
        await self._subscription.close()
        if asyncio.current_task() is self._task:
            return
        self._task.cancel()
        _, running = await asyncio.wait([self._task], timeout=_PATIENCE)
        if running:
            _log.warning("handler %s goes on though it was cancelled", self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self) -> None:
        try:
            await self._listen()
        except Exception as error:  # what ended the subscription: there is nobody to raise it to
            self.error = error
            _log.warning("handler %s gets no more messages: %s", self.name, error)
        finally:
            await self._subscription.close()

    async def _listen(self) -> None:
        handler, stats, totals, clock = self._handler, self.stats, self._totals, time.perf_counter
        paused_at = clock()
        async for message in self._subscription:
            error: Exception | None = None
            started = clock()
            try:
                outcome = handler(message)
                if outcome is not None and isawaitable(outcome):
                    await outcome
            except asyncio.CancelledError as cancelled:
                if _is_being_cancelled():
                    raise
                error = _own(cancelled)
            except Exception as raised:
                error = raised
            now = clock()
            spent = now - started
            stats.handled += 1
            stats.busy += spent
            totals.handled += 1
            if spent > stats.slowest:
                stats.slowest = spent
            if error is not None:
                self._failed(error)
                if self._end_on_error:
                    self.error = error
                    return
            if now - paused_at > _TURN:
                await asyncio.sleep(0)
                paused_at = clock()

    def _failed(self, error: Exception) -> None:
        self.stats.errors += 1
        self._totals.handler_errors += 1
        self._unlogged += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY or self._end_on_error:
            _log.error(
                "handler %s raised (%d times since this was last said); it gets %s",
                self.name,
                self._unlogged,
                "no more messages" if self._end_on_error else "the next message",
                exc_info=error,
            )
            self._logged_at, self._unlogged = now, 0


class Listeners(Generic[M]):
    """The listeners of one kind of channel, which end with it."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._running: set[Listener[M]] = set()

    @property
    def running(self) -> tuple[Listener[M], ...]:
        """Those that have not ended."""
        return tuple(self._running)

    def start(
        self, subscription: Subscription[M], handler: Handler[M], *, end_on_error: bool
    ) -> Listener[M]:
        """Hand the messages of a subscription to a handler."""
        listener = Listener(
            subscription,
            handler,
            end_on_error=end_on_error,
            totals=self._totals,
            on_end=self._ended,
        )
        self._running.add(listener)
        self._totals.listeners += 1
        return listener

    async def close(self) -> None:
        """End all of them."""
        await asyncio.gather(*(listener.close() for listener in self.running))

    def _ended(self, listener: Listener[M]) -> None:
        self._running.discard(listener)
        self._totals.listeners -= 1


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _own(error: asyncio.CancelledError) -> Exception:
    """A cancellation that nobody asked this task for, as an error that can be kept and raised."""
    cancelled = RuntimeError("something that the handler awaited was cancelled")
    cancelled.__cause__ = error
    return cancelled
