"""Metrics out of what one server said of itself: INFO, LATENCY, SLOWLOG, and SENTINEL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rtx.monitoring.families import Families
from rtx.monitoring.server_names import COUNTERS, GAUGES, INSTANCE, MASTER_LINK, SENTINEL_SETTINGS
from rtx.urls import Address
from rtx.wire import Reply

_DATABASES = 16
_AT_MOST = 500  # series of one metric and server: every command there is, and some
_WORDS = {"ok": 1.0, "err": 0.0, "up": 1.0, "down": 0.0}
_US = 1e-6


@dataclass(slots=True)
class Service:
    """What a sentinel says of its service: the primary, and whether a failover would succeed."""

    quorum: str = ""
    """What SENTINEL CKQUORUM answered."""
    has_quorum: bool = False
    master: Mapping[str, str] = field(default_factory=dict)
    replicas: list[Mapping[str, str]] = field(default_factory=list)
    sentinels: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def addresses(self) -> frozenset[Address]:
        """Where its replicas are."""
        return frozenset(
            Address(each["ip"], int(each["port"]))
            for each in self.replicas
            if each.get("ip") and each.get("port", "").isdecimal()
        )


@dataclass(slots=True)
class Facts:
    """The answers of one server; without `info` it did not answer, and `error` says why."""

    info: Mapping[str, str] = field(default_factory=dict)
    latencies: list[tuple[str, int, int]] = field(default_factory=list)
    """Events with the time and the milliseconds of the latest."""
    slow_length: int | None = None
    slow_last: tuple[int, int] | None = None
    """Id and microseconds of the latest slow command."""
    service: Service | None = None
    certificate_ends: float | None = None
    """When the server's certificate ends, in seconds since 1970; None without a verified one."""
    seconds: float = 0.0
    error: str = ""


def lines_of(text: Reply) -> dict[str, str]:
    """The fields of INFO."""
    if not isinstance(text, bytes):
        return {}
    pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in pairs if colon and not name.startswith("#")}


def write(out: Families, facts: Facts, labels: dict[str, str]) -> None:
    """Add the metrics of a server that answered."""
    info = facts.info
    for name, metric in GAUGES.items():
        number = _number(info.get(name))
        if number is not None:
            scale = _US if name.endswith("_usec") else 1.0
            out.gauge(f"redis_{metric}", number * scale, labels, f"INFO: {name}")
    for name, metric in COUNTERS.items():
        number = _number(info.get(name))
        if number is not None:
            out.counter(f"redis_{metric}", number, labels, f"INFO: {name}")
    instance = {name: info.get(name, "") for name in INSTANCE}
    instance["redis_mode"] = info.get("redis_mode") or info.get("server_mode", "")
    out.gauge("redis_instance_info", 1, labels | instance, "What kind of server it is")
    started = _number(info.get("uptime_in_seconds"))
    now = _number(info.get("server_time_usec"))
    if started is not None and now is not None:
        text = "When the server started"
        out.gauge("redis_start_time_seconds", round(now * _US - started), labels, text)
    if "sentinel_masters" not in info:
        _keyspace(out, info, labels)
    _by_name(out, info, labels)
    _replication(out, info, labels)
    _events(out, facts, labels)
    if facts.service is not None:
        _sentinel(out, info, facts.service, labels)


def _keyspace(out: Families, info: Mapping[str, str], labels: dict[str, str]) -> None:
    """Keys of each database; a database without keys, which INFO leaves out, has none."""
    count = 1 if info.get("cluster_enabled") == "1" else _DATABASES
    names = [f"db{number}" for number in range(count)]
    names += [name for name in info if re.fullmatch(r"db\d+", name) and name not in names]
    for name in names[:_AT_MOST]:
        facts = _pairs(info.get(name, ""))
        which = {**labels, "db": name}
        out.gauge("redis_db_keys", _number(facts.get("keys")) or 0, which, "Keys")
        expiring = _number(facts.get("expires")) or 0
        out.gauge("redis_db_keys_expiring", expiring, which, "Keys with a time to live")
        average = _number(facts.get("avg_ttl"))
        if average is not None:
            text = "Average time to live of the keys that have one"
            out.gauge("redis_db_avg_ttl_seconds", average / 1000, which, text)


def _by_name(out: Families, info: Mapping[str, str], labels: dict[str, str]) -> None:
    """Commands and errors, which INFO has one line each for."""
    left = {"cmdstat_": _AT_MOST, "errorstat_": _AT_MOST}
    for name, value in info.items():
        kind = next((kind for kind in left if name.startswith(kind)), None)
        if kind is None or left[kind] == 0:
            continue
        left[kind] -= 1
        facts, subject = _pairs(value), name.removeprefix(kind)
        if kind == "errorstat_":
            which = {**labels, "err": subject}
            out.counter("redis_errors", _number(facts.get("count")) or 0, which, "Error replies")
            continue
        which = {**labels, "cmd": subject}
        for field_name, metric, scale in (
            ("calls", "redis_commands", 1.0),
            ("usec", "redis_commands_duration_seconds", _US),
            ("rejected_calls", "redis_commands_rejected_calls", 1.0),
            ("failed_calls", "redis_commands_failed_calls", 1.0),
        ):
            number = _number(facts.get(field_name))
            if number is not None:
                out.counter(metric, number * scale, which, f"INFO commandstats: {field_name}")


def _replication(out: Families, info: Mapping[str, str], labels: dict[str, str]) -> None:
    if info.get("role") == "slave":
        primary = {
            "master_host": info.get("master_host", ""),
            "master_port": info.get("master_port", ""),
        }
        for name, metric in MASTER_LINK.items():
            number = _number(info.get(name))
            if number is not None:
                out.gauge(f"redis_{metric}", number, labels | primary, f"INFO: {name}")
    for number in range(int(_number(info.get("connected_slaves")) or 0)):
        facts = _pairs(info.get(f"slave{number}", ""))
        if not facts:
            continue
        which = {
            **labels,
            "slave_ip": facts.get("ip", ""),
            "slave_port": facts.get("port", ""),
            "slave_state": facts.get("state", ""),
        }
        offset = _number(facts.get("offset")) or 0
        out.gauge("redis_connected_slave_offset_bytes", offset, which, "What it has acknowledged")
        lag = _number(facts.get("lag"))
        if lag is not None:
            text = "Since the replica was last heard of"
            out.gauge("redis_connected_slave_lag_seconds", lag, which, text)


def _events(out: Families, facts: Facts, labels: dict[str, str]) -> None:
    for event, at, ms in facts.latencies[:_AT_MOST]:
        which = {**labels, "event_name": event}
        out.gauge("redis_latency_spike_last", at, which, "When it was last slow")
        text = "How long it took when it was last slow"
        out.gauge("redis_latency_spike_duration_seconds", ms / 1000, which, text)
    if facts.slow_length is not None:
        out.gauge("redis_slowlog_length", facts.slow_length, labels, "Entries of the slow log")
        last, took = facts.slow_last or (0, 0)
        out.gauge("redis_slowlog_last_id", last, labels, "Id of the latest slow command")
        text = "How long the latest slow command took"
        out.gauge("redis_last_slow_execution_duration_seconds", took * _US, labels, text)


def _sentinel(
    out: Families, info: Mapping[str, str], service: Service, labels: dict[str, str]
) -> None:
    for name, value in info.items():
        if re.fullmatch(r"master\d+", name) and "sentinels=" in value:
            facts = _pairs(value)
            status = facts.get("status", "")
            where = {
                "master_name": facts.get("name", ""),
                "master_address": facts.get("address", ""),
            }
            out.gauge(
                "redis_sentinel_master_status",
                float(status == "ok"),
                {**labels, **where, "master_status": status},
                "Whether the sentinel finds the primary well",
            )
            for known in ("slaves", "sentinels"):
                out.gauge(
                    f"redis_sentinel_master_{known}",
                    _number(facts.get(known)) or 0,
                    labels | where,
                    f"How many {known} it knows",
                )
    master = service.master
    name = master.get("name", "")
    where = {"master_name": name, "master_address": f"{master.get('ip')}:{master.get('port')}"}
    out.gauge(
        "redis_sentinel_master_ckquorum_status",
        float(service.has_quorum),
        {**labels, "master_name": name, "message": service.quorum[:200]},
        "Whether enough sentinels are there for a failover",
    )
    for setting, metric in SENTINEL_SETTINGS.items():
        number = _number(master.get(setting))
        if number is not None:
            out.gauge(f"redis_{metric}", number, labels | where, f"SENTINEL MASTER: {setting}")
    for metric, count in (
        ("ok_slaves", sum(map(_well, service.replicas))),
        ("ok_sentinels", 1 + sum(map(_well, service.sentinels))),
    ):
        text = f"{metric.partition('_')[2]} that are not down"
        out.gauge(f"redis_sentinel_master_{metric}", count, labels | where, text)


def _well(of: Mapping[str, str]) -> bool:
    return "_down" not in of.get("flags", "")


def _pairs(text: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in text.split(",") if "=" in part)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    if text in _WORDS:
        return _WORDS[text]
    try:
        return float(text)
    except ValueError:
        return None
