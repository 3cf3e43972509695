"""Several limits in one decision: all of them take the hit, or none does.

Keys of one server, or of one slot of a cluster, are decided by one call of the script, so that
nothing can come in between. In a cluster the keys of different limits have different slots, and
their names are a contract, so no hash tag can bring them together. There each slot takes its hits
in turn; when one denies, those that were taken before it are given back, exactly those. That never
lets more through than any limit, and a denial has taken nothing in the end. Meanwhile, for a round
trip, others may be denied by hits that are about to be given back; and who dies in between leaves
them counted for a window.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TypeAlias

import msgspec

from rtx.errors import RtxError, Unavailable
from rtx.ratelimit.base import Decision, Id
from rtx.ratelimit.decider import Decider
from rtx.ratelimit.limit import NamedLimit
from rtx.ratelimit.outages import Outage, Outages
from rtx.ratelimit.rules import rule, split


@dataclass(frozen=True, slots=True)
class Part:
    """A limit's share of a check."""

    limit: NamedLimit
    id: Id
    cost: int
    key: str


_Outcome: TypeAlias = tuple[Part, Decision]


class Together:
    """Decides parts; `place_of` says which keys one call can have."""

    def __init__(self, decider: Decider, outages: Outages, place_of: Callable[[str], int]) -> None:
        self._decider = decider
        self._outages = outages
        self._place_of = place_of
        self._returning: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for hits that are being given back; each has the deadline of a call."""
        await asyncio.gather(*self._returning)

    async def check(self, parts: Sequence[Part]) -> list[Decision]:
        """The decisions of all, or of those that are known when one denied; never raises."""
        known = [
            (part, denial)
            for part in parts
            if (denial := part.limit.known(part.id, part.cost)) is not None
        ]
        if known and all(part.cost <= part.limit.limit_of(part.id) for part in parts):
            part, decision = max(known, key=_wait)
            part.limit.stats.known_denied += 1
            await asyncio.sleep(0)  # who repeats a call until it is allowed must not starve others
            part.limit.count(decision)
            return [decision for _, decision in known]
        places: dict[int, list[Part]] = {}
        for part in parts:
            places.setdefault(self._place_of(part.key), []).append(part)
        groups = list(places.values())
        outcomes: list[_Outcome] = []
        for done, group in enumerate(groups, 1):
            if len(groups) == 1:
                found = await self._decide(group, take=True)
            else:
                found = await self._decide_or_give_back(group, outcomes)
            if not all(decision.allowed for _, decision in found):
                # Those that would have taken theirs tell what would be left then.
                returned = [*outcomes, *(outcome for outcome in found if outcome[1].allowed)]
                denied = [outcome for outcome in found if not outcome[1].allowed]
                if len(groups) > 1:
                    returning = self._give_back(outcomes)
                    looks = (self._decide(later, take=False) for later in groups[done:])
                    denied += itertools.chain(*await asyncio.gather(*looks))
                    await asyncio.shield(returning)
                for part, decision in denied:
                    if not decision.allowed:
                        part.limit.count(decision)
                return [*map(_given_back, returned), *(decision for _, decision in denied)]
            outcomes += found
        return [part.limit.count(decision) for part, decision in outcomes]

    async def _decide_or_give_back(
        self, group: list[Part], taken: list[_Outcome]
    ) -> list[_Outcome]:
        """Decide a group; if the caller gives up meanwhile, give back that and what was taken."""
        deciding = asyncio.create_task(self._decide(group, take=True), name="rtx-limits-check")
        try:
            return await asyncio.shield(deciding)
        except asyncio.CancelledError:
            self._give_back(taken, deciding)
            raise

    async def _decide(self, group: list[Part], *, take: bool) -> list[_Outcome]:
        """Ask the server, which has the keys of all, once; without it, as each limit has it."""
        key, lost = group[0].key, False
        outage = self._outages.stop(key) if self._outages.found else None
        if outage is None:
            limits = [part.limit.limit_of(part.id) for part in group]
            rules = [
                rule(part.limit.settings, limit, part.cost, take=take, more=part is not group[-1])
                for part, limit in zip(group, limits, strict=True)
            ]
            asked, epochs = monotonic(), [part.limit.epoch for part in group]
            try:
                records = await self._decider.decide_together([part.key for part in group], rules)
            except RtxError as error:
                outage = self._outages.failed(key, error)
                lost = take and isinstance(error, Unavailable) and error.maybe_applied
            else:
                self._outages.answered(key)
                return [
                    (part, part.limit.judge(part.id, part.cost, limit, record, asked, epoch))
                    for part, limit, record, epoch in zip(
                        group, limits, split(records), epochs, strict=True
                    )
                ]
        return _without(group, outage, lost=lost, take=take)

    def _give_back(
        self, outcomes: list[_Outcome], deciding: asyncio.Task[list[_Outcome]] | None = None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(_return(outcomes, deciding), name="rtx-limits-refund")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
        return task


def _wait(outcome: _Outcome) -> float:
    return outcome[1].retry_after


def _without(group: list[Part], outage: Outage, *, lost: bool, take: bool) -> list[_Outcome]:
    """Look first, and take only where all allow: no other task can come in between."""

    def ask(take: bool) -> list[_Outcome]:
        return [
            (part, part.limit.without(part.id, part.cost, outage, lost=lost, take=take))
            for part in group
        ]

    found = ask(take=False)
    return ask(take=True) if take and all(decision for _, decision in found) else found


async def _return(outcomes: list[_Outcome], deciding: asyncio.Task[list[_Outcome]] | None) -> None:
    last = await deciding if deciding is not None else []
    if not all(decision.allowed for _, decision in last):
        last = []
    for part, decision in reversed([*outcomes, *last]):
        if decision.degraded:
            part.limit.give_back_local(part.id, part.cost)
            continue
        try:
            await part.limit.refund(part.id, part.cost, of=decision)
        except RtxError:
            part.limit.stats.lost += 1


def _given_back(outcome: _Outcome) -> Decision:
    """What is left without the hits."""
    part, decision = outcome
    if decision.degraded:
        return decision
    return msgspec.structs.replace(decision, remaining=decision.remaining + part.cost)


def decisive(decisions: Sequence[Decision]) -> Decision:
    """The decision for all: the denial of the longest wait, else the one with the least left."""
    denied = [decision for decision in decisions if not decision.allowed]
    if denied:
        chosen = max(denied, key=lambda decision: decision.retry_after)
    else:
        chosen = min(decisions, key=lambda decision: decision.remaining)
    degraded = [decision for decision in decisions if decision.degraded]
    if not degraded:
        return chosen
    return msgspec.structs.replace(
        chosen,
        degraded=True,
        reason=chosen.reason or degraded[0].reason,
        maybe_taken=any(decision.maybe_taken for decision in degraded),
    )
