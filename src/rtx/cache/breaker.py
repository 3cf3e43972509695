"""Whether the cache's server is asked at all, and what it must be told before it is trusted.

Guarantees:

- an invalidation that could not be sent, or of which nobody knows whether it was, is owed for as
  long as the stale value could live, and sent before any cache of this process reads again;
- an invalidation that was confirmed is owed again when a connection is lost, because the server
  that answers next may be a replica that never heard of it, or the same with older data;
- while the server fails, reads do not wait for it, and one probe at a time asks whether it is back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from rtx.cache.remote import CHUNK, Debt, drop
from rtx.errors import RtxError, ServerBusy, ServerError, Unavailable, anew
from rtx.wire import Backoff, Caller

_FAILURES = 5
_OWED_AT_MOST = 100_000
_RECENT_AT_MOST = 10_000
_SETTLE_WITHIN = 1.0


@dataclass(slots=True)
class BreakerStats:
    """Counters since it was made, and as of now `open` (1 or 0) and `owed` invalidations.

    `repeated` were sent again after a connection was lost. `forgotten` are confirmed ones that are
    not repeated any more, because of too many later ones.
    """

    open: int = 0
    owed: int = 0
    opened: int = 0
    probes: int = 0
    settled: int = 0
    repeated: int = 0
    forgotten: int = 0


class Breaker:
    """Stands between the caches of a process and their server.

    Closed: reads go to the server. Open, after five failures in a row or when an invalidation is
    owed: they do not, and a task of its own probes after 50 ms to 1 s. Half-open, during a probe:
    what is owed is sent, then a key is read within `patience` seconds; success closes it.

    Of owed invalidations at most 100,000 are kept; with more all of them are forgotten, and it
    stays open until the last of the stale values has run out.
    """

    def __init__(self, caller: Caller, patience: float = 0.1) -> None:
        self.allows = True
        """Whether the server may be asked."""
        self.calm = True
        """Whether it may, and the last read was answered."""
        self._failures = 0
        self._caller = caller
        self._patience = patience
        self._cause: RtxError = Unavailable("the cache has not been asked yet")
        self._suspect = ""
        self._owed: dict[str, tuple[float, Debt]] = {}
        self._recent: OrderedDict[str, tuple[float, Debt]] = OrderedDict()
        self._blind_until = 0.0
        self._probing = False
        self._outcome: asyncio.Future[RtxError | None] | None = None
        self._backoff = Backoff()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stats = BreakerStats()
        caller.on_loss(self.doubt)

    @property
    def stats(self) -> BreakerStats:
        self._stats.open = int(not self.allows)
        self._stats.owed = len(self._owed)
        return self._stats

    async def close(self) -> None:
        """End the probing; what is owed is tried once more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(Unavailable("the data layer was closed meanwhile"))
        if self._owed:
            await self._probe(settle_within=self._patience)

    # --- what the caches tell --------------------------------------------------------------

    def failed(self, key: str, error: RtxError) -> None:
        """The server did not answer a read of this key."""
        self._failures += 1
        self.calm = False
        if self._failures >= _FAILURES and self.allows:
            self._suspect = key
            self._open(error, at_once=False)

    def succeeded(self) -> None:
        """The server has answered a read."""
        self._failures = 0
        self.calm = self.allows

    def owe(self, debts: Mapping[str, Debt], ttl: float, cause: RtxError) -> None:
        """These may not have been invalidated; their values live for at most `ttl` seconds."""
        now = monotonic()
        for key, debt in debts.items():
            self._recent.pop(key, None)
            self._owed[key] = (now + ttl, debt)
            self._suspect = key
        if len(self._owed) > _OWED_AT_MOST:
            self._owed = {key: item for key, item in self._owed.items() if item[0] > now}
            if len(self._owed) > _OWED_AT_MOST:
                self._blind_until = max(until for until, _ in self._owed.values())
                self._owed.clear()
        self._open(cause, at_once=True)

    def confirm(self, debts: Mapping[str, Debt], ttl: float) -> None:
        """These were invalidated, or written over, on the server of this moment."""
        until = monotonic() + ttl
        for key, debt in debts.items():
            self._recent[key] = (until, debt)
            self._recent.move_to_end(key)
        self._trim()

    def doubt(self) -> None:
        """The server may be another now, or have lost its newest writes."""
        now = monotonic()
        again = {key: item for key, item in self._recent.items() if item[0] > now}
        self._recent.clear()
        if again:
            self._stats.repeated += len(again)
            self._owed = again | self._owed
            self._suspect = next(iter(again))
            lost = Unavailable("a connection was lost, and what was invalidated is repeated first")
            self._open(lost, at_once=True)

    def hurry(self) -> None:
        """Probe now rather than after the pause: there is news of the server."""
        self._backoff.hurry()

    # --- what the caches ask ---------------------------------------------------------------

    async def admit(self) -> None:
        """Return when the server may be asked; wait for no more than a probe that is under way.

        Raises what the server failed with.
        """
        if not self.allows:
            if not self._probing:
                raise anew(self._cause)
            await self.attempt()

    async def attempt(self) -> None:
        """Probe now, or join the probe that is under way. Raises what the server failed with."""
        if self.allows:
            return
        if self._outcome is None or self._closed:
            raise anew(self._cause)
        self._backoff.hurry()
        error = await asyncio.shield(self._outcome)
        if error is not None:
            raise anew(error)

    # --- open ------------------------------------------------------------------------------

    def _open(self, cause: RtxError, *, at_once: bool) -> None:
        self._cause = cause
        if not self.allows:
            return
        self.allows = self.calm = False
        self._stats.opened += 1
        if not self._closed:
            self._outcome = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._heal(at_once), name="rtx-breaker")

    async def _heal(self, at_once: bool) -> None:
        while self._outcome is not None:
            outcome = self._outcome
            if not at_once:
                await self._backoff.rest()
            at_once = False
            error = await self._probe()
            self._outcome = None if error is None else asyncio.get_running_loop().create_future()
            outcome.set_result(error)
        self._backoff.reset()

    async def _probe(self, settle_within: float = _SETTLE_WITHIN) -> RtxError | None:
        """Settle and ask; closes the breaker, or returns what is wrong."""
        self._stats.probes += 1
        self._probing = True
        try:
            while True:
                await self._settle(settle_within)
                if monotonic() < self._blind_until:
                    raise Unavailable(
                        f"over {_OWED_AT_MOST} invalidations could not be sent, so that nothing "
                        "cached is trusted until it has run out"
                    )
                await self._ask()
                if not self._owed:
                    break
        except RtxError as error:
            self._cause = error
            return error
        except Exception as error:  # the task must outlive a fault in a caller
            self._cause = Unavailable(f"the probe failed in a new way: {error!r}")
            return self._cause
        finally:
            self._probing = False
        self.allows = True
        self.succeeded()
        return None

    async def _ask(self) -> None:
        try:
            await self._caller.call("GET", self._suspect, timeout=self._patience)
        except ServerBusy:
            raise
        except ServerError:
            return  # whatever it says of this key, it answers

    async def _settle(self, within: float) -> None:
        """Send what is owed; raises, and keeps the rest, when it cannot."""
        while self._owed:
            now = monotonic()
            some = dict(islice(self._owed.items(), CHUNK))
            due = {key: debt for key, (until, debt) in some.items() if until > now}
            if due:
                await drop(self._caller, due, within)
            for key, item in some.items():
                if self._owed.get(key) is item:  # else it was invalidated again meanwhile
                    del self._owed[key]
                    if key in due:
                        self._recent[key] = item
            self._stats.settled += len(due)
            self._trim()

    def _trim(self) -> None:
        while len(self._recent) > _RECENT_AT_MOST:
            _, (until, _) = self._recent.popitem(last=False)
            self._stats.forgotten += until > monotonic()
