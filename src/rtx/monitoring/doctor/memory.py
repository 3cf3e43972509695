"""Checks of memory: what is evicted, what grows without end, who is cut off."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.server import Server, check

_MB = 2**20
_FULL = 0.8
_SMALL_OUTPUT = 8 * _MB
_SMALL_REPLICA_OUTPUT = 32 * _MB
_BURST = 2.0  # seconds of output that a subscriber may be behind, as after a stall of its process
_WASTE = 1.5
_WORTH_IT = 100 * _MB  # of a small server every ratio is large, and means nothing
_MACHINE = 0.9
_PUBSUB_FIX = 'CONFIG SET client-output-buffer-limit "pubsub 64mb 32mb 60", then CONFIG REWRITE'


@check(
    "critical",
    "warning",
    title="rate limits and execution logs can be evicted",
    why="eviction takes keys of every database: an evicted limiter key lets an account send orders "
    "beyond its limit, an evicted log loses executions for whoever was away",
    fix="CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE; where the cache is on the "
    "same server run a second one for the state, and set RTX_PUBSUB_URL and RTX_LIMITS_URL to it",
    needs=("CONFIG GET",),
)
def state_can_be_evicted(server: Server) -> Iterator[Seen]:
    policy = server.config.get("maxmemory-policy", "noeviction")
    if server.has_state and policy != "noeviction":
        limit = server.config.get("maxmemory", "0")
        yield Seen(
            f"maxmemory-policy {policy}, maxmemory {limit}, {server.number('evicted_keys'):,} keys "
            f"evicted so far; roles {', '.join(server.role_names)}",
            "critical" if limit != "0" else "warning",
        )


@check(
    "warning",
    title="there is no memory limit",
    why="it grows until the system kills the server, and all roles on it are gone at once",
    fix="CONFIG SET maxmemory 1gb (less than the machine has), then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def memory_without_bound(server: Server) -> Iterator[Seen]:
    if server.config.get("maxmemory") == "0":
        yield Seen(f"maxmemory 0, {server.info.get('used_memory_human', '?')} used")


@check(
    "critical",
    "warning",
    title="the memory limit is more than the machine has",
    why="the system kills the server before it reaches its limit, so that neither eviction nor "
    "the error for a full server ever comes; a snapshot needs more memory still",
    fix="CONFIG SET maxmemory to at most three quarters of the machine's memory, then CONFIG "
    "REWRITE; or give the machine more",
    needs=("CONFIG GET", "INFO"),
)
def memory_beyond_machine(server: Server) -> Iterator[Seen]:
    limit, machine = server.size("maxmemory"), server.number("total_system_memory")
    if machine and limit > machine * _MACHINE:
        yield Seen(
            f"maxmemory {limit / _MB:,.0f} MB, total_system_memory {machine / _MB:,.0f} MB",
            "critical" if limit > machine else "warning",
        )


@check(
    "warning",
    title="the cache takes no writes when it is full",
    why="prices stop being stored at the limit, so that new subscribers get no snapshot",
    fix="CONFIG SET maxmemory-policy allkeys-lru, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def cache_refuses_when_full(server: Server) -> Iterator[Seen]:
    policy = server.config.get("maxmemory-policy", "noeviction")
    limit = server.config.get("maxmemory", "0")
    if not server.has_state and limit != "0" and policy == "noeviction":
        yield Seen(f"maxmemory {limit}, maxmemory-policy noeviction")


@check(
    "warning",
    title="memory is nearly full",
    why="at 100 % orders can no longer be counted against their limits, and executions can no "
    "longer be logged",
    fix="CONFIG SET maxmemory to more, or lower channels.log_size and channels.log_ttl",
    needs=("INFO",),
)
def memory_nearly_full(server: Server) -> Iterator[Seen]:
    limit, used = server.number("maxmemory"), server.number("used_memory")
    if limit and server.has_state and used >= limit * _FULL:
        yield Seen(f"{used / _MB:,.0f} MB of {limit / _MB:,.0f} MB used ({used / limit:.0%})")


@check(
    "warning",
    title="memory is fragmented",
    why="the server holds much more memory than its data: the machine can run out of it long "
    "before maxmemory is reached",
    fix="CONFIG SET activedefrag yes (costs some latency while it works), or restart the server "
    "after `rtx server failover`",
    needs=("INFO",),
)
def memory_fragmented(server: Server) -> Iterator[Seen]:
    ratio, wasted = server.rate("mem_fragmentation_ratio"), server.number("mem_fragmentation_bytes")
    if ratio > _WASTE and wasted > _WORTH_IT:
        yield Seen(f"mem_fragmentation_ratio {ratio:g}, {wasted / _MB:,.0f} MB more than its data")


@check(
    "warning",
    title="values are freed before the command that meets them goes on",
    why="freeing a large value, or many expired prices, holds up every command behind it",
    fix="CONFIG SET lazyfree-lazy-expire yes, CONFIG SET lazyfree-lazy-eviction yes, then CONFIG "
    "REWRITE",
    needs=("CONFIG GET",),
)
def freed_in_the_way(server: Server) -> Iterator[Seen]:
    names = ("lazyfree-lazy-expire", "lazyfree-lazy-eviction")
    off = [f"{name} no" for name in names if server.config.get(name) == "no"]
    if off and server.has_cache:
        yield Seen(", ".join(off))


@check(
    "warning",
    title="a slow subscriber can take all memory",
    why="what it does not read is kept for it without bound, until the server runs out of memory "
    "and every role fails",
    fix=_PUBSUB_FIX,
    needs=("CONFIG GET",),
)
def subscriber_unbounded(server: Server) -> Iterator[Seen]:
    limit = server.output_limit("pubsub")
    if limit and not limit[0] and not limit[1]:
        yield Seen("client-output-buffer-limit pubsub 0 0 0")


@check(
    "warning",
    title="subscribers are cut off early",
    why="a burst of ticks larger than this ends the connection: a gap in market data, in the "
    "moment when it matters most",
    fix=_PUBSUB_FIX,
    needs=("CONFIG GET",),
)
def subscriber_cut_off_early(server: Server) -> Iterator[Seen]:
    limit = server.output_limit("pubsub")
    if not limit or not limit[0]:
        return
    hard, soft, seconds = limit
    rate = server.rate("instantaneous_output_kbps") * 1024
    each = rate / max(server.number("pubsub_clients") or server.number("connected_clients"), 1)
    if hard < max(_SMALL_OUTPUT, each * _BURST):
        yield Seen(
            f"client-output-buffer-limit pubsub {hard} {soft} {seconds}, at "
            f"{each / 1024:,.0f} kB/s for each of them now"
        )


@check(
    "warning",
    title="clients were cut off because they did not read fast enough",
    why="each was a subscriber that lost messages, or a replica that copied everything anew",
    fix='find the slow one (CLIENT LIST, field omem), give it less to read or policy "latest"; '
    + _PUBSUB_FIX,
    needs=("INFO",),
)
def clients_cut_off(server: Server) -> Iterator[Seen]:
    cut = server.number("client_output_buffer_limit_disconnections")
    if cut:
        longest = server.number("client_recent_max_output_buffer")
        yield Seen(
            f"client_output_buffer_limit_disconnections {cut:,} since the server started, longest "
            f"buffer lately {longest:,} bytes"
        )


@check(
    "warning",
    title="a replica that falls behind is cut off early",
    why="it then copies everything anew, again and again under load, and is not there for a "
    "failover meanwhile",
    fix='CONFIG SET client-output-buffer-limit "replica 256mb 64mb 60", then CONFIG REWRITE',
    needs=("CONFIG GET",),
)
def replica_cut_off_early(server: Server) -> Iterator[Seen]:
    limit = server.output_limit("replica")
    if limit and 0 < limit[0] < _SMALL_REPLICA_OUTPUT and server.has_state:
        yield Seen("client-output-buffer-limit replica " + " ".join(map(str, limit)))
