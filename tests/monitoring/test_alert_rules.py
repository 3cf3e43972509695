"""Every alert fires in its fault and clears after it: promtool runs the rules on made-up series."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"

# Samples come every 5 s: 6 minutes well, 12 minutes ill, 12 minutes well again.
WELL, ILL, AGAIN = 72, 144, 144
BEFORE, DURING, AFTER = "5m", "17m", "29m"


@dataclass(frozen=True)
class Fault:
    """The series that show a fault, and when the alert must be silent, fire, and be silent."""

    series: dict[str, str]
    during: str = DURING
    after: str = AFTER


def gauge(name: str, well: float, ill: float) -> dict[str, str]:
    return {name: f"{well}x{WELL - 1} {ill}x{ILL - 1} {well}x{AGAIN}"}


def counter(name: str, *, step: int = 1) -> dict[str, str]:
    """Stands still, counts up during the fault, stands still again."""
    end = step * ILL
    return {name: f"0x{WELL - 1} 0+{step}x{ILL - 1} {end}x{AGAIN}"}


def gone(name: str, value: str = "1") -> dict[str, str]:
    """A series that is absent during the fault."""
    return {name: f"{value}x{WELL - 1} stale _x{ILL - 2} {value}x{AGAIN}"}


def came(name: str, value: str = "1") -> dict[str, str]:
    """A series that is there during the fault only."""
    return {name: f"_x{WELL} {value}x{ILL - 2} stale _x{AGAIN}"}


AT = 'job="redis", instance="s:1", group="state"'
SENTINEL = 'job="redis", instance="s:2", group="sentinel", master_name="m"'
RTX = 'job="gateway", instance="g:1"'
LAG = 'job="gateway", instance="g:1", channel="executions"'

FAULTS: dict[str, list[Fault]] = {
    "RtxTargetDown": [Fault(gauge("up{" + RTX + "}", 1, 0))],
    "RtxServerDown": [Fault(gauge("redis_up{" + AT + "}", 1, 0))],
    "RtxNotOnePrimary": [
        Fault(
            gauge('redis_instance_info{role="master", ' + AT + "}", 1, 1)
            | came('redis_instance_info{role="master", job="redis", instance="s:9", group="state"}')
            | gauge("redis_up{" + AT + "}", 1, 1)
        ),
        Fault(
            gone('redis_instance_info{role="master", ' + AT + "}")
            | gauge("redis_up{" + AT + "}", 1, 1)
        ),
    ],
    "RtxQuorumLost": [
        Fault(gauge("redis_sentinel_master_ckquorum_status{" + SENTINEL + "}", 1, 0))
    ],
    "RtxNoGoodReplica": [Fault(gauge("redis_sentinel_master_ok_slaves{" + SENTINEL + "}", 2, 0))],
    "RtxDeafSubscriber": [Fault(gauge("rtx_hub_probe_age_s{" + RTX + "}", 0, 40))],
    "RtxExecutionsLate": [
        Fault(
            {
                f'rtx_channel_lag_seconds_bucket{{{LAG}, le="1.0"}}': f"0+5x{WELL - 1} "
                f"{5 * WELL}x{ILL - 1} {5 * WELL}+5x{AGAIN}",
                f'rtx_channel_lag_seconds_bucket{{{LAG}, le="10.0"}}': f"0+5x{WELL - 1} "
                f"{5 * WELL}x{ILL - 1} {5 * WELL}+5x{AGAIN}",
                f'rtx_channel_lag_seconds_bucket{{{LAG}, le="30.0"}}': f"0+5x{WELL + ILL + AGAIN}",
                f'rtx_channel_lag_seconds_bucket{{{LAG}, le="+Inf"}}': f"0+5x{WELL + ILL + AGAIN}",
            }
        )
    ],
    "RtxMessagesLost": [Fault(counter("rtx_channel_recovery_failures_total{" + LAG + "}"))],
    "RtxFeedSilent": [
        Fault(
            {
                'rtx_feed_last_tick_timestamp_seconds{provider="LP", symbol="A", ' + RTX + "}": (
                    f"0+5x{WELL - 1} {5 * WELL}x{ILL - 1} {5 * (WELL + ILL)}+5x{AGAIN}"
                )
            }
        )
    ],
    "RtxBreakerOpen": [Fault(gauge("rtx_breaker_open{" + RTX + "}", 0, 1))],
    "RtxLimitWithoutServer": [
        Fault(counter('rtx_limit_errors_total{limit="orders", ' + RTX + "}"))
    ],
    "RtxAofFailing": [
        Fault(gauge("redis_aof_last_write_status{" + AT + "}", 1, 0)),
        Fault(gauge("redis_aof_last_bgrewrite_status{" + AT + "}", 1, 0)),
    ],
    "RtxRdbFailing": [Fault(gauge("redis_rdb_last_bgsave_status{" + AT + "}", 1, 0))],
    "RtxConnectionsRejected": [Fault(counter("redis_rejected_connections_total{" + AT + "}"))],
    "RtxStateEvicted": [Fault(counter("redis_evicted_keys_total{" + AT + "}"))],
    "RtxFailover": [
        Fault(
            {
                "redis_sentinel_master_config_epoch{" + SENTINEL + "}": (
                    f"1x{WELL + ILL - 25} 2x{AGAIN + 24}"
                )
            }
        ),
        Fault(
            {
                'rtx_topology_switches_total{role="cache", ' + RTX + "}": (
                    f"0x{WELL + ILL - 25} 1x{AGAIN + 24}"
                )
            }
        ),
    ],
    "RtxSentinelTilt": [Fault(gauge("redis_sentinel_tilt{" + SENTINEL + "}", 0, 1))],
    "RtxReplicaLag": [Fault(gauge("redis_connected_slave_lag_seconds{" + AT + "}", 0, 5))],
    "RtxReplicaLinkDown": [Fault(gauge("redis_master_link_up{" + AT + "}", 1, 0))],
    "RtxMemoryHigh": [
        Fault(
            gauge("redis_memory_used_bytes{" + AT + "}", 10, 90)
            | gauge("redis_memory_max_bytes{" + AT + "}", 100, 100)
        )
    ],
    "RtxFragmentation": [
        Fault(
            gauge("redis_mem_fragmentation_ratio{" + AT + "}", 1.1, 1.8)
            | gauge("redis_memory_used_bytes{" + AT + "}", 2e8, 2e8)
        )
    ],
    "RtxLatencySpike": [
        Fault(
            {
                'redis_latency_spike_last{event_name="command", ' + AT + "}": (
                    f"-1000x{WELL - 1} {5 * WELL}+5x{ILL - 1} {5 * (WELL + ILL)}x{AGAIN}"
                )
            }
        )
    ],
    "RtxBlockedClients": [Fault(gauge("redis_blocked_clients{" + AT + "}", 0, 500))],
    "RtxAccessDenied": [
        Fault(counter('redis_errors_total{err="NOPERM", ' + AT + "}")),
        Fault(  # the first error of its kind makes the series
            {
                'redis_errors_total{err="WRONGPASS", ' + AT + "}": f"_x{WELL} 1x{ILL + AGAIN}",
                "redis_up{" + AT + "}": f"1x{WELL + ILL + AGAIN}",
            },
            during="8m",
        ),
    ],
    "RtxSubscriberCutOff": [Fault(counter("rtx_hub_cut_offs_total{" + RTX + "}"))],
    "RtxGaps": [Fault(counter("rtx_channel_gaps_total{" + LAG + "}"))],
    "RtxInvalidationsOwed": [Fault(gauge("rtx_breaker_owed{" + RTX + "}", 0, 7))],
    "RtxPoolExhausted": [Fault(counter('rtx_wire_exhausted_total{role="cache", ' + RTX + "}"))],
    "RtxGatewayErrors": [Fault(counter("rtx_gateway_responses_5xx_total{" + RTX + "}"))],
}

# What looks like a fault and is none.
HARMLESS: dict[str, dict[str, str]] = {
    "RtxNotOnePrimary": {
        'redis_instance_info{role="master", job="r", group="all", instance="1"}': "1x360",
        'redis_instance_info{role="master", job="r", group="all", instance="2"}': "1x360",
        'redis_cluster_enabled{job="r", group="all", instance="1"}': "1x360",
        'redis_cluster_enabled{job="r", group="all", instance="2"}': "1x360",
        'redis_up{job="r", group="all", instance="1"}': "1x360",
    },
    "RtxStateEvicted": {
        'redis_evicted_keys_total{group="cache", job="r", instance="1"}': "0+9x360"
    },
    "RtxMemoryHigh": {
        'redis_memory_used_bytes{group="state", job="r", instance="1"}': "90x360",
        'redis_memory_max_bytes{group="state", job="r", instance="1"}': "0x360",
    },
    "RtxAccessDenied": {  # known since before Prometheus was
        'redis_errors_total{err="NOPERM", job="r", instance="1"}': "7x360",
        'redis_up{job="r", instance="1"}': "1x360",
    },
    "RtxGatewayErrors": {"rtx_gateway_responses_5xx_total": "0x70 1x290"},
}


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def _fires(alert: str, at: str, times: int) -> dict[str, Any]:
    return {
        "expr": f'min(count(ALERTS{{alertname="{alert}", alertstate="firing"}}) > bool 0) '
        "or vector(0)",
        "eval_time": at,
        "exp_samples": [{"labels": "{}", "value": times}],
    }


def _case(name: str, series: dict[str, str], checks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "5s",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "promql_expr_test": checks,
    }


def test_every_alert_fires_in_its_fault_and_clears_after_it(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    assert set(FAULTS) == set(rules())
    files = []
    for alert, rule in rules().items():
        own = tmp_path / f"{alert}.rules.yml"  # all rules for each case would take 29 times as long
        own.write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": [rule]}]}), "utf-8")
        cases = [
            _case(
                f"{alert} {number}",
                fault.series,
                [
                    _fires(alert, BEFORE, 0),
                    _fires(alert, fault.during, 1),
                    _fires(alert, fault.after, 0),
                ],
            )
            for number, fault in enumerate(FAULTS[alert])
        ]
        if alert in HARMLESS:
            checks = [_fires(alert, at, 0) for at in ("6m", "10m", "25m")]
            cases.append(_case(f"{alert} harmless", HARMLESS[alert], checks))
        file = tmp_path / f"{alert}.test.yml"
        what = {"rule_files": [str(own)], "evaluation_interval": "5s", "tests": cases}
        file.write_text(yaml.safe_dump(what), "utf-8")
        files.append(str(file))
    done = subprocess.run(
        [promtool, "test", "rules", *files], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE))
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert name in sections, f"docs/runbook.md has no section {name}"
    assert {name for name in sections if name.startswith("Rtx")} == set(rules())
