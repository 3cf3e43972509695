"""A place that somebody holds, and the clock behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Literal

from rtx.errors import RtxError
from rtx.ratelimit.base import Id

_PARTS = 3  # of a lease: it is renewed when the first has passed, so that two tries may fail

Lost = Literal["", "expired", "forgotten"]


class Lease:
    """A place among those that an id may have at once; `hold` gives it and takes it back.

    - `lost`: set when the place cannot be counted on any more. `cause` is then `expired`: it could
      not be renewed in time, or this process stood still; or `forgotten`: the server has no such
      holder, because it lost its data or failed over. Others may have the place now, so stop, or
      finish what does no harm twice
    - `held`: whether the place is still surely this one's, by this process's clock, which stands
      nearer to the truth than the event when the loop was blocked
    - `remaining`: places left when it was taken
    - `degraded`: the server gave no answer and `when_down` let it pass; nobody else knows of this
      place, it is not renewed and cannot be lost. `reason` is the error's code

    Times in seconds; `asked` is when the place was asked for, by the monotonic clock.
    """

    def __init__(
        self,
        name: str,
        id: Id,
        lease: float,
        *,
        asked: float,
        remaining: int,
        reason: str = "",
    ) -> None:
        self.name = name
        self.id = id
        self.remaining = remaining
        self.degraded = bool(reason)
        self.reason = reason
        self.cause: Lost = ""
        self.lost = asyncio.Event()
        self._lease = lease
        self._until = asked + lease
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether the place is surely still held."""
        return not self.lost.is_set() and (self.degraded or monotonic() < self._until)

    def keep(
        self, renew: Callable[[float], Awaitable[bool]], told: Callable[[Lease], None]
    ) -> None:
        """Renew it from now on, and tell when it is lost.

        `renew(timeout)` says whether the server still knows of it, or raises. A lease that is given
        back within its first third costs no task.
        """

        def begin() -> None:
            self._task = asyncio.create_task(self._keep(renew, told), name="rtx-lease")

        self._timer = asyncio.get_running_loop().call_later(self._lease / _PARTS, begin)

    def stop(self) -> None:
        """Renew it no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _keep(
        self, renew: Callable[[float], Awaitable[bool]], told: Callable[[Lease], None]
    ) -> None:
        pause = self._lease / _PARTS
        while not self.cause:
            asked = monotonic()
            # Asked too late, a server that knows of it still would only confirm what others may
            # have seen expire: its clock and ours are not the same.
            if asked >= self._until:
                self.cause = "expired"
                break
            try:
                known = await renew(min(pause, self._until - asked))
            except RtxError:
                await asyncio.sleep(min(pause / 3, max(0.0, self._until - monotonic())))
                continue
            if not known:
                self.cause = "expired" if monotonic() >= self._until else "forgotten"
                break
            self._until = asked + self._lease
            await asyncio.sleep(pause)
        self.lost.set()
        told(self)
