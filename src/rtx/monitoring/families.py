"""Metric families that grow sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from rtx.timing import BOUNDS, Timing

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Families:
    """Collects samples by metric; all samples of one have the same label names."""

    def __init__(self) -> None:
        self._known: dict[str, Family] = {}

    def __iter__(self) -> Iterator[Family]:
        return iter(self._known.values())

    def gauge(
        self, name: str, value: float, labels: Mapping[str, str] | None = None, text: str = ""
    ) -> None:
        """Add a sample of what goes up and down."""
        family = self._known.get(name)
        if family is None:
            family = GaugeMetricFamily(name, text or name, labels=[*(labels or ())])
            self._known[name] = family
        assert isinstance(family, GaugeMetricFamily)
        family.add_metric([*(labels or {}).values()], value)

    def counter(
        self, name: str, value: float, labels: Mapping[str, str] | None = None, text: str = ""
    ) -> None:
        """Add a sample of what only grows; `_total` is put behind the name."""
        family = self._known.get(name)
        if family is None:
            family = CounterMetricFamily(name, text or name, labels=[*(labels or ())])
            self._known[name] = family
        assert isinstance(family, CounterMetricFamily)
        family.add_metric([*(labels or {}).values()], value)

    def declare_counter(self, name: str, labels: Sequence[str], text: str) -> None:
        """Have a counter there that may have no sample yet."""
        if name not in self._known:
            self._known[name] = CounterMetricFamily(name, text, labels=labels)

    def timing(self, name: str, timing: Timing, labels: Mapping[str, str], text: str) -> None:
        """Add a histogram."""
        family = self._known.get(name)
        if family is None:
            family = HistogramMetricFamily(name, text, labels=[*labels])
            self._known[name] = family
        assert isinstance(family, HistogramMetricFamily)
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*map(repr, BOUNDS), "+Inf"), timing.counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        family.add_metric([*labels.values()], buckets, timing.total)
