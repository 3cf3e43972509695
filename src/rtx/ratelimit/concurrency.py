"""How many may do something at once: places with leases, over all processes.

Guarantees, for every id and over all processes:

- never are more than `limit` leases in force, by the server's clock;
- a lease is renewed every third of it while its holder lives; one that dies keeps its place for a
  `lease` at most;
- a place is given back when its block is left, however that happens;
- who cannot renew in time is told before anybody else can have the place, unless its own process
  stands still.

Replication is asynchronous: a place that the old primary gave just before a failover may be unknown
to the new one, which may give it once more. Its first holder is told at its next renewal.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import cast

from rtx.errors import RtxError, SettingsError, Unavailable
from rtx.keys import Keys
from rtx.ratelimit.base import Decision, Id, RateLimited
from rtx.ratelimit.holders import Holders
from rtx.ratelimit.lease import Lease
from rtx.ratelimit.outages import Outage, Outages
from rtx.setting_groups import ConcurrencySettings, LimiterSettings
from rtx.wire import Caller

_SOONEST, _LATEST = 0.01, 0.1  # seconds between two questions of the first who waits
_RETRY = 1.0  # seconds: a place may come free at any time, so this is how often to look
_FREE_EVERY = 0.5
_FOREIGN = Outage("wrong_type", -math.inf, -math.inf)  # of one key, and for good


@dataclass(slots=True)
class ConcurrencyStats:
    """Counters since the layer was opened; `held` is how many hold a place in this process now.

    `refused` counts those who got none. `expired`: leases that were lost while they were held.
    `errors`: answers without the server, `degraded` counts them by reason.
    """

    held: int = 0
    taken: int = 0
    refused: int = 0
    expired: int = 0
    errors: int = 0
    degraded: dict[str, int] = field(default_factory=dict)


class _Line:
    """Those of this process who wait for a place of one id; only the first of them asks."""

    def __init__(self) -> None:
        self.first = asyncio.Lock()
        self.freed = asyncio.Event()
        self.waiting = 0


class NamedConcurrency:
    """At most `limit` at once for an id; made by `Concurrency`."""

    def __init__(self, name: str, settings: ConcurrencySettings, holders: Holders) -> None:
        self.name = name
        self.settings = settings
        self.stats = ConcurrencyStats()
        self._holders = holders
        self._prefix = holders.keys.concurrency(name, "")
        self._lease_ms = max(1, round(settings.lease * 1000))
        self._here: dict[str, int] = {}
        self._lines: dict[str, _Line] = {}

    @property
    def limit(self) -> int:
        """Places of an id."""
        return self.settings.limit

    @asynccontextmanager
    async def hold(self, id: Id, *, wait: float = 0.0) -> AsyncIterator[Lease]:
        """Hold a place until the block ends, waiting at most `wait` seconds for one.

        Raises `RateLimited` when there is none; nothing else because of a server: without it
        `when_down` decides. Those who wait in one process get their places in turn; between
        processes there is no order.
        """
        lease = await self._take(id, wait)
        try:
            yield lease
        finally:
            lease.stop()
            # A second cancellation must not keep the place: a task of its own gives it back.
            await asyncio.shield(self._holders.spawn(self._give_back(lease)))

    async def taken(self, id: Id) -> int:
        """Places of an id that are taken now. Raises `Unavailable`, `ServerError`."""
        reply = await self._ask(self._key(id), "", keep=True)
        return reply[1]

    # --- taking ----------------------------------------------------------------------------

    async def _take(self, id: Id, wait: float) -> Lease:
        key, token = self._key(id), self._holders.token()
        if wait <= 0 or key not in self._lines:  # behind those who wait already
            found = await self._try(id, key, token)
            if isinstance(found, Lease):
                return found
            if wait <= 0:
                self.stats.refused += 1
                raise RateLimited(found)
        return await self._wait(id, key, token, monotonic() + wait)

    async def _wait(self, id: Id, key: str, token: str, end: float) -> Lease:
        line = self._lines.setdefault(key, _Line())
        line.waiting += 1
        found: Lease | Decision = self._refusal(0.0)
        try:
            async with asyncio.timeout(end - monotonic()):
                await line.first.acquire()
            try:
                pause = _SOONEST
                while True:
                    line.freed.clear()
                    found = await self._try(id, key, token)
                    left = end - monotonic()
                    if isinstance(found, Lease):
                        return found
                    if left <= 0:
                        break
                    await _either(line.freed, min(left, pause * random.uniform(0.5, 1.0)))
                    pause = min(2 * pause, _LATEST)
            finally:
                line.first.release()
        except TimeoutError:
            pass
        finally:
            line.waiting -= 1
            if not line.waiting:
                self._lines.pop(key, None)
        self.stats.refused += 1
        raise RateLimited(found if isinstance(found, Decision) else self._refusal(0.0))

    async def _try(self, id: Id, key: str, token: str) -> Lease | Decision:
        """Ask once; the lease, or the refusal. If the caller gives up meanwhile, give it back."""
        outages, asked = self._holders.outages, monotonic()
        outage = outages.stop(key) if outages.found else None
        if outage is not None:
            return self._without(id, key, token, outage)
        asking = self._holders.spawn(self._ask(key, token))
        try:
            held, taken, first = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._holders.spawn(self._abandon(asking, key, token))
            raise
        except RtxError as error:
            outage = outages.failed(key, error)
            sent = isinstance(error, Unavailable) and error.maybe_applied
            return self._without(id, key, token, outage, sent=sent)
        if held < 0:
            return self._without(id, key, token, _FOREIGN)
        outages.answered(key)
        if not held:
            return self._refusal(first / 1000)
        lease = Lease(
            self.name, id, self.settings.lease, asked=asked, remaining=max(0, self.limit - taken)
        )
        lease.keep(lambda timeout: self._renew(key, token, timeout), self._note_loss)
        return self._begin(lease, key, token)

    def _without(
        self, id: Id, key: str, token: str, outage: Outage, *, sent: bool = False
    ) -> Lease | Decision:
        """What `when_down` says; `sent`: the server may have given the place all the same."""
        self.stats.errors += 1
        reason = outage.reason
        self.stats.degraded[reason] = self.stats.degraded.get(reason, 0) + 1
        when_down, limiter = self.settings.when_down, self._holders.limiter
        left = self.limit
        if when_down == "local":
            young = monotonic() - outage.since < limiter.local_for
            left = self.limit // limiter.processes - self._here.get(key, 0) if young else 0
        if when_down == "closed" or left <= 0:
            if sent:
                self._holders.spawn(self._free(key, token))
            return self._refusal(0.0, reason, sent=sent)
        lease = Lease(
            self.name,
            id,
            self.settings.lease,
            asked=monotonic(),
            remaining=left - 1,
            reason=reason,
        )
        return self._begin(lease, key, token if sent else "")

    def _begin(self, lease: Lease, key: str, token: str) -> Lease:
        self.stats.taken += 1
        self.stats.held += 1
        self._here[key] = self._here.get(key, 0) + 1
        self._holders.held[lease] = (key, token)
        return lease

    def _refusal(self, first: float, reason: str = "", *, sent: bool = False) -> Decision:
        """`first`: seconds until the next lease ends, unless it is renewed."""
        return Decision(
            False, self.limit, 0, _RETRY, first, self.name, 0.0, bool(reason), reason, sent
        )

    # --- keeping and giving back -------------------------------------------------------------

    async def _renew(self, key: str, token: str, timeout: float) -> bool:
        held, _, _ = await self._ask(key, token, keep=True, timeout=timeout)
        self._holders.outages.answered(key)
        return held == 1

    def _note_loss(self, _: Lease) -> None:
        self.stats.expired += 1

    async def _give_back(self, lease: Lease) -> None:
        key, token = self._holders.held.pop(lease, ("", ""))
        if not key:
            return  # the layer was closed meanwhile
        self.stats.held -= 1
        left = self._here[key] - 1
        if left:
            self._here[key] = left
        else:
            del self._here[key]
        if token:
            await self._free(key, token)
        line = self._lines.get(key)
        if line is not None:
            line.freed.set()

    async def _abandon(self, asking: asyncio.Task[list[int]], key: str, token: str) -> None:
        try:
            if (await asking)[0] != 1:
                return
        except RtxError as error:
            if not (isinstance(error, Unavailable) and error.maybe_applied):
                return
        await self._free(key, token)

    async def _free(self, key: str, token: str) -> None:
        """Free a place now, or as soon as the server answers; its lease ends in any case."""
        try:
            await self._holders.free(key, token)
        except RtxError:
            self._holders.spawn(self._free_later(key, token), waits=False)

    async def _free_later(self, key: str, token: str) -> None:
        end = monotonic() + self.settings.lease
        while monotonic() < end:
            await asyncio.sleep(_FREE_EVERY * random.uniform(0.5, 1.0))
            with suppress(RtxError):
                await self._holders.free(key, token)
                return

    async def _ask(
        self, key: str, token: str, *, keep: bool = False, timeout: float | None = None
    ) -> list[int]:
        deadline = self._holders.limiter.deadline
        reply = await self._holders.script.run(
            self._holders.caller,
            [key],
            *(token, self.limit, self._lease_ms, int(keep)),
            timeout=deadline if timeout is None else min(deadline, timeout),
        )
        return cast(list[int], reply)

    def _key(self, id: Id) -> str:
        return f"{self._prefix}{id}"


class Concurrency(Mapping[str, NamedConcurrency]):
    """The named concurrency limits: `limits.concurrency["reports"].hold("ann")`."""

    def __init__(
        self,
        caller: Caller,
        keys: Keys,
        named: Mapping[str, ConcurrencySettings],
        limiter: LimiterSettings,
        outages: Outages,
    ) -> None:
        self._holders = Holders(caller, keys, limiter, outages)
        self._named = {
            name: NamedConcurrency(name, settings, self._holders)
            for name, settings in named.items()
        }

    async def close(self) -> None:
        """Give back every place of this process, at once."""
        await self._holders.close()

    def named(self, name: str, settings: ConcurrencySettings) -> NamedConcurrency:
        """The limit of this name, made with these settings if there is none.

        Raises `SettingsError` when it exists with others.
        """
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = NamedConcurrency(name, settings, self._holders)
        if found.settings != settings:
            raise SettingsError(
                f"the concurrency limit {name!r} exists with other settings; give it another name"
            )
        return found

    def __getitem__(self, name: str) -> NamedConcurrency:
        try:
            return self._named[name]
        except KeyError:
            raise _NoSuchConcurrency(
                f"no concurrency limit is named {name!r}; add [concurrency.{name}] to rtx.toml"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


class _NoSuchConcurrency(SettingsError, KeyError):
    """A mapping's `in` and `get` wait for a `KeyError`."""

    __str__ = Exception.__str__


async def _either(event: asyncio.Event, timeout: float) -> None:
    """Wait for the event, or as long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
