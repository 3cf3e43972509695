"""Rate limits: hits that are allowed, hits that are denied, and one hit at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import quantiles

from benchmarks import limiter_peers as peers
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Measure,
    Role,
    Run,
    Sample,
    WrongResult,
    throughput,
)
from benchmarks.clients import concurrently
from benchmarks.limiter_peers import DB, Hit, Opener, Quota

CALLERS = 50
ALLOWED = Quota(limit=100, per=60, callers=CALLERS)
DENIED = Quota(limit=10, per=600, callers=CALLERS)
ALONE = Quota(limit=100, per=60, callers=1)
HITS_PER_ID = 50


def _allowed(arena: Arena, hit: Hit) -> Run:
    async def run(total: int) -> Sample:
        arena.clear()
        denied = 0

        async def work(number: int) -> None:
            nonlocal denied
            if not await hit(number // HITS_PER_ID):
                denied += 1

        sample = await concurrently(CALLERS, total, work)
        if denied:
            raise WrongResult(f"{denied} of {total} hits were denied")
        keyspace: object = arena.witness.info("keyspace")
        assert isinstance(keyspace, dict)
        ids, expected = keyspace[f"db{DB}"]["keys"], -(-total // HITS_PER_ID)
        if ids < expected:
            raise WrongResult(f"{ids} ids have hits, not {expected}")
        return sample

    return run


def _denied(_: Arena, hit: Hit) -> Run:
    async def run(total: int) -> Sample:
        ids = range(20)
        for id in ids:
            while await hit(id):
                pass
        allowed = 0

        async def work(number: int) -> None:
            nonlocal allowed
            if await hit(number % len(ids)):
                allowed += 1

        sample = await concurrently(CALLERS, total, work)
        if allowed:
            raise WrongResult(f"{allowed} of {total} hits were allowed")
        return sample

    return run


def _latency(arena: Arena, hit: Hit) -> Run:
    async def run(total: int) -> Sample:
        arena.clear()
        now = time.perf_counter_ns
        took: list[int] = []
        begun = now()
        for number in range(total):
            started = now()
            allowed = await hit(number // HITS_PER_ID)
            took.append(now() - started)
            if not allowed:
                raise WrongResult(f"hit {number} was denied")
        seconds = (now() - begun) / 1e9
        cuts = quantiles(took, n=100)
        return Sample(total, seconds, {"p50": cuts[49] / 1000, "p99": cuts[98] / 1000})

    return run


def contestant(
    name: str,
    role: Role,
    opener: Opener,
    quota: Quota,
    race: Callable[[Arena, Hit], Run],
    *,
    needs: str | None = None,
    target: float | None = None,
) -> Contestant:
    """A limiter that runs a race."""

    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with opener(arena, quota) as hit:
            yield race(arena, hit)

    enter: Callable[[Arena], AbstractAsyncContextManager[Run]] = opened
    return Contestant(name, role, enter, needs, target)


MOVING = "limits, moving window"
_moving = peers.limits("MovingWindowRateLimiter")
_sliding, _fixed = peers.throttled("sliding_window"), peers.throttled("fixed_window")
_gcra, _bucket = peers.throttled("gcra"), peers.throttled("token_bucket")


CASES = (
    Case(
        name="limiter.hits",
        title="hits on a limit of 100 per 60 s, 50 callers at once, all allowed",
        measures=throughput("hit"),
        contestants=(
            contestant("RTX limit.hit (exact)", Role.OURS, peers.ours, ALLOWED, _allowed),
            contestant(MOVING, Role.PEER, _moving, ALLOWED, _allowed, needs="limits", target=6),
            *(
                contestant(
                    f"throttled-py, {name}",
                    Role.PEER,
                    opener,
                    ALLOWED,
                    _allowed,
                    needs="throttled",
                    target=4,
                )
                for name, opener in (
                    ("fixed window", _fixed),
                    ("token bucket", _bucket),
                    ("GCRA", _gcra),
                    ("sliding window", _sliding),
                )
            ),
            contestant(
                "redis-py + sorted-set script", Role.PEER, peers.sorted_set, ALLOWED, _allowed
            ),
            contestant(
                "bare loop + our script", Role.CEILING, peers.bare_script, ALLOWED, _allowed
            ),
        ),
        amount=CALLERS * 40,
        step=CALLERS,
        note="Only the first two hold a limit in every window; see limiter.worst.",
    ),
    Case(
        name="limiter.denied",
        title="hits on ids that are over their limit, 50 callers at once, all denied",
        measures=throughput("hit"),
        contestants=(
            contestant("RTX limit.hit (exact)", Role.OURS, peers.ours, DENIED, _denied),
            contestant(MOVING, Role.PEER, _moving, DENIED, _denied, needs="limits", target=50),
            contestant(
                "throttled-py, fixed window",
                Role.PEER,
                _fixed,
                DENIED,
                _denied,
                needs="throttled",
            ),
            contestant(
                "redis-py + sorted-set script", Role.PEER, peers.sorted_set, DENIED, _denied
            ),
        ),
        amount=CALLERS * 40,
        step=CALLERS,
        note="RTX knows from the first denial until when the server would say the same.",
    ),
    Case(
        name="limiter.latency",
        title="one hit at a time",
        measures=(
            Measure("p50", "µs", more_is_better=False),
            Measure("p99", "µs", more_is_better=False),
        ),
        contestants=(
            contestant("RTX limit.hit (exact)", Role.OURS, peers.ours, ALONE, _latency),
            contestant(MOVING, Role.PEER, _moving, ALONE, _latency, needs="limits"),
            contestant(
                "throttled-py, fixed window", Role.PEER, _fixed, ALONE, _latency, needs="throttled"
            ),
            contestant(
                "redis-py + sorted-set script", Role.PEER, peers.sorted_set, ALONE, _latency
            ),
            contestant("redis-py INCRBY", Role.PEER, peers.redis_py_incrby, ALONE, _latency),
            contestant(
                "RTX wire INCRBY",
                Role.CEILING,
                peers.wire_incrby,
                ALONE,
                _latency,
                target=1 / 1.5,
            ),
        ),
        amount=200,
    ),
)
