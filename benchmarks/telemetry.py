"""What OpenTelemetry adds to a call: off, on with nothing to see, with durations, with spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

from benchmarks.base import Arena, Case, Contestant, Role, Run, Sample, WrongResult, throughput
from benchmarks.clients import concurrently, open_rtx
from rtx.topology import Role as ServerRole
from rtx.wire import Pool

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

CALLERS = 100
RAW = b"x" * 100

Open = Callable[[Arena], AbstractAsyncContextManager[Run]]


@cache
def _sdk() -> InMemorySpanExporter:
    """The SDK of this process, which keeps every span in memory as soon as it ends."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    return exporter


def _with(*, parent: bool = False, **telemetry: object) -> Open:
    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        if telemetry:
            _sdk().clear()
        async with open_rtx(arena, telemetry=telemetry) as layer:
            caller = layer.pool(ServerRole.CACHE)
            if isinstance(caller, Pool) == bool(telemetry):
                raise WrongResult(f"the caller is a {type(caller).__name__}")

            async def work(_number: int) -> None:
                if await caller.call("GET", "raw") != RAW:
                    raise WrongResult("a reply was not the value stored")

            async def run(total: int) -> Sample:
                arena.witness.set("raw", RAW)
                if not parent:
                    return await concurrently(CALLERS, total, work)
                return await _in_a_span(total)

            async def _in_a_span(total: int) -> Sample:
                from opentelemetry import trace

                _sdk().clear()
                with trace.get_tracer("benchmarks").start_as_current_span("all"):
                    sample = await concurrently(CALLERS, total, work)
                made = len(_sdk().get_finished_spans()) - 1
                _sdk().clear()
                if made != total:
                    raise WrongResult(f"{made} spans for {total} calls")
                return sample

            yield run

    return opened


def _peer(name: str, open: Open) -> Contestant:
    return Contestant(name, Role.PEER, open, needs="opentelemetry.sdk.trace")


CASES = (
    Case(
        name="telemetry.get",
        title=f"GET of {len(RAW)} bytes through OpenTelemetry, {CALLERS} callers at once",
        measures=throughput("get"),
        contestants=(
            Contestant("off", Role.OURS, _with()),
            _peer("spans, none active", _with(spans="children")),
            _peer("durations", _with(metrics=True)),
            _peer("spans", _with(spans="children", parent=True)),
        ),
        amount=1_000,
        step=CALLERS,
        note="The ratios say how many times as much the plain call does. Spans are kept in memory, "
        "one by one, and their garbage is collected meanwhile.",
    ),
)
