"""`python -m benchmarks`: run the cases, print the tables, keep the numbers as JSON."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop

from benchmarks import (
    cache_get,
    cache_more,
    executions,
    fanout,
    latency,
    limiter,
    limiter_server,
    near,
    publish,
    report,
    subscribe,
    telemetry,
    wire,
)
from benchmarks.base import Case, Report
from benchmarks.machine import describe
from benchmarks.runner import FULL, QUICK, Length, open_arena, run_all

CASES: tuple[Case, ...] = (
    *wire.CASES,
    *cache_get.CASES,
    *cache_more.CASES,
    *near.CASES,
    *publish.CASES,
    *executions.CASES,
    *subscribe.CASES,
    *fanout.CASES,
    *limiter.CASES,
    *limiter_server.CASES,
    *latency.CASES,
    *telemetry.CASES,
)
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    options = _options()
    if options.compare:
        before, after = (_read(path) for path in options.compare)
        print(report.comparison(before, after))
        return
    cases = [case for case in CASES if not options.only or _chosen(case, options.only)]
    if not cases:
        names = ", ".join(case.name for case in CASES)
        sys.exit(f"no case is called {' or '.join(options.only)}; there are {names}")
    length = QUICK if options.quick else FULL
    if options.rounds:
        length = replace(length, rounds=options.rounds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_run(cases, length))
    path = options.json or RESULTS / f"{found.machine.time[:19].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    print(f"\nTook {found.seconds:.0f} s. Numbers of every round are in {_near(path)}.")


async def _run(cases: list[Case], length: Length) -> Report:
    async with open_arena() as arena:
        print(report.head(describe(arena), length.rounds), flush=True)
        return await run_all(
            arena, cases, length, lambda case: print(report.case_table(case), flush=True)
        )


def _chosen(case: Case, names: list[str]) -> bool:
    return any(case.name == name or case.name.startswith(f"{name}.") for name in names)


def _read(path: Path) -> Report:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        sys.exit(f"{path} cannot be read: {error.strerror}")
    except msgspec.DecodeError as error:
        sys.exit(f"{path} is not a benchmark result: {error}")


def _near(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


class _Options(argparse.Namespace):
    rounds: int | None
    quick: bool
    only: list[str]
    json: Path | None
    compare: list[Path] | None


def _options() -> _Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure every use of RTX beside its peers, on a server of its own.",
    )
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help="turns of each contestant (5, quick 2)")
    add("--quick", action="store_true", help="short turns: a look, not a measurement")
    add("--only", action="append", default=[], metavar="NAME", help="a case, or a use's cases")
    add("--json", type=Path, metavar="FILE", help="where the numbers go (benchmarks/results/)")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="print two runs side by side")
    options = parser.parse_args(namespace=_Options())
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds takes 1 or more")
    return options


if __name__ == "__main__":
    main()
