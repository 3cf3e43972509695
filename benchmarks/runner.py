"""Lets the contestants of each case take turns on one server."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import redis

from benchmarks.base import Arena, Case, CaseResult, Contestant, Report, Result, Role, Sample
from benchmarks.machine import describe
from benchmarks.publisher import start_publisher
from rtx.topology.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: `seconds` of each measured turn, `part` of every fixed amount."""

    rounds: int
    seconds: float
    part: float
    quick: bool


FULL = Length(rounds=5, seconds=0.6, part=1.0, quick=False)
QUICK = Length(rounds=2, seconds=0.15, part=0.25, quick=True)


@asynccontextmanager
async def open_arena() -> AsyncIterator[Arena]:
    """A server of our own, in which no subscriber is cut off for lagging."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-bench-"))
    # Neither the environment nor an rtx.toml may change what is measured.
    for name in [name for name in os.environ if name.startswith("RTX_")]:
        del os.environ[name]
    settings = directory / "rtx.toml"
    settings.touch()
    os.environ["RTX_CONFIG"] = str(settings)
    server = ServerProcess(directory)
    try:
        await server.start()
        with (
            redis.Redis(port=server.port) as witness,
            start_publisher(server.port) as publisher,
        ):
            witness.config_set("client-output-buffer-limit", "pubsub 0 0 0")
            yield Arena(server.port, witness, publisher)
    finally:
        await server.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def run_all(
    arena: Arena, cases: Sequence[Case], length: Length, tell: Callable[[CaseResult], None]
) -> Report:
    """Run the cases one after the other; `tell` gets each result when it is there."""
    machine, started = describe(arena), time.monotonic()
    results = []
    for case in cases:
        result = await _run_case(arena, case, length)
        tell(result)
        results.append(result)
    return Report(machine, length.rounds, length.quick, time.monotonic() - started, results)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package that it would be in
        return False


async def _run_case(arena: Arena, case: Case, length: Length) -> CaseResult:
    skipped = {
        contestant.name: f"{contestant.needs} is not installed"
        for contestant in case.contestants
        if contestant.needs is not None and not _is_installed(contestant.needs)
    }
    racing = [contestant for contestant in case.contestants if contestant.name not in skipped]
    results = {each.name: Result(each.name, each.role, [], each.target) for each in racing}
    for number in range(length.rounds):
        # Every other round goes backwards, so that no one always runs after the same neighbour.
        for contestant in racing if number % 2 == 0 else reversed(racing):
            sample = await _take_turn(arena, case, contestant, length)
            results[contestant.name].samples.append(sample)
    return CaseResult(
        case.name, case.title, case.note, list(case.measures), list(results.values()), skipped
    )


async def _take_turn(arena: Arena, case: Case, contestant: Contestant, length: Length) -> Sample:
    arena.clear()
    async with contestant.open(arena) as run:
        warm = await run(case.amount)
        if case.fixed is not None:
            amount = round(case.fixed * length.part)
        else:
            amount = round(case.amount / warm.seconds * length.seconds)
        gc.collect()
        return await run(max(case.step, amount // case.step * case.step))


def first_of(result: CaseResult, role: Role) -> Result | None:
    """The first contestant of a role: RTX itself, or the peer that targets speak of."""
    return next((each for each in result.results if each.role is role), None)
