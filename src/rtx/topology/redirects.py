"""Commands on their way through a cluster, until each is answered or has failed for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import hiredis

from rtx.errors import (
    AccessDenied,
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    RtxError,
    ServerBusy,
    ServerError,
    Unavailable,
)
from rtx.setting_groups import PoolSettings
from rtx.topology.cluster import ClusterTopology, redirection
from rtx.urls import Address
from rtx.wire.pool import Pool
from rtx.wire.replies import Reply

REDIRECTS = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})
"""Error replies which mean that the command was not carried out here, and may be elsewhere."""

_ASKING = hiredis.pack_command(("ASKING",))
_NEWS_WITHIN = 0.05
_TRY_AGAIN_AFTER = 0.01
_HOPS_WITHOUT_PAUSE = 5  # two nodes may send a call to and fro for as long as they disagree
_SAME_OUTAGE = 10.0  # troubles of a node that are nearer than this are one outage


class Errand:
    """One command: its bytes and slot, and how far it has got."""

    __slots__ = ("asked", "asking", "error", "failure", "hops", "packed", "reply", "slot")

    def __init__(self, packed: bytes, slot: int) -> None:
        self.packed = packed
        self.slot = slot
        self.error: RtxError | None = None
        """Why it has not been carried out yet; None once it is answered or has failed."""
        self.asked: Address | None = None
        """The node that it was sent to last."""
        self.asking: Address | None = None
        """The node that an ASK named, for the next attempt only."""
        self.failure: RtxError | None = None
        self.reply: Reply = None
        self.hops = 0


class Errands:
    """Sees to errands whose first attempt was redirected, or did not leave this process."""

    def __init__(
        self,
        topology: ClusterTopology,
        settings: PoolSettings,
        pool_at: Callable[[Address], Pool],
    ) -> None:
        self._topology = topology
        self._settings = settings
        self._pool_at = pool_at
        self._outages: dict[Address | None, tuple[float, float]] = {}  # began, last seen
        self.retries = 0
        """Times that a command was sent again, or waited for a node to take over."""

    async def settle(
        self, errands: Sequence[Errand], timeout: float | None, *, patient: bool = True
    ) -> list[Reply]:
        """The replies in order, errors among them, once all have been sent where they belong.

        Each has been sent once and its outcome taken. `timeout` is each attempt's.

        Raises `Unavailable` kinds when any errand could not be done, with `maybe_applied` set if
        any may have been.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + (self._settings.pool_timeout if patient else 0)
        left = list(errands)
        while left := [errand for errand in left if errand.error is not None]:
            now = loop.time()
            pause = max(self._next_step(errand, now, give_up) for errand in left)
            left = [errand for errand in left if errand.failure is None]
            if not left:
                break
            self.retries += len(left)
            if pause:
                await self._topology.wait_for_change(min(pause, max(0.001, give_up - now)))
            await self._send(left, timeout)
        failed = [errand.failure for errand in errands if errand.failure is not None]
        if failed:
            raise _joint(failed, partly=len(failed) < len(errands))
        return [errand.reply for errand in errands]

    # --- one attempt -----------------------------------------------------------------------

    async def _send(self, errands: Sequence[Errand], timeout: float | None) -> None:
        """Send each to its node, in order, all nodes at the same time; note what came of it."""
        owners = self._topology.owners
        groups: dict[tuple[Address, bool], list[Errand]] = {}
        for errand in errands:
            address = errand.asked = errand.asking or owners[errand.slot]
            if address is None:
                errand.error = Unavailable(f"slot {errand.slot} of the cluster has no node")
            else:
                groups.setdefault((address, errand.asking is not None), []).append(errand)
        outcomes = await asyncio.gather(
            *(self._send_group(*key, group, timeout) for key, group in groups.items()),
            return_exceptions=True,
        )
        for group, outcome in zip(groups.values(), outcomes, strict=True):
            for place, errand in enumerate(group):
                errand.asking = None
                self.take(errand, outcome if isinstance(outcome, BaseException) else outcome[place])

    async def _send_group(
        self, address: Address, asking: bool, group: list[Errand], timeout: float | None
    ) -> list[Reply]:
        pool = self._pool_at(address)
        if not asking:
            return await pool.batch_packed([errand.packed for errand in group], timeout=timeout)
        # ASKING is for the very next command of its connection: they leave as one batch.
        commands = [part for errand in group for part in (_ASKING, errand.packed)]
        replies = await pool.batch_packed(commands, timeout=timeout)
        return [*map(_without_asking, replies[::2], replies[1::2])]

    def take(self, errand: Errand, outcome: Reply | BaseException) -> None:
        """Note what came of an attempt: a reply, a failure, or a reason for another attempt."""
        errand.error = None
        if isinstance(outcome, ServerError):
            if outcome.prefix in REDIRECTS:
                errand.error = outcome
            else:
                errand.reply = outcome
        elif isinstance(outcome, Unavailable):
            if outcome.maybe_applied:
                errand.failure = outcome
                self._topology.look()
            else:
                errand.error = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            errand.reply = outcome
            self._outages.pop(errand.asked, None)

    # --- between attempts ------------------------------------------------------------------

    def _next_step(self, errand: Errand, now: float, give_up: float) -> float:
        """Where the errand goes next, and after what pause; or its failure, when it is too late."""
        error, errand.hops = errand.error, errand.hops + 1
        prefix = error.prefix if isinstance(error, ServerError) else ""
        target = redirection(error, errand.asked) if isinstance(error, ServerError) else None
        if target is not None and errand.hops <= _HOPS_WITHOUT_PAUSE:
            self._redirect(errand, prefix, target)
            return 0.0
        if prefix in ("", "CLUSTERDOWN"):
            self._topology.look()
            began, seen = self._outages.get(errand.asked, (now, now))
            if now - seen > _SAME_OUTAGE:
                began = now
            self._outages[errand.asked] = (began, now)
            give_up = min(give_up, began + self._settings.pool_timeout)
        if now >= give_up:
            errand.failure = _final(error, errand)
            return 0.0
        if target is not None:
            self._redirect(errand, prefix, target)
        return _TRY_AGAIN_AFTER if prefix == "TRYAGAIN" else _NEWS_WITHIN

    def _redirect(self, errand: Errand, prefix: str, target: Address) -> None:
        if prefix == "ASK":
            errand.asking = target
        else:
            self._topology.moved(errand.slot, target)


def _without_asking(asked: Reply, reply: Reply) -> Reply:
    """The reply; but where ASKING was denied, that is why the command was sent on and on."""
    redirected = isinstance(reply, ServerError) and reply.prefix in REDIRECTS
    return asked if isinstance(asked, AccessDenied) and redirected else reply


def _final(error: RtxError | None, errand: Errand) -> RtxError:
    """What an errand that was never carried out ends with."""
    where = f"slot {errand.slot}, {errand.asked}"
    if isinstance(error, ServerError):
        if error.prefix == "TRYAGAIN":
            return ServerBusy(f"{error} ({where}: its keys are being moved)", error.prefix)
        return Unavailable(f"the cluster did not take the call ({where}): {error}")
    if isinstance(error, ConnectionLost | ConnectFailed):
        return type(error)(str(error))
    return Unavailable(str(error))


def _joint(failures: list[RtxError], partly: bool) -> RtxError:
    """One error for several commands: it may have been applied if any of them may have been."""
    worst = max(failures, key=lambda error: isinstance(error, Unavailable) and error.maybe_applied)
    if not isinstance(worst, Unavailable):
        return worst
    kind = (
        type(worst)
        if isinstance(worst, CallTimeout | ConnectionLost | ConnectFailed)
        else Unavailable
    )
    return kind(str(worst), maybe_applied=worst.maybe_applied or partly)
