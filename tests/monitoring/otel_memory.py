"""OpenTelemetry's SDK with everything kept in memory, once for a worker process.

It is not set as the global one, which a process can have only once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from unittest.mock import patch

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import rtx
from rtx.settings import Settings


@cache
def _sdk() -> tuple[TracerProvider, MeterProvider, InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    return TracerProvider(), MeterProvider([reader]), reader


@asynccontextmanager
async def observed(settings: Settings, **telemetry: object) -> AsyncIterator[rtx.DataLayer]:
    """An open layer whose spans and durations come here; `children` unless told otherwise."""
    chosen = {**dict(settings), "telemetry": telemetry or {"spans": "children"}}
    tracers, meters, _ = _sdk()
    with (
        patch.object(trace, "get_tracer", tracers.get_tracer),
        patch.object(metrics, "get_meter", meters.get_meter),
    ):
        async with rtx.open(Settings.load(**chosen)) as layer:
            yield layer


class Seen:
    """The spans that ended, in that order."""

    def __init__(self, exporter: InMemorySpanExporter, parent: trace.Span | None) -> None:
        self._exporter = exporter
        self._parent = parent

    @property
    def all(self) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name != "test"]

    def take(self) -> list[ReadableSpan]:
        """The spans since the last time, each of which must be a child of the test's span."""
        found = self.all
        self._exporter.clear()
        for span in found:
            if self._parent is not None:
                assert span.parent is not None, span.name
                assert span.parent.span_id == self._parent.get_span_context().span_id
        return found


@contextmanager
def recorded(*, parent: bool = True) -> Iterator[Seen]:
    """See the spans made inside, under a span `test` of ours unless there is to be no parent."""
    provider, *_ = _sdk()
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    try:
        if not parent:
            yield Seen(exporter, None)
            return
        with provider.get_tracer("test").start_as_current_span("test") as span:
            yield Seen(exporter, span)
    finally:
        processor.shutdown()


def durations(**attributes: object) -> list[HistogramDataPoint]:
    """The points of `db.client.operation.duration` that have these attributes, dots as `__`."""
    *_, reader = _sdk()
    data = reader.get_metrics_data()
    wanted = {name.replace("__", "."): value for name, value in attributes.items()}
    return [
        point
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "db.client.operation.duration" and metric.unit == "s"
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
        and wanted.items() <= dict(point.attributes or {}).items()
    ]
