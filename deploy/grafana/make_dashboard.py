#!/usr/bin/env python3
"""Writes the Grafana dashboard, dashboards/rtx.json: the panels are lines here, not clicks there.

    python deploy/grafana/make_dashboard.py

The same input gives the same file; a test fails when the file is older than this one.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).parent / "dashboards" / "rtx.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_HEIGHT = 7

Query = tuple[str, str]
"""An expression and the legend of its series."""

SERVER = 'instance=~"$server"'
PROCESS = 'instance=~"$process"'


def series(
    title: str, unit: str, *queries: Query, stacked: bool = False, about: str = ""
) -> dict[str, object]:
    """A panel of lines over time."""
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "targets": _targets(queries),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 25 if stacked else 5,
                    "lineWidth": 1,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if stacked else "none"},
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def number(
    title: str, unit: str, query: str, *, red_above: float | None = None, about: str = ""
) -> dict[str, object]:
    """A panel with one number, red above a bound, or always plain."""
    steps: list[dict[str, object]] = [{"color": "green", "value": None}]
    if red_above is not None:
        steps.append({"color": "red", "value": red_above})
    return {
        "type": "stat",
        "title": title,
        "description": about,
        "targets": _targets([(query, "")]),
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"},
    }


def _targets(queries: list[Query] | tuple[Query, ...]) -> list[dict[str, object]]:
    return [
        {"datasource": _SOURCE, "expr": expr, "legendFormat": legend, "refId": chr(65 + place)}
        for place, (expr, legend) in enumerate(queries)
    ]


def quantiles(metric: str, by: str, legend: str, where: str = PROCESS) -> list[Query]:
    """The median and the 99th percentile of a histogram."""
    return [
        (
            f"histogram_quantile({q}, sum by (le, {by}) "
            f"(rate({metric}_bucket{{{where}}}[$__rate_interval])))",
            f"p{round(q * 100)} {legend}",
        )
        for q in (0.5, 0.99)
    ]


def rate(metric: str, by: str, where: str = PROCESS) -> str:
    """How fast a counter grows, summed by labels."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


ROWS: dict[str, list[dict[str, object]]] = {
    "At a glance": [
        number("Alerts that fire", "none", 'count(ALERTS{alertstate="firing"}) or vector(0)',
               red_above=1),
        number("Servers down", "none", "count(redis_up == 0) or vector(0)", red_above=1),
        number("Ticks per second", "short", f"sum(rate(rtx_feed_ticks_total{{{PROCESS}}}[1m]))"),
        number("Cache hits", "percentunit",
               f"sum(rate(rtx_cache_hits_total{{{PROCESS}}}[1m])) / (sum(rate("
               f"rtx_cache_hits_total{{{PROCESS}}}[1m])) + sum(rate("
               f"rtx_cache_misses_total{{{PROCESS}}}[1m])))"),
        number("Commands per second", "short",
               f"sum(rate(redis_commands_processed_total{{{SERVER}}}[1m]))"),
        number("Breakers open", "none", f"sum(rtx_breaker_open{{{PROCESS}}})", red_above=1),
        number("Oldest probe", "s", f"max(rtx_hub_probe_age_s{{{PROCESS}}})", red_above=2,
               about="Since a subscriber connection last heard a message of its own"),
        number("Uptime of the youngest server", "s",
               f"min(redis_uptime_in_seconds{{{SERVER}}})"),
    ],
    "Market data": [
        series("Ticks per second, by symbol", "short",
               ('topk(20, sum by (symbol) (rate(rtx_feed_ticks_total{symbol=~"$symbol"}'
                "[$__rate_interval])))", "{{symbol}}")),
        series("Age of ticks when they come in, by symbol", "s",
               ('topk(20, max by (symbol, provider) (rtx_feed_lag_seconds{symbol=~"$symbol"}))',
                "{{symbol}} {{provider}}"),
               about="By the provider's own time; a replay's ticks are as old as its file"),
        series("Silence of feeds", "s",
               ("time() - max by (provider) (rtx_feed_last_tick_timestamp_seconds)",
                "{{provider}}")),
        series("From tick to subscriber", "s",
               *quantiles("rtx_channel_lag_seconds", "channel", "{{channel}}"),
               about="By the clock of who wrote the message"),
        series("Published, delivered, conflated, skipped", "short",
               (rate("rtx_channel_published_total", "channel"), "published {{channel}}"),
               (rate("rtx_channel_delivered_total", "channel"), "delivered {{channel}}"),
               (rate("rtx_channel_conflated_total", "channel"), "conflated {{channel}}"),
               (rate("rtx_channel_skipped_total", "channel"), "skipped {{channel}}")),
        series("Ticks refused", "short",
               (rate("rtx_channel_refused_total", "reason"), "{{reason}}"), stacked=True),
    ],
    "Executions and subscribers": [
        series("Execution latency", "s",
               *quantiles("rtx_channel_lag_seconds", "instance", "{{instance}}",
                          f'{PROCESS}, channel="executions"'),
               about="From an execution's timestamp to its subscriber"),
        series("Gaps and recoveries", "short",
               (rate("rtx_channel_gaps_total", "channel"), "gaps {{channel}}"),
               (rate("rtx_channel_recoveries_total", "channel"), "recovered {{channel}}"),
               (rate("rtx_channel_recovery_failures_total", "channel"), "lost {{channel}}")),
        series("Probes of the subscriber connection", "ms",
               (f"rtx_hub_probe_ms{{{PROCESS}}}", "round trip {{instance}}"),
               (f"rtx_hub_probe_age_s{{{PROCESS}}} * 1000", "age {{instance}}")),
        series("Subscriber connections lost", "short",
               (rate("rtx_hub_losses_total", "instance"), "lost {{instance}}"),
               (rate("rtx_hub_cut_offs_total", "instance"), "cut off {{instance}}"),
               (rate("rtx_hub_probe_failures_total", "instance"), "deaf {{instance}}")),
    ],
    "Caches": [
        series("Hit rate", "percentunit",
               (rate("rtx_cache_hits_total", "cache") + " / ("
                + rate("rtx_cache_hits_total", "cache") + " + "
                + rate("rtx_cache_misses_total", "cache") + ")", "{{cache}}"),
               (rate("rtx_cache_near_hits_total", "cache") + " / ("
                + rate("rtx_cache_near_hits_total", "cache") + " + "
                + rate("rtx_cache_hits_total", "cache") + " + "
                + rate("rtx_cache_misses_total", "cache") + ")", "near {{cache}}")),
        series("How long reads take", "s",
               *quantiles("rtx_cache_read_seconds", "cache, outcome", "{{cache}} {{outcome}}"),
               about="Hits are sampled, one in 16; near hits are not timed"),
        series("Read from the database", "short",
               (rate("rtx_cache_loads_total", "cache"), "loads {{cache}}"),
               (rate("rtx_cache_fallbacks_total", "cache"), "in place of Redis {{cache}}")),
        series("Older values refused", "short",
               (rate("rtx_cache_stale_fills_refused_total", "cache"), "fills {{cache}}"),
               (rate("rtx_cache_older_versions_refused_total", "cache"), "rows {{cache}}")),
        series("Breaker", "short",
               (f"rtx_breaker_open{{{PROCESS}}}", "open {{instance}}"),
               (f"rtx_breaker_owed{{{PROCESS}}}", "owed {{instance}}")),
    ],
    "Limits": [
        series("Allowed", "short", (rate("rtx_limit_allowed_total", "limit"), "{{limit}}")),
        series("Denied", "short", (rate("rtx_limit_denied_total", "limit"), "{{limit}}")),
        series("Decided without the server", "short",
               (rate("rtx_limit_errors_total", "limit"), "{{limit}}")),
    ],
    "Failover and connections": [
        series("Failovers", "none",
               ("max by (master_name) (redis_sentinel_master_config_epoch)",
                "epoch of {{master_name}}"),
               (f"max by (role, instance) (rtx_topology_switches_total{{{PROCESS}}})",
                "switches {{role}} {{instance}}")),
        series("What a failover needs", "none",
               ("min by (master_name) (redis_sentinel_master_ok_slaves)",
                "replicas of {{master_name}}"),
               ("min by (master_name) (redis_sentinel_master_ok_sentinels)",
                "sentinels of {{master_name}}"),
               ("min by (master_name) (redis_sentinel_master_ckquorum_status)",
                "quorum of {{master_name}}")),
        series("Replicas", "s",
               (f"redis_connected_slave_lag_seconds{{{SERVER}}}",
                "lag {{slave_ip}}:{{slave_port}}")),
        series("Connections", "short",
               (f"rtx_wire_connections{{{PROCESS}}}", "open {{role}} {{instance}}"),
               (f"rtx_wire_in_flight{{{PROCESS}}}", "calls {{role}} {{instance}}")),
        series("Connections lost, dialed, missing", "short",
               (rate("rtx_wire_lost_total", "role"), "lost {{role}}"),
               (rate("rtx_wire_dials_total", "role"), "dialed {{role}}"),
               (rate("rtx_wire_dial_failures_total", "role"), "failed {{role}}"),
               (rate("rtx_wire_exhausted_total", "role"), "no room {{role}}")),
    ],
    "Gateway": [
        series("Streams", "short",
               (f"rtx_gateway_connections{{{PROCESS}}}", "open {{instance}}"),
               (rate("rtx_gateway_connections_refused_total", "instance"), "refused {{instance}}"),
               (rate("rtx_gateway_closed_overflow_total", "instance"), "too slow {{instance}}")),
        series("Messages sent", "short",
               (rate("rtx_gateway_messages_total", "instance"), "{{instance}}"),
               (rate("rtx_gateway_conflated_total", "instance"), "conflated {{instance}}")),
        series("Answers", "short",
               (rate("rtx_gateway_responses_2xx_total", "instance"), "2xx {{instance}}"),
               (rate("rtx_gateway_responses_4xx_total", "instance"), "4xx {{instance}}"),
               (rate("rtx_gateway_responses_5xx_total", "instance"), "5xx {{instance}}")),
    ],
    "Servers": [
        series("Commands per second", "short",
               (f"rate(redis_commands_processed_total{{{SERVER}}}[$__rate_interval])",
                "{{instance}}")),
        series("By command", "short",
               ("topk(10, " + rate("redis_commands_total", "cmd", SERVER) + ")", "{{cmd}}"),
               stacked=True),
        series("Time per command", "s",
               ("topk(10, " + rate("redis_commands_duration_seconds_total", "cmd", SERVER)
                + " / " + rate("redis_commands_total", "cmd", SERVER) + ")", "{{cmd}}")),
        series("Keys found and not found", "short",
               (rate("redis_keyspace_hits_total", "instance", SERVER), "found {{instance}}"),
               (rate("redis_keyspace_misses_total", "instance", SERVER), "missing {{instance}}")),
        series("Memory", "bytes",
               (f"redis_memory_used_bytes{{{SERVER}}}", "used {{instance}}"),
               (f"redis_memory_max_bytes{{{SERVER}}} > 0", "at most {{instance}}"),
               (f"redis_memory_used_rss_bytes{{{SERVER}}}", "of the process {{instance}}")),
        series("Clients", "short",
               (f"redis_connected_clients{{{SERVER}}}", "connected {{instance}}"),
               (f"redis_blocked_clients{{{SERVER}}}", "blocked {{instance}}"),
               (rate("redis_rejected_connections_total", "instance", SERVER),
                "rejected {{instance}}")),
        series("Network", "Bps",
               (rate("redis_net_input_bytes_total", "instance", SERVER), "in {{instance}}"),
               (rate("redis_net_output_bytes_total", "instance", SERVER), "out {{instance}}")),
        series("Keys", "short",
               (f"sum by (instance, db) (redis_db_keys{{{SERVER}}}) > 0", "{{instance}} {{db}}"),
               (f"sum by (instance, db) (redis_db_keys_expiring{{{SERVER}}}) > 0",
                "with a time to live {{instance}} {{db}}")),
        series("Expired and evicted", "short",
               (rate("redis_expired_keys_total", "instance", SERVER), "expired {{instance}}"),
               (rate("redis_evicted_keys_total", "instance", SERVER), "evicted {{instance}}")),
        series("Errors", "short",
               (rate("redis_errors_total", "err", SERVER), "{{err}}")),
        series("Slow", "s",
               (f"redis_last_slow_execution_duration_seconds{{{SERVER}}}",
                "latest slow command {{instance}}"),
               (f"redis_latency_spike_duration_seconds{{{SERVER}}}",
                "{{event_name}} {{instance}}")),
        series("Processor", "percentunit",
               (rate("redis_cpu_sys_seconds_total", "instance", SERVER), "system {{instance}}"),
               (rate("redis_cpu_user_seconds_total", "instance", SERVER), "user {{instance}}")),
    ],
}  # fmt: skip


def variable(name: str, label: str, query: str) -> dict[str, object]:
    """A choice at the top of the page: all, or some of a label's values."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, object]:
    """The whole page."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": y}}
        )
        y += 1
        small = all(panel["type"] == "stat" for panel in row)
        width, height = (3, 4) if small else (8, _HEIGHT)
        for place, panel in enumerate(row):
            line, column = divmod(place * width, _WIDTH)
            where = {"h": height, "w": width, "x": column, "y": y + line * height}
            panels.append({**panel, "datasource": _SOURCE, "gridPos": where})
        y += -(-len(row) * width // _WIDTH) * height
    for id, panel in enumerate(panels, 1):
        panel["id"] = id
    return {
        "uid": "rtx",
        "title": "RTX",
        "description": "The data layer and its servers, from deploy/grafana/make_dashboard.py",
        "tags": ["rtx", "redis"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Prometheus",
                    "query": "prometheus",
                    "current": {"text": "Prometheus", "value": "Prometheus"},
                },
                variable("server", "Server", "label_values(redis_up, instance)"),
                variable("process", "Process", "label_values(rtx_info, instance)"),
                variable("symbol", "Symbol", "label_values(rtx_feed_ticks_total, symbol)"),
            ]
        },
        "panels": panels,
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
