"""The contract of a benchmark: what a case is, what a contestant does, what comes out.

A case is one use (such as "get a typed price, 100 callers at once") with several contestants. The
runner lets them take turns on one server. Each turn:

- the server is emptied, and the contestant's context manager is entered (connecting is not timed);
- its `Run` is called once to warm up and once to be measured, with the amount of work to do;
- the run checks its own results (counts and values) and raises `WrongResult`; no time is asserted;
- the context is left, so that no idle connection of one contestant disturbs the next.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import msgspec
import redis

from benchmarks.publisher import Publisher


class Role(StrEnum):
    """What a contestant is in the race for."""

    OURS = "ours"
    PEER = "peer"
    CEILING = "ceiling"
    """Not a library: the least code that does the same, to show what is left to win."""


class WrongResult(AssertionError):
    """A contestant lost, doubled or changed something; its times would mean nothing."""


class Measure(msgspec.Struct, frozen=True):
    """One number of a run; `target` is the ratio over the first peer that we aim for."""

    name: str
    unit: str
    more_is_better: bool = True
    target: float | None = None


class Sample(msgspec.Struct, frozen=True):
    """One measured run: `count` operations in `seconds`, and its value for each measure."""

    count: int
    seconds: float
    values: dict[str, float]


def throughput(what: str, target: float | None = None) -> tuple[Measure, ...]:
    """The measures of a `Watch`, for operations called `what`.

    The processor time is this process's own, so it says how much room is left for the application,
    and hardly depends on what else the machine does.
    """
    return (
        Measure("rate", f"{what}s/s", target=target),
        Measure("cpu", f"µs/{what}", more_is_better=False),
    )


class Watch:
    """Runs from when it is made; gives the sample of a throughput case."""

    def __init__(self) -> None:
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def sample(self, count: int) -> Sample:
        """What was measured until now, for `count` operations."""
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        return Sample(count, seconds, {"rate": count / seconds, "cpu": cpu / count * 1e6})


Run: TypeAlias = Callable[[int], Awaitable[Sample]]
"""Does this many operations, checks the results, and returns what was measured."""


@dataclass(frozen=True, slots=True)
class Arena:
    """The server that all contestants of a run share, over TCP on loopback."""

    port: int
    witness: redis.Redis
    """A plain client for checks and for emptying the server, never measured."""
    publisher: Publisher
    """A process of its own that publishes ticks when told to."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def clear(self) -> None:
        """Empty all databases."""
        self.witness.flushall()

    def calls_of(self, command: str) -> int:
        """How often the server has carried out a command so far."""
        stats: object = self.witness.info("commandstats")
        assert isinstance(stats, dict)
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do a case's work. `needs` is a module without which it is left out.

    `target` is the ratio over this one that we aim for, by the case's first measure.
    """

    name: str
    role: Role
    open: Callable[[Arena], AbstractAsyncContextManager[Run]]
    needs: str | None = None
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One use. The first contestant is RTX; the first peer is the one that targets speak of.

    `amount` operations warm up. The measured run does as many as fit into the time of a turn, or
    `fixed` times a factor of the run's length where that is set.
    """

    name: str
    title: str
    measures: tuple[Measure, ...]
    contestants: tuple[Contestant, ...]
    amount: int
    step: int = 1
    """The amount is a multiple of this."""
    fixed: int | None = None
    note: str = ""


class Result(msgspec.Struct):
    """All measured runs of one contestant, in the order of the rounds."""

    contestant: str
    role: Role
    samples: list[Sample]
    target: float | None = None


class CaseResult(msgspec.Struct):
    """A case with its results; `skipped` gives the reason by contestant."""

    name: str
    title: str
    note: str
    measures: list[Measure]
    results: list[Result]
    skipped: dict[str, str]


class Machine(msgspec.Struct):
    """Where the numbers come from."""

    time: str
    processor: str
    cores: int
    load: float
    """Load average over one minute when the run began."""
    system: str
    python: str
    server: str
    packages: dict[str, str]
    commit: str


class Report(msgspec.Struct):
    """One run of the benchmarks."""

    machine: Machine
    rounds: int
    quick: bool
    seconds: float
    cases: list[CaseResult]
