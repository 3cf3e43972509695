"""Checks of the machine, where the server runs on this one."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.server import Server, check

_SWAPPED = 10 * 2**20  # what lies there unused since the start does no harm
_RESERVED = 32  # files that the server keeps for itself

_NEEDS = ("the machine",)


@check(
    "warning",
    title="huge pages are on for the server",
    why="after a fork each small write copies 2 MB: latency of milliseconds, and memory that "
    "grows during every snapshot",
    fix="echo never > /sys/kernel/mm/transparent_hugepage/enabled, at boot as well; or disable-thp "
    "yes in the conf file and a restart",
    needs=_NEEDS,
)
def huge_pages(server: Server) -> Iterator[Seen]:
    if server.host.huge_pages == "always":
        yield Seen("transparent_hugepage [always], and not switched off for the process")


@check(
    "warning",
    title="a fork may fail for want of memory",
    why="snapshots, rewrites and new replicas fork; the kernel refuses that when it counts the "
    "memory twice, and then writes are refused too (MISCONF)",
    fix="sysctl vm.overcommit_memory=1, and vm.overcommit_memory = 1 in /etc/sysctl.conf",
    needs=(*_NEEDS, "CONFIG GET"),
)
def fork_may_fail(server: Server) -> Iterator[Seen]:
    forks = server.config.get("appendonly") == "yes" or server.config.get("save")
    if server.host.overcommit in (0, 2) and forks:
        yield Seen(f"vm.overcommit_memory {server.host.overcommit}")


@check(
    "info",
    title="the kernel shortens the queue of new connections",
    why="when all programs come back at once after a failover, some wait for seconds",
    fix="sysctl net.core.somaxconn={backlog}, and in /etc/sysctl.conf; then restart the server",
    needs=(*_NEEDS, "CONFIG GET"),
)
def backlog_shortened(server: Server) -> Iterator[Seen]:
    wanted, given = server.size("tcp-backlog"), server.host.backlog
    if given is not None and given < wanted:
        yield Seen(
            f"tcp-backlog {wanted}, net.core.somaxconn {given}", facts={"backlog": str(wanted)}
        )


@check(
    "warning",
    title="the process may not open as many files as it has clients",
    why="connections are refused long before maxclients is reached",
    fix="LimitNOFILE={files} in the systemd unit (or ulimit -n), then restart the server",
    needs=(*_NEEDS, "CONFIG GET"),
)
def too_few_files(server: Server) -> Iterator[Seen]:
    most, files = server.size("maxclients"), server.host.open_files
    if files is not None and files < most + _RESERVED:
        yield Seen(
            f"maxclients {most:,}, open files {files:,}", facts={"files": str(most + _RESERVED)}
        )


@check(
    "critical",
    title="part of the server is swapped out",
    why="whoever touches what is on disk waits for it, and everyone else with them",
    fix="lower maxmemory or give the machine more memory; sysctl vm.swappiness=1",
    needs=_NEEDS,
)
def swapped_out(server: Server) -> Iterator[Seen]:
    if server.host.swapped > _SWAPPED:
        yield Seen(f"{server.host.swapped / 2**20:,.0f} MB of the process are in swap")
