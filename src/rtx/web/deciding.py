"""A request's limits asked: places first, which can be given back, then hits, all or none."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from inspect import isawaitable
from typing import Protocol, TypeAlias, TypeVar

from rtx.ratelimit import Decision, Id, Lease, Limits, RateLimited, Wanted
from rtx.web.ruling import UNDECIDED, Policy, Ruling

T = TypeVar("T")

_log = logging.getLogger("rtx.web")


class HasLimits(Protocol):
    """An open data layer, as far as this needs it."""

    @property
    def limits(self) -> Limits: ...


@dataclass(frozen=True, slots=True)
class Hold:
    """A place of the concurrency limit `name`, held until the response is sent.

    `wait` is how many seconds the request may wait for it.
    """

    name: str
    id: Id
    wait: float = 0.0


Rule: TypeAlias = "Wanted | Hold"
"""A limit's name, an id, and the cost of the hit, 1 if left out; or a place to hold."""

Layer: TypeAlias = "HasLimits | Callable[[], HasLimits]"
"""The layer, or who gives it when the first request comes: layers are opened in the lifespan."""

MaybeAwaitable: TypeAlias = "T | Awaitable[T]"


async def decide(
    layer: Layer,
    rules: Callable[[], MaybeAwaitable[Sequence[Rule]]],
    stack: AsyncExitStack,
    leases: dict[str, Lease] | None = None,
) -> Ruling | None:
    """Ask the limits of a request; None when it has none.

    Places are held until the stack closes, and are in `leases` by name. What goes wrong here, such
    as a limit that does not exist, is logged and never raised: nobody decided, so it is denied.
    """
    try:
        found = rules()
        wanted = await found if isawaitable(found) else found
        if not wanted:
            return None
        limits = (layer() if callable(layer) else layer).limits
        return await _decide(limits, wanted, stack, {} if leases is None else leases)
    except Exception:
        _log.exception("the limits of a request could not be asked; it is denied")
        return UNDECIDED


async def _decide(
    limits: Limits, wanted: Sequence[Rule], stack: AsyncExitStack, leases: dict[str, Lease]
) -> Ruling:
    holds = [rule for rule in wanted if isinstance(rule, Hold)]
    hits = [rule for rule in wanted if not isinstance(rule, Hold)]
    policies = [_policy(limits, name, id) for name, id, *_ in hits]
    policies += [Policy(hold.name, limits.concurrency[hold.name].limit) for hold in holds]
    decisions: list[Decision] = []
    try:
        async with AsyncExitStack() as holding:
            for hold in holds:
                place = limits.concurrency[hold.name].hold(hold.id, wait=hold.wait)
                lease = await holding.enter_async_context(place)
                leases[hold.name] = lease
                decisions.append(_decision(limits, lease))
            if len(hits) == 1:
                name, id, *cost = hits[0]
                taken = [await limits[name].hit(id, *cost)]
            else:
                taken = await limits.check_each(*hits) if hits else []
            if all(taken):
                stack.push_async_exit(holding.pop_all())
    except RateLimited as refused:
        return Ruling(tuple(policies), (refused.decision,))
    return Ruling(tuple(policies), (*taken, *decisions))


def _policy(limits: Limits, name: str, id: Id) -> Policy:
    limit = limits[name]
    return Policy(name, limit.limit_of(id), limit.per)


def _decision(limits: Limits, lease: Lease) -> Decision:
    limit = limits.concurrency[lease.name].limit
    return Decision(
        True, limit, lease.remaining, 0.0, 0.0, lease.name, 0.0, lease.degraded, lease.reason
    )
