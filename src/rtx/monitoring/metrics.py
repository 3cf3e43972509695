"""Prometheus text, built from the counters of the layer and the gateway when it is asked for.

The layer counts in plain integers and knows nothing of Prometheus. A part `cache.prices` with a
counter `hits` becomes `rtx_cache_hits_total{cache="prices"}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from rtx.layer import DataLayer

Value: TypeAlias = int | float | Mapping[str, int]
_Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily

_LABEL = {"cache": "cache", "limit": "limit", "wire": "role", "channel": "channel"}

# What goes up and down; every other number only counts.
_GAUGES = frozenset(
    {
        ("wire", "connections"),
        ("wire", "in_flight"),
        ("breaker", "open"),
        ("near", "entries"),
        ("near", "bytes"),
        ("breaker", "owed"),
        ("hub", "channels"),
        ("gateway", "connections"),
        ("gateway", "market_channels"),
    }
)

_HELP = {
    "cache": "Typed caches",
    "breaker": "Whether the caches' server is asked, and what it is still to be told",
    "near": "Values kept decoded in this process",
    "board": "Latest prices in this process",
    "marked": "Accounts and positions valued at the latest prices",
    "limit": "Rate limits",
    "wire": "Connections to the servers",
    "channel": "Channels of market data, executions and alerts",
    "hub": "The subscriber connection",
    "gateway": "HTTP, WebSocket and SSE gateway",
}


class HasStats(Protocol):
    """Whatever counts, such as the gateway."""

    def stats(self) -> Mapping[str, int | float]:
        """Numbers by name."""
        ...


class StatsCollector(Collector):
    """Metric families of one layer, and of the gateway in front of it."""

    def __init__(self, layer: DataLayer, gateway: HasStats | None = None) -> None:
        self._layer = layer
        self._gateway = gateway

    def collect(self) -> Iterator[_Family]:
        families: dict[str, _Family] = {}
        parts: dict[str, Mapping[str, Value]] = dict(self._layer.stats())
        if self._gateway is not None:
            parts["gateway"] = dict(self._gateway.stats())
        for part, numbers in parts.items():
            kind, _, subject = part.partition(".")
            for name, value in numbers.items():
                _add(families, kind, subject, name, value)
        yield from families.values()


def _add(families: dict[str, _Family], kind: str, subject: str, name: str, value: Value) -> None:
    labels = {_LABEL.get(kind, "part"): subject} if subject else {}
    by_reason = isinstance(value, Mapping)
    full = f"rtx_{kind}_{name}"
    family = families.get(full)
    if family is None:
        make = GaugeMetricFamily if (kind, name) in _GAUGES else CounterMetricFamily
        text = f"{_HELP.get(kind, kind)}: {name.replace('_', ' ')}"
        names = [*labels, *(["reason"] if by_reason else [])]
        family = families[full] = make(full, text, labels=names)
    if isinstance(value, Mapping):
        for reason, count in value.items():
            family.add_metric([*labels.values(), reason], count)
    else:
        family.add_metric(list(labels.values()), value)


def render(layer: DataLayer, gateway: HasStats | None = None) -> tuple[bytes, str]:
    """The metrics of the moment as Prometheus text, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatsCollector(layer, gateway))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
