"""A cluster: which node has which slot, followed through failovers and slot migrations.

Up to three primaries are asked every second, and the view with the highest epoch counts, of
several the one that most nodes share. While anything is amiss (a node does not answer, a call was
redirected, slots have no node) more of them are asked, ten times a second.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from typing import cast

from rtx import urls
from rtx.errors import AccessDenied, ConnectFailed, RtxError, ServerError, SettingsError
from rtx.topology.base import Manner
from rtx.topology.cluster_view import View, Witness
from rtx.topology.slots import SLOTS, SlotMap, key_slot
from rtx.urls import Address
from rtx.wire.connection import Connection, OnPush

_LOOK_EVERY = 1.0
_LOOK_HURRIED = 0.1
_HURRIED_AT_MOST = 30.0  # an outage that lasts is no news any more
_ASKED_AT_ONCE = 3
_ASKED_IN_NEED = 12
_PATIENCE = 0.5  # a frozen node must not hold up what the others know
_ANSWER_WITHIN = 0.03  # after the first answer the others get this long, frozen ones in vain
_STALE_FOR = 5.0  # how long a lower epoch than the known one is taken for a node that lags


class ClusterTopology:
    """Knows the primary of every slot and dials it. Keys are in database 0, the only one.

    The roles share the database: their names do not collide.
    """

    def __init__(self, location: urls.Cluster, manner: Manner) -> None:
        self._location = location
        self._manner = manner
        self._options = manner.options(location.credentials, tls=location.tls)
        self._witnesses: dict[Address, Witness] = {}
        self._map = SlotMap((), frozenset())
        self._owners: list[Address | None] = [None] * SLOTS
        self._epoch = -1
        self._epoch_at = 0.0  # when a node last had this epoch
        self._healthy = False
        self._uneasy_since: float | None = None
        self._wanted = asyncio.Event()
        self._change = asyncio.Event()  # a new one for each change
        self._watcher: asyncio.Task[None] | None = None
        self._told: list[Callable[[], None]] = []
        self._asking: dict[Address, asyncio.Task[View | RtxError]] = {}
        self.silent: set[Address] = set()
        """Nodes that did not answer when they were asked last."""
        self.changes = 0
        """Times that the slot map has changed since the topology was opened."""

    @property
    def public_url(self) -> str:
        return str(self._location)

    @property
    def primaries(self) -> tuple[Address, ...]:
        """The nodes that have slots."""
        return self._map.primaries

    @property
    def owners(self) -> list[Address | None]:
        """The primary of each slot; not to be changed."""
        return self._owners

    @property
    def replicas(self) -> set[Address]:
        """All replicas that the nodes name."""
        return self._map.replicas

    def replicas_of(self, primary: Address) -> list[Address]:
        """The replicas of a primary, as far as the nodes name them."""
        return [replica for owner, replica in self._map.links if owner == primary]

    @property
    def trouble(self) -> str:
        """What is wrong with the cluster as a whole; empty when nothing is."""
        missing = self._owners.count(None)
        if missing:
            return f"{missing} of {SLOTS} slots have no node"
        return "" if self._healthy else "its nodes say that cluster_state is not ok"

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` whenever slots have other owners."""
        self._told.append(told)

    # --- life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Find the nodes; raises `ConnectFailed`, `AccessDenied` or `SettingsError`."""
        patience = self._manner.pool.connect_timeout
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        while True:
            answers = await self._ask(self._location.nodes, patience)
            self._settle(list(answers.values()))
            if not self.trouble:
                break
            errors = [error for error in answers.values() if not isinstance(error, View)]
            if len(errors) == len(answers) or loop.time() > give_up:
                await self.close()
                raise self._cannot_open(answers)
            await asyncio.sleep(_LOOK_HURRIED)
        self._watcher = asyncio.create_task(self._watch(), name="rtx-cluster")

    def _cannot_open(self, answers: dict[Address, View | RtxError]) -> RtxError:
        errors = [error for error in answers.values() if isinstance(error, RtxError)]
        for kind in (AccessDenied, SettingsError):
            for error in errors:
                if isinstance(error, kind):
                    return error
        if len(errors) == len(answers):
            said = "; ".join(map(str, errors))
            return ConnectFailed(f"no node of {self._location} answers ({said})")
        return ConnectFailed(
            f"the cluster {self._location} is down: {self.trouble}; see CLUSTER INFO"
        )

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for question in self._asking.values():
            question.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await asyncio.gather(*(witness.close() for witness in self._witnesses.values()))
        self._witnesses.clear()

    # --- dialing ---------------------------------------------------------------------------

    async def dial(
        self,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None = None,
        liveness: float | None = None,
    ) -> Connection:
        """Open a connection to any primary; `db` gives way to database 0."""
        address = random.choice(self.primaries or self._location.nodes)
        return await self.dial_node(address, on_close, on_push, liveness)

    async def dial_node(
        self,
        address: Address,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None = None,
        liveness: float | None = None,
    ) -> Connection:
        """Open a connection to one node; a failure is a reason to look for changes."""
        location = self._location
        options = self._manner.options(location.credentials, tls=location.tls, liveness=liveness)

        def closed(connection: Connection) -> None:
            self.look()
            on_close(connection)

        try:
            return await Connection.dial(address, options, on_push, closed)
        except RtxError:
            self.look()
            raise

    # --- following -------------------------------------------------------------------------

    def look(self) -> None:
        """Ask the nodes soon: something does not fit what is known."""
        self._wanted.set()

    def moved(self, slot: int, address: Address) -> None:
        """A node said MOVED: its word counts for this slot until the nodes have been asked."""
        if self._owners[slot] != address:
            self._owners[slot] = address
            self._tell()
        self.look()

    async def wait_for_change(self, within: float) -> None:
        """Return when slots have other owners, or after `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._change.wait()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            uneasy = self._uneasy_since
            hurried = uneasy is not None and loop.time() - uneasy < _HURRIED_AT_MOST
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    _LOOK_HURRIED if hurried else _LOOK_EVERY * random.uniform(0.8, 1.2)
                ):
                    await self._wanted.wait()
                    await asyncio.sleep(_LOOK_HURRIED / 2)  # one look for many redirected calls
            in_need = hurried or self._wanted.is_set()
            self._wanted.clear()
            await self._look(in_need)

    async def _look(self, in_need: bool) -> None:
        known = list(self.primaries)
        asked = random.sample(known, min(len(known), _ASKED_IN_NEED if in_need else _ASKED_AT_ONCE))
        answers = await self._ask(asked, _PATIENCE)
        if not any(isinstance(answer, View) for answer in answers.values()):
            others = {*self._location.nodes, *self._map.replicas, *known}.difference(asked)
            answers |= await self._ask(others, _PATIENCE)
        self._settle(list(answers.values()))
        if self.trouble or not self.silent.isdisjoint(self.primaries):
            if self._uneasy_since is None:
                self._uneasy_since = asyncio.get_running_loop().time()
        else:
            self._uneasy_since = None

    async def _ask(
        self, addresses: Collection[Address], patience: float
    ) -> dict[Address, View | RtxError]:
        """The views of several nodes, or why there is none."""
        for address in addresses:
            if address not in self._asking:
                question = asyncio.create_task(self._ask_one(address, patience))
                self._asking[address] = question
        questions = {address: self._asking[address] for address in addresses}
        if questions:
            await asyncio.wait(questions.values(), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(questions.values(), timeout=_ANSWER_WITHIN)
        answers = self._answers(questions)
        pending = [question for question in questions.values() if not question.done()]
        if pending and not any(isinstance(answer, View) for answer in answers.values()):
            await asyncio.wait(pending)
            answers |= self._answers({at: q for at, q in questions.items() if q in pending})
        return answers

    def _answers(
        self, questions: dict[Address, asyncio.Task[View | RtxError]]
    ) -> dict[Address, View | RtxError]:
        """What has been answered; who has not is not waited for when others have."""
        answers: dict[Address, View | RtxError] = {}
        for address, question in questions.items():
            if question.done():
                answers[address] = question.result()
                self._asking.pop(address, None)
            else:
                answers[address] = ConnectFailed(f"no answer from {address} yet")
                continue  # silent only once its patience is over: it may just be far away
            if isinstance(answers[address], View):
                self.silent.discard(address)
            else:
                self.silent.add(address)
        return answers

    async def _ask_one(self, address: Address, patience: float) -> View | RtxError:
        witness = self._witnesses.get(address)
        if witness is None:
            witness = self._witnesses[address] = Witness(address, self._options)
        try:
            return await witness.view(patience)
        except RtxError as error:
            witness.drop()
            return error
        except (ValueError, TypeError) as error:
            witness.drop()
            return ConnectFailed(f"{address} gave a view of the cluster that is none: {error}")

    def _settle(self, answers: list[View | RtxError]) -> None:
        """Take the best of the views."""
        views = [answer for answer in answers if isinstance(answer, View)]
        if not views:
            return
        votes = Counter(view.slots for view in views)
        best = max(views, key=lambda view: (view.ok, view.epoch, votes[view.slots]))
        now = asyncio.get_running_loop().time()
        if best.epoch < self._epoch and now - self._epoch_at < _STALE_FOR:
            return
        self._epoch, self._epoch_at, self._healthy = best.epoch, now, best.ok
        owners = best.slots.owners()
        if owners != self._owners or best.slots.primaries != self._map.primaries:
            self._map, self._owners = best.slots, owners
            self._tell()
        self._map = best.slots
        known = {*self._location.nodes, *best.slots.primaries, *best.slots.replicas}
        for address in self._witnesses.keys() - known:
            self._witnesses.pop(address).drop()
        self.silent &= known

    def _tell(self) -> None:
        self.changes += 1
        change, self._change = self._change, asyncio.Event()
        change.set()
        for told in self._told:
            told()


class SlotHomes:
    """The channels of a cluster: each at the primary that has its slot."""

    sharded = True

    def __init__(self, topology: ClusterTopology, probe_interval: float) -> None:
        self._topology = topology
        self._probe_interval = probe_interval

    def home(self, channel: bytes) -> Hashable | None:
        return self._topology.owners[key_slot(channel)]

    async def dial(
        self, home: Hashable, on_push: OnPush, on_close: Callable[[Connection], None]
    ) -> Connection:
        return await self._topology.dial_node(
            cast(Address, home), on_close, on_push, self._probe_interval
        )

    def moved(self, channel: bytes, error: ServerError) -> None:
        address = redirection(error, None)
        if error.prefix == "MOVED" and address is not None:
            self._topology.moved(key_slot(channel), address)
        else:
            self._topology.look()

    def on_change(self, told: Callable[[], None]) -> None:
        self._topology.on_change(told)


def redirection(error: ServerError, asked: Address | None) -> Address | None:
    """Where MOVED or ASK points to; None when it does not say, or for another error."""
    words = str(error).split()
    if error.prefix not in ("MOVED", "ASK") or len(words) < 3:
        return None
    host, _, port = words[2].rpartition(":")
    if not port.isdecimal() or host == "?":
        return None
    if not host:
        return Address(asked.host, int(port)) if asked is not None else None
    return Address(host.strip("[]"), int(port))
