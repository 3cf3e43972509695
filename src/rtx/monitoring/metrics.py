"""Prometheus text, built from the counters of the layer and the gateway when it is asked for.

The layer counts in plain integers and knows nothing of Prometheus. A part `cache.prices` with a
counter `hits` becomes `rtx_cache_hits_total{cache="prices"}`.

The number of series is bounded: labels are names of caches, channels, limits, roles and reasons,
and for feeds at most 500 pairs of provider and symbol. No label has an account, a user or a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import rtx
from rtx.layer import DataLayer
from rtx.monitoring.exposition import CONTENT_TYPE, text_of
from rtx.monitoring.families import Families

Value: TypeAlias = int | float | Mapping[str, int]

_LABEL = {
    "cache": "cache",
    "limit": "limit",
    "concurrency": "limit",
    "wire": "role",
    "channel": "channel",
    "topology": "role",
}

# What goes up and down; every other number only counts.
_GAUGES = frozenset(
    {
        ("wire", "connections"),
        ("wire", "in_flight"),
        ("breaker", "open"),
        ("near", "entries"),
        ("near", "bytes"),
        ("breaker", "owed"),
        ("concurrency", "held"),
        ("publisher", "queued"),
        ("hub", "channels"),
        ("alert_rules", "rules"),
        ("alert_rules", "owed"),
        ("channel", "listeners"),
        ("hub", "probe_ms"),
        ("hub", "probe_average_ms"),
        ("hub", "probe_age_s"),
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
    "concurrency": "Limits of how many at once",
    "wire": "Connections to the servers",
    "channel": "Channels of market data, executions and alerts",
    "publisher": "Publishers of feeds' ticks",
    "hub": "The subscriber connection",
    "alert_rules": "Alert rules that this process evaluates",
    "topology": "Where the servers of a role are",
    "gateway": "HTTP, WebSocket and SSE gateway",
}


class HasStats(Protocol):
    """Whatever counts, such as the gateway."""

    def stats(self) -> Mapping[str, int | float]:
        """Numbers by name."""
        ...


def families(layer: DataLayer, gateway: HasStats | None = None) -> Families:
    """The metrics of one layer, and of the gateway in front of it."""
    out = Families()
    out.gauge("rtx_info", 1, {"version": rtx.__version__}, "The version of RTX")
    parts: dict[str, Mapping[str, Value]] = dict(layer.stats())
    if gateway is not None:
        parts["gateway"] = dict(gateway.stats())
    for part, numbers in parts.items():
        kind, _, subject = part.partition(".")
        for name, value in numbers.items():
            _add(out, kind, subject, name, value)
    for part, timings in layer.timings().items():
        kind, _, subject = part.partition(".")
        for outcome, timing in timings.items():
            if kind == "cache":
                labels = {"cache": subject, "outcome": outcome}
                text = "How long reads took; hits are sampled, about one in 16"
                out.timing("rtx_cache_read_seconds", timing, labels, text)
            else:
                text = "Age of the messages that come in; the last of each read of the socket"
                out.timing("rtx_channel_lag_seconds", timing, {"channel": subject}, text)
    for (provider, symbol), stream in layer.feeds.streams.items():
        labels = {"provider": provider, "symbol": symbol}
        out.counter("rtx_feed_ticks", stream.count, labels, "Ticks that came in")
        text = "When the last tick came in"
        out.gauge("rtx_feed_last_tick_timestamp_seconds", stream.came_at, labels, text)
        text = "How old the last tick was when it came in, by its own time"
        out.gauge("rtx_feed_lag_seconds", stream.lag, labels, text)
    return out


def _add(out: Families, kind: str, subject: str, name: str, value: Value) -> None:
    labels = {_LABEL.get(kind, "part"): subject} if subject else {}
    add = out.gauge if (kind, name) in _GAUGES else out.counter
    text = f"{_HELP.get(kind, kind)}: {name.replace('_', ' ')}"
    if isinstance(value, Mapping):
        out.declare_counter(f"rtx_{kind}_{name}", [*labels, "reason"], text)
        for reason, count in value.items():
            add(f"rtx_{kind}_{name}", count, {**labels, "reason": reason}, text)
    else:
        add(f"rtx_{kind}_{name}", value, labels, text)


def render(layer: DataLayer, gateway: HasStats | None = None) -> tuple[bytes, str]:
    """The metrics of the moment as Prometheus text, and its content type."""
    return text_of(families(layer, gateway)), CONTENT_TYPE
