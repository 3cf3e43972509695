"""Checks of durability: what a crash of the server would lose."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.findings import Problem, check
from rtx.monitoring.doctor.server import Server


@check
def state_not_persisted(server: Server) -> Iterator[Problem]:
    if not server.has_state or not server.config:
        return
    if server.config.get("appendonly") == "yes":
        if server.config.get("appendfsync") == "no":
            yield Problem(
                severity="warning",
                title="the append-only file is synced when the system likes",
                evidence="appendonly yes, appendfsync no",
                why="a power cut loses up to half a minute of executions and limits",
                fix="CONFIG SET appendfsync everysec, then CONFIG REWRITE",
            )
        return
    save = server.config.get("save", "")
    yield Problem(
        severity="warning" if save else "critical",
        title="state is snapshotted only now and then" if save else "state is not persisted",
        evidence=f'appendonly no, save "{save}"',
        why="a restart forgets "
        + ("all since the last snapshot: " if save else "everything: ")
        + "execution logs, so that clients cannot recover what they missed, and limits, so that "
        "orders pass which should not",
        fix="CONFIG SET appendonly yes, CONFIG SET appendfsync everysec, then CONFIG REWRITE",
    )


@check
def persistence_fails(server: Server) -> Iterator[Problem]:
    failed = [
        f"{name} {server.info[name]}"
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if server.info.get(name, "ok") != "ok"
    ]
    if failed:
        yield Problem(
            severity="critical",
            title="saving to disk fails",
            evidence=", ".join(failed),
            why="the server refuses writes when it cannot save (MISCONF), or loses them at the "
            "next restart",
            fix="free disk space and check the rights on the directory of CONFIG GET dir",
        )


@check
def is_a_replica(server: Server) -> Iterator[Problem]:
    if server.info.get("role") == "slave":
        yield Problem(
            severity="critical",
            title="this is a replica, which takes no writes",
            evidence=f"role slave of {server.info.get('master_host', '?')}:"
            f"{server.info.get('master_port', '?')}",
            why="every price, execution and limit hit fails with READONLY",
            fix="set the URL to the primary",
        )


@check
def no_replica(server: Server) -> Iterator[Problem]:
    if not server.has_state or server.info.get("role") != "master":
        return
    replicas = server.number("connected_slaves")
    if not replicas:
        yield Problem(
            severity="warning",
            title="state has no replica",
            evidence="connected_slaves 0",
            why="when this machine goes, orders stop until it is back, and what was not on its "
            "disk is lost",
            fix="start two replicas (replicaof HOST PORT) and sentinels that watch them",
        )
        return
    if server.config.get("min-replicas-to-write", "0") == "0" and server.config:
        yield Problem(
            severity="warning",
            title="a primary cut off from its replicas goes on taking writes",
            evidence=f"connected_slaves {replicas}, min-replicas-to-write 0",
            why="after a network split all it took since is thrown away: nine in ten acknowledged "
            "writes of a 15 s split, measured",
            fix="with two replicas: CONFIG SET min-replicas-to-write 1, CONFIG SET "
            "min-replicas-max-lag 2, then CONFIG REWRITE",
        )
