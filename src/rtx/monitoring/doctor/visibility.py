"""Checks of visibility: whether slowness leaves a trace, and whether anyone was turned away."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.findings import Problem, check
from rtx.monitoring.doctor.server import Server


@check
def slowlog_off(server: Server) -> Iterator[Problem]:
    slower_than = server.config.get("slowlog-log-slower-than", "10000")
    length = server.config.get("slowlog-max-len", "128")
    if not slower_than.startswith("-") and length != "0":
        return
    yield Problem(
        severity="warning",
        title="slow commands leave no trace",
        evidence=f"slowlog-log-slower-than {slower_than}, slowlog-max-len {length}",
        why="one slow command holds up every price and order behind it; without the log nobody can "
        "say which it was",
        fix="CONFIG SET slowlog-log-slower-than 1000, CONFIG SET slowlog-max-len 1024, then "
        "CONFIG REWRITE",
    )


@check
def latency_monitor_off(server: Server) -> Iterator[Problem]:
    if server.config.get("latency-monitor-threshold") != "0":
        return
    yield Problem(
        severity="info",
        title="the latency monitor is off",
        evidence="latency-monitor-threshold 0",
        why="stalls by disk, fork or expiry do not show in the slow log; a price is fresh for 1 s "
        "only, so that a stall of that length empties the prices",
        fix="CONFIG SET latency-monitor-threshold 10, then CONFIG REWRITE",
    )


@check
def connections_refused(server: Server) -> Iterator[Problem]:
    refused = server.number("rejected_connections")
    if refused:
        yield Problem(
            severity="warning",
            title="connections were refused",
            evidence=f"rejected_connections {refused:,}, maxclients "
            f"{server.config.get('maxclients', '?')}",
            why="a program that cannot connect gets no prices and places no orders",
            fix="CONFIG SET maxclients to more (and the system's open files), or lower pool.size",
        )
