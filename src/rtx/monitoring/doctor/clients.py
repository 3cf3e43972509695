"""Checks of connections: whether there is room for more, and whether dead ones are noticed."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.server import Server, check

_FULL = 0.8
_SHORT = 300  # seconds


@check(
    "warning",
    title="connections were refused",
    why="a program that cannot connect gets no prices and places no orders",
    fix="CONFIG SET maxclients to more (and the system's open files), or lower pool.size",
    needs=("INFO",),
)
def connections_refused(server: Server) -> Iterator[Seen]:
    if refused := server.number("rejected_connections"):
        yield Seen(f"rejected_connections {refused:,}, maxclients {_most(server):,}")


@check(
    "warning",
    title="connections are nearly used up",
    why="at maxclients every further program is refused, the sentinels and the doctor included",
    fix="CONFIG SET maxclients to more (and the system's open files), or lower pool.size; CLIENT "
    "LIST shows who has so many",
    needs=("INFO",),
)
def connections_nearly_full(server: Server) -> Iterator[Seen]:
    connected, most = server.number("connected_clients"), _most(server)
    if most and connected >= most * _FULL:
        yield Seen(f"connected_clients {connected:,} of maxclients {most:,}")


@check(
    "warning",
    title="dead clients are never noticed",
    why="a client whose machine vanished keeps its connection and its output buffer for ever, "
    "until maxclients or memory is used up",
    fix="CONFIG SET tcp-keepalive 300, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def keepalive_off(server: Server) -> Iterator[Seen]:
    if server.config.get("tcp-keepalive") == "0":
        yield Seen("tcp-keepalive 0")


@check(
    "warning",
    title="idle clients are cut off",
    why="connections that are kept ready for a burst are gone when it comes, and have to be opened "
    "in the moment that is busiest",
    fix="CONFIG SET timeout 0, then CONFIG REWRITE; tcp-keepalive finds dead clients",
    needs=("CONFIG GET",),
)
def idle_clients_cut_off(server: Server) -> Iterator[Seen]:
    if 0 < server.size("timeout") < _SHORT:
        yield Seen(f"timeout {server.size('timeout')} (seconds)")


def _most(server: Server) -> int:
    return server.number("maxclients") or server.size("maxclients")
