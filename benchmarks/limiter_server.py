"""What limits cost the server, how that grows with the limit, and whether they hold at all."""

from __future__ import annotations

import asyncio
import importlib.resources
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from benchmarks import limiter_peers as peers
from benchmarks.bare import open_bare
from benchmarks.base import Arena, Case, Contestant, Measure, Role, Run, Sample, WrongResult
from benchmarks.limiter import MOVING, contestant
from benchmarks.limiter_peers import DB, Hit, Quota
from benchmarks.resp import pack
from rtx.ratelimit.decider import decide_script
from rtx.ratelimit.rules import rule
from rtx.setting_groups import LimitSettings

KEY = "ratelimit:bench:1"
PACE = 15  # microseconds between two hits that the limit allows, about what the server takes
_BATCH = 500

Commands = Callable[[Arena, int, int], Iterator[tuple[str | bytes | int, ...]]]
"""Calls that hit one id at the pace of its limit: the arena, the limit, and how many."""


def _decide(arena: Arena, limit: int, count: int) -> Iterator[tuple[str | bytes | int, ...]]:
    sha = arena.witness.script_load(decide_script().text)
    message = rule(LimitSettings(limit=limit, per=limit * PACE / 1e6), limit, 1)
    for _ in range(count):
        yield ("EVALSHA", str(sha), 1, KEY, message)


def _moving(arena: Arena, limit: int, count: int) -> Iterator[tuple[str | bytes | int, ...]]:
    """Its clock is the client's, so the pace is exactly that of the limit."""
    folder = importlib.resources.files("limits") / "resources" / "redis" / "lua_scripts"
    sha = arena.witness.script_load((folder / "acquire_moving_window.lua").read_text("utf-8"))
    now = time.time()
    for number in range(count):
        yield ("EVALSHA", str(sha), 1, KEY, repr(now + number / limit), limit, 1, 1)


def _server_time(commands: Commands, limit: int) -> Contestant:
    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with open_bare(arena, DB) as loop:

            async def send(count: int) -> None:
                batch: list[bytes] = []
                for command in commands(arena, limit, count):
                    batch.append(pack(*command))
                    if len(batch) == _BATCH:
                        await loop.send(b"".join(batch), len(batch))
                        batch.clear()
                if batch:
                    await loop.send(b"".join(batch), len(batch))

            async def run(total: int) -> Sample:
                await send(2 * limit)  # as many as count, and as many as have left
                arena.witness.config_resetstat()
                started = time.perf_counter()
                await send(total)
                seconds = time.perf_counter() - started
                stats: object = arena.witness.info("commandstats")
                assert isinstance(stats, dict)
                took = stats["cmdstat_evalsha"]
                if took["calls"] != total:
                    raise WrongResult(f"{took['calls']} decisions, not {total}")
                arena.witness.select(DB)
                size = arena.witness.memory_usage(KEY, samples=0) or 0
                arena.witness.select(0)
                values = {"server": took["usec_per_call"], "memory": float(size)}
                return Sample(total, seconds, values)

            yield run

    ours = commands is _decide
    name = f"{'RTX' if ours else 'limits'}, limit {limit:,}"
    role = Role.OURS if ours else Role.PEER
    return Contestant(name, role, opened, None if ours else "limits")


WORST = Quota(limit=10, per=1, callers=2 * 10)


def _worst(_: Arena, hit: Hit) -> Run:
    """Bursts of twice the limit around the edges of a window, wherever the limiter has them."""

    async def run(total: int) -> Sample:
        allowed: list[float] = []

        async def knock(id: int) -> None:
            asked = time.monotonic()
            if await hit(id):
                # Somewhere between the question and the answer; the same moment for all limiters.
                allowed.append((asked + time.monotonic()) / 2)

        worst = 0
        started = time.perf_counter()
        for id in range(total):
            allowed.clear()
            second = -time.time() % 1.0  # fixed windows begin with the second
            await asyncio.sleep(second + 0.01)
            await knock(id)
            for pause in (0.93, 0.03, 0.05, 0.85, 0.1):
                await asyncio.sleep(pause)
                await asyncio.gather(*(knock(id) for _ in range(2 * WORST.limit)))
            allowed.sort()
            for place, moment in enumerate(allowed):
                # A little less than a second, as moments are known to a millisecond or so.
                inside = sum(1 for other in allowed[place:] if other - moment < 0.99)
                worst = max(worst, inside)
        return Sample(total, time.perf_counter() - started, {"worst": float(worst)})

    return run


def _in_the_worst_window(name: str, role: Role, opener: peers.Opener, needs: str) -> Contestant:
    return contestant(name, role, opener, WORST, _worst, needs=needs or None)


CASES = (
    Case(
        name="limiter.server",
        title="the server's time for a decision at the limit's pace, by the limit",
        measures=(
            Measure("server", "µs/decision", more_is_better=False),
            Measure("memory", "bytes of the key", more_is_better=False),
        ),
        contestants=(
            *(_server_time(_decide, limit) for limit in (10, 100, 1_000, 10_000)),
            *(_server_time(_moving, limit) for limit in (10, 100, 1_000, 10_000)),
        ),
        amount=20_000,
        fixed=40_000,
        note="From limit 10 to limit 10,000 the logarithm grows 4 times. Only RTX tells hits left "
        "and when to come back; limits would ask once more for that.",
    ),
    Case(
        name="limiter.worst",
        title="hits in the worst second of a limit of 10 in 1 s, by bursts at the edges of windows",
        measures=(Measure("worst", "hits", more_is_better=False),),
        contestants=tuple(
            _in_the_worst_window(*each)
            for each in (
                ("RTX limit.hit (exact)", Role.OURS, peers.ours, ""),
                (MOVING, Role.PEER, peers.limits("MovingWindowRateLimiter"), "limits"),
                (
                    "limits, sliding window counter",
                    Role.PEER,
                    peers.limits("SlidingWindowCounterRateLimiter"),
                    "limits",
                ),
                (
                    "limits, fixed window",
                    Role.PEER,
                    peers.limits("FixedWindowRateLimiter"),
                    "limits",
                ),
                *(
                    (f"throttled-py, {name}", Role.PEER, peers.throttled(algorithm), "throttled")
                    for name, algorithm in (
                        ("fixed window", "fixed_window"),
                        ("sliding window", "sliding_window"),
                        ("token bucket", "token_bucket"),
                        ("leaking bucket", "leaking_bucket"),
                        ("GCRA", "gcra"),
                    )
                ),
                ("redis-py + sorted-set script", Role.PEER, peers.sorted_set, ""),
            )
        ),
        amount=1,
        fixed=1,
        note="limits takes the time of the caller's clock: it holds where all clocks agree.",
    ),
)
