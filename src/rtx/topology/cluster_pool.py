"""Calls to a cluster: each goes to the node that has its key, wherever that has moved to."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Sequence

import hiredis

from rtx.errors import (
    CallTimeout,
    ConnectionLost,
    RtxError,
    ServerError,
    Unavailable,
)
from rtx.setting_groups import PoolSettings
from rtx.topology.cluster import ClusterTopology
from rtx.topology.redirects import REDIRECTS, Errand, Errands
from rtx.topology.routing import SPLIT, name_of, slot_of, slot_of_packed
from rtx.topology.slots import SLOTS
from rtx.urls import Address
from rtx.wire.connection import Dial
from rtx.wire.options import Argument
from rtx.wire.pool import Pool, PoolStats
from rtx.wire.replies import Reply

_DRAIN = 0.2  # what a former primary gets to answer the calls that it has
_GUEST_FOR = 30.0  # how long a node without slots, met on the way, keeps its connections


class ClusterCaller:
    """A `Caller` over one pool per primary.

    MOVED, ASK, TRYAGAIN and CLUSTERDOWN mean that a command was not carried out, so it is sent
    again, to whom it belongs. A call whose node is away waits `pool_timeout` for another node to
    take over, counted from the beginning of the outage; after that calls fail at once. What was
    sent and not answered is never sent again. A `timeout` covers all of this.
    """

    def __init__(self, topology: ClusterTopology, settings: PoolSettings) -> None:
        self._topology = topology
        self._settings = settings
        self._pools: dict[Address, Pool] = {}
        self._met: dict[Address, float] = {}  # when a redirection first led to a node without slots
        self._by_slot: list[Pool | None] = [None] * SLOTS
        self._addresses: dict[Pool, Address] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._past = PoolStats()  # of pools that are gone
        self._closed = False
        self._on_loss: list[Callable[[], None]] = []
        self.errands = Errands(topology, settings, self.pool_at)

    # --- life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Dial every primary; raises when none can be reached or one refuses the credentials."""
        primaries = self._topology.primaries
        pools = [self._new_pool(address) for address in primaries]
        errors: list[RtxError] = []
        outcomes = await asyncio.gather(*(pool.open() for pool in pools), return_exceptions=True)
        for pool, outcome in zip(pools, outcomes, strict=True):
            if isinstance(outcome, RtxError):
                errors.append(outcome)
                pool.start()
            elif outcome is not None:
                raise outcome
        fatal = [error for error in errors if not isinstance(error, Unavailable)]
        if fatal or len(errors) == len(pools):
            raise (fatal or errors)[0]
        self._follow()
        self._topology.on_change(self._follow)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    def hurry(self) -> None:
        for pool in self._pools.values():
            pool.hurry()

    def on_loss(self, told: Callable[[], None]) -> None:
        self._on_loss.append(told)

    def _tell_loss(self) -> None:
        for told in self._on_loss:
            told()

    @property
    def down(self) -> RtxError | None:
        for address in self._topology.primaries:
            pool = self._pools.get(address)
            if pool is not None and pool.down is not None:
                return pool.down
        trouble = self._topology.trouble
        return Unavailable(f"the cluster is down: {trouble}") if trouble else None

    @property
    def stats(self) -> PoolStats:
        total = dataclasses.replace(self._past, retries=self._past.retries + self.errands.retries)
        for pool in self._pools.values():
            _add(total, pool.stats)
        return total

    # --- pools -----------------------------------------------------------------------------

    def pool_at(self, address: Address) -> Pool:
        """The pool of a node; a new one for a node that a redirection leads to."""
        pool = self._pools.get(address)
        if pool is None:
            self._met[address] = asyncio.get_running_loop().time()
            pool = self._new_pool(address)
            pool.start()
        return pool

    def _new_pool(self, address: Address) -> Pool:
        # The warm spares are for the role, whatever the number of its nodes.
        nodes = max(1, len(self._topology.primaries))
        settings = self._settings.model_copy(
            update={"min_idle": -(-self._settings.min_idle // nodes)}
        )
        pool = self._pools[address] = Pool(self._dial(address), settings)
        pool.on_loss(self._tell_loss)
        self._addresses[pool] = address
        return pool

    def _dial(self, address: Address) -> Dial:
        return lambda on_close: self._topology.dial_node(address, on_close)

    def _follow(self) -> None:
        """The slots have other owners: give them their pools, and leave nodes that have none."""
        if self._closed:
            return
        primaries = self._topology.primaries
        owners = {*self._topology.owners, *primaries} - {None}
        for address in owners:
            if address is not None and address not in self._pools:
                self._new_pool(address).start()
        pools: dict[Address | None, Pool] = dict(self._pools.items())
        self._by_slot = [pools.get(address) for address in self._topology.owners]
        oldest = asyncio.get_running_loop().time() - _GUEST_FOR
        for address in self._pools.keys() - owners:
            if self._met.get(address, oldest) <= oldest:
                self._leave(address)

    def _leave(self, address: Address) -> None:
        pool = self._pools.pop(address)
        self._tell_loss()
        self._met.pop(address, None)
        del self._addresses[pool]
        _add(self._past, dataclasses.replace(pool.stats, connections=0, in_flight=0))
        within = 0.0 if address in self._topology.silent else _DRAIN
        task = asyncio.create_task(pool.drain(within), name=f"rtx-drain-{address}")
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    # --- calls -----------------------------------------------------------------------------

    async def call(self, *args: Argument, timeout: float | None = None) -> Reply:
        """See `Caller`. PING asks every primary."""
        if timeout is None:
            return await self._call(args, None)
        try:
            async with asyncio.timeout(timeout):
                return await self._call(args, timeout)
        except TimeoutError:
            raise _too_late() from None

    async def _call(self, args: tuple[Argument, ...], timeout: float | None) -> Reply:
        name = name_of(args)
        if name in SPLIT and len(args) > 2:
            return await self._call_each(name, args[1:], timeout)
        slot = slot_of(name, args)
        if slot is None:
            return await self._call_anyone(name, args, timeout)
        pool = self._by_slot[slot]
        error: RtxError | None = None
        asked: Address | None = None
        if pool is not None:
            try:
                return await pool.call(*args, timeout=timeout)
            except ServerError as refused:
                if refused.prefix not in REDIRECTS:
                    raise
                error = refused
            except Unavailable as away:
                if away.maybe_applied:
                    self._topology.look()
                    raise
                error = away
            asked = self._addresses.get(pool)
        errand = Errand(_pack(args), slot)
        errand.asked = asked
        self.errands.take(errand, error or Unavailable("its slot has no node"))
        [reply] = await self.errands.settle([errand], timeout)
        if isinstance(reply, ServerError):
            raise reply
        return reply

    async def _call_each(self, name: str, keys: Sequence[Argument], timeout: float | None) -> Reply:
        """One command for each key: those of a migrating slot need not be in one place."""
        replies = await self._batch([(name, key) for key in keys], timeout)
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        if name == "MGET":
            return [reply[0] if isinstance(reply, list) else None for reply in replies]
        return sum(reply for reply in replies if isinstance(reply, int))

    async def _call_anyone(
        self, name: str, args: tuple[Argument, ...], timeout: float | None
    ) -> Reply:
        if name != "PING":
            up = [pool for pool in self._pools.values() if pool.down is None]
            return await random.choice(up or [*self._pools.values()]).call(*args, timeout=timeout)
        if self._topology.trouble:
            raise Unavailable(f"the cluster is down: {self._topology.trouble}")
        pools = [self.pool_at(address) for address in self._topology.primaries]
        replies = await asyncio.gather(*(pool.call(*args, timeout=timeout) for pool in pools))
        return replies[0]

    async def execute(
        self, *args: Argument, idempotent: bool = False, timeout: float | None = None
    ) -> Reply:
        """See `Caller`; `max_retries` is for what was sent."""
        if timeout is None:
            return await self._execute(args, idempotent, None)
        try:
            async with asyncio.timeout(timeout):
                return await self._execute(args, idempotent, timeout)
        except TimeoutError:
            raise _too_late() from None

    async def _execute(
        self, args: tuple[Argument, ...], idempotent: bool, timeout: float | None
    ) -> Reply:
        sent = False
        for attempt in range(self._settings.max_retries + 1):
            try:
                return await self._call(args, timeout)
            except Unavailable as error:
                again = isinstance(error, ConnectionLost) and error.maybe_applied and idempotent
                sent = error.maybe_applied = sent or error.maybe_applied
                if not again or attempt == self._settings.max_retries:
                    raise
                self.errands.retries += 1
        raise AssertionError("unreachable")

    # --- batches ---------------------------------------------------------------------------

    async def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> list[Reply]:
        """See `Caller`."""
        if timeout is None:
            return await self._batch(commands, None)
        try:
            async with asyncio.timeout(timeout):
                return await self._batch(commands, timeout)
        except TimeoutError:
            raise _too_late() from None

    async def _batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None
    ) -> list[Reply]:
        slots = [slot_of(name_of(args), args) for args in commands]
        return await self._run(
            [_pack(args) for args in commands],
            [random.randrange(SLOTS) if slot is None else slot for slot in slots],
            timeout,
        )

    async def batch_packed(self, commands: Sequence[bytes], *, patient: bool = True) -> list[Reply]:
        """See `Caller`."""
        return await self._run(commands, [*map(slot_of_packed, commands)], None, patient)

    async def _run(
        self,
        commands: Sequence[bytes],
        slots: Sequence[int],
        timeout: float | None,
        patient: bool = True,
    ) -> list[Reply]:
        """Send commands to their nodes, all at the same time, and see to those not carried out."""
        by_slot = self._by_slot
        groups: dict[Pool | None, list[int]] = {}  # places of the commands
        for place, slot in enumerate(slots):
            pool = by_slot[slot]
            if pool in groups:
                groups[pool].append(place)
            else:
                groups[pool] = [place]
        homeless = groups.pop(None, [])
        sent = [
            pool.batch_packed([commands[place] for place in places], timeout=timeout)
            for pool, places in groups.items()
            if pool is not None
        ]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        replies: list[Reply] = [None] * len(commands)
        smooth = not homeless
        for places, outcome in zip(groups.values(), outcomes, strict=True):
            if not isinstance(outcome, list):
                smooth = False
                continue
            for place, reply in zip(places, outcome, strict=True):
                replies[place] = reply
                if isinstance(reply, ServerError) and reply.prefix in REDIRECTS:
                    smooth = False
        if smooth:
            return replies
        errands = [*map(Errand, commands, slots)]
        for place in homeless:
            self.errands.take(errands[place], Unavailable("its slot has no node"))
        for (pool, places), outcome in zip(groups.items(), outcomes, strict=True):
            asked = None if pool is None else self._addresses.get(pool)
            for place in places:
                errands[place].asked = asked
                own = outcome if isinstance(outcome, BaseException) else replies[place]
                self.errands.take(errands[place], own)
        return await self.errands.settle(errands, timeout, patient=patient)


def _pack(args: Sequence[Argument]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(args))  # type: ignore[arg-type]
    return packed


def _too_late() -> CallTimeout:
    return CallTimeout(
        "the cluster did not answer before the call's deadline; a node is busy, frozen or cut off, "
        "and may yet carry the command out",
        maybe_applied=True,
    )


def _add(total: PoolStats, part: PoolStats) -> None:
    for item in dataclasses.fields(PoolStats):
        setattr(total, item.name, getattr(total, item.name) + getattr(part, item.name))
