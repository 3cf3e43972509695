"""Checks of durability: what a crash of the server would lose."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.server import Server, check

_LATE_SYNCS = 10
_LATE_AN_HOUR = 6.0
_FORGOTTEN = (
    "execution logs, so that clients cannot recover what they missed, and limits, so that orders "
    "pass which should not"
)
_AOF = "CONFIG SET appendonly yes, CONFIG SET appendfsync everysec, then CONFIG REWRITE"


@check(
    "critical",
    title="state is not persisted",
    why="a restart forgets everything: " + _FORGOTTEN,
    fix=_AOF,
    needs=("CONFIG GET",),
)
def state_not_persisted(server: Server) -> Iterator[Seen]:
    if server.has_state and server.config.get("appendonly") == "no" and not _saves(server):
        yield Seen('appendonly no, save ""')


@check(
    "warning",
    title="state is snapshotted only now and then",
    why="a crash forgets all since the last snapshot: " + _FORGOTTEN,
    fix=_AOF,
    needs=("CONFIG GET",),
)
def state_only_in_snapshots(server: Server) -> Iterator[Seen]:
    if server.has_state and server.config.get("appendonly") == "no" and _saves(server):
        yield Seen(f'appendonly no, save "{_saves(server)}"')


@check(
    "critical",
    title="what scripts wrote is lost at a restart",
    why="this version runs the transactions of its append-only file at start, which is what "
    "scripts did, with the rights of the user `default`; what that may not do is refused and gone: "
    "all since the last rewrite of the file, such as executions and limits (measured on Redis 7.0 "
    "to 8.2 and Valkey 8.1; Valkey 9.1 reads all)",
    fix="ACL SETUSER default off resetpass ~* &* +@all (nobody can log in as it), then ACL SAVE or "
    "CONFIG REWRITE; do it before the next restart",
    needs=("INFO", "ACL LIST", "CONFIG GET"),
)
def scripts_lost_at_restart(server: Server) -> Iterator[Seen]:
    rules = set(server.users.get("default", ()))
    may_all = rules & {"~*", "allkeys"} and rules & {"+@all", "allcommands"}
    if server.has_state and _appends(server) and _loads_as_default(server) and not may_all:
        yield Seen(
            f"{server.version}, appendonly yes, user default "
            f"{' '.join(server.users.get('default', ()))}"
        )


@check(
    "warning",
    title="the append-only file is synced when the system likes",
    why="a power cut loses up to half a minute of executions and limits",
    fix="CONFIG SET appendfsync everysec, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def sync_left_to_the_system(server: Server) -> Iterator[Seen]:
    if _appends(server) and server.config.get("appendfsync") == "no":
        yield Seen("appendonly yes, appendfsync no")


@check(
    "info",
    title="every write waits for the disk",
    why="each order and each tick costs a disk write; `everysec` loses about one second of them in "
    "a power cut, which replicas still have",
    fix="CONFIG SET appendfsync everysec, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def sync_at_every_write(server: Server) -> Iterator[Seen]:
    if _appends(server) and server.config.get("appendfsync") == "always":
        yield Seen("appendonly yes, appendfsync always")


@check(
    "warning",
    title="nothing is synced while the append-only file is rewritten",
    why="a power cut during a rewrite, which may take minutes, loses all of that time",
    fix="CONFIG SET no-appendfsync-on-rewrite no, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def no_sync_while_rewriting(server: Server) -> Iterator[Seen]:
    if _appends(server) and server.config.get("no-appendfsync-on-rewrite") == "yes":
        yield Seen("no-appendfsync-on-rewrite yes")


@check(
    "critical",
    title="saving to disk fails",
    why="the server refuses writes when it cannot save (MISCONF), or loses them at the next "
    "restart",
    fix="free disk space and check the rights on the directory of CONFIG GET dir; the server's log "
    "has the reason; then BGSAVE or BGREWRITEAOF",
    needs=("INFO",),
)
def saving_fails(server: Server) -> Iterator[Seen]:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    failed = [
        f"{name} {server.info[name]}" for name in names if server.info.get(name, "ok") != "ok"
    ]
    if failed:
        yield Seen(", ".join(failed))


@check(
    "warning",
    title="writes go on when snapshots fail",
    why="nobody notices that nothing reaches the disk, until a restart has forgotten it",
    fix="CONFIG SET stop-writes-on-bgsave-error yes, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def failed_snapshots_ignored(server: Server) -> Iterator[Seen]:
    ignored = server.config.get("stop-writes-on-bgsave-error") == "no"
    if server.has_state and _saves(server) and ignored:
        yield Seen(f'stop-writes-on-bgsave-error no, save "{_saves(server)}"')


@check(
    "warning",
    title="the disk is too slow for the append-only file",
    why="when a sync takes longer than a second all writes wait for it: orders and ticks stand "
    "still",
    fix="give the server a disk of its own, or a faster one; see LATENCY HISTORY aof-fsync-always "
    "and aof-write-pending-fsync",
    needs=("INFO",),
)
def disk_too_slow(server: Server) -> Iterator[Seen]:
    late, hours = server.number("aof_delayed_fsync"), server.number("uptime_in_seconds") / 3600
    if late >= _LATE_SYNCS and late > hours * _LATE_AN_HOUR:
        yield Seen(f"aof_delayed_fsync {late:,} in {hours:,.1f} h")


@check(
    "info",
    title="the cache is written to disk",
    why="all of it can be had again, and each snapshot's fork costs latency and memory",
    fix='CONFIG SET save "", CONFIG SET appendonly no, then CONFIG REWRITE',
    needs=("CONFIG GET",),
)
def cache_persisted(server: Server) -> Iterator[Seen]:
    if not server.has_state and (_appends(server) or _saves(server)):
        yield Seen(f'appendonly {server.config.get("appendonly")}, save "{_saves(server)}"')


@check(
    "info",
    title="the server has no conf file",
    why="what CONFIG SET changes is lost at the next restart, CONFIG REWRITE fails, and a replica "
    "that was promoted comes back as a replica",
    fix="start it with one, such as those in deploy/",
    needs=("INFO",),
)
def no_conf_file(server: Server) -> Iterator[Seen]:
    if server.info.get("config_file") == "":
        yield Seen("config_file is empty")


def _appends(server: Server) -> bool:
    return server.config.get("appendonly") == "yes"


def _loads_as_default(server: Server) -> bool:
    """Whether it may: of versions that nobody has measured the worse is assumed."""
    if not server.is_valkey:
        return True
    numbers = [int(part) for part in server.info["valkey_version"].split(".")[:2] if part.isdigit()]
    return numbers < [9, 1]


def _saves(server: Server) -> str:
    return server.config.get("save", "")
