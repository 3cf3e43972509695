"""Checks of memory: what is evicted, what grows without end, who is cut off."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.findings import Problem, check
from rtx.monitoring.doctor.server import Server

_MB = 2**20
_FULL = 0.8
_SMALL_OUTPUT = 8 * _MB


@check
def state_can_be_evicted(server: Server) -> Iterator[Problem]:
    """Limits and logs must not be thrown away to make room."""
    policy = server.config.get("maxmemory-policy", "noeviction")
    if not server.has_state or policy == "noeviction":
        return
    bounded = server.config.get("maxmemory", "0") != "0"
    shared = server.has_cache
    yield Problem(
        severity="critical" if bounded else "warning",
        title="rate limits and execution logs can be evicted"
        + (" along with the cache" if shared else ""),
        evidence=f"maxmemory-policy {policy}, maxmemory {server.config.get('maxmemory', '0')}, "
        f"{server.number('evicted_keys'):,} keys evicted so far; roles {_roles(server)}",
        why="eviction takes keys of every database: an evicted limiter key lets an account send "
        "orders beyond its limit, an evicted log loses executions for whoever was away",
        fix="run a second server for the state and set RTX_PUBSUB_URL and RTX_LIMITS_URL to it; "
        "there: CONFIG SET maxmemory-policy noeviction"
        if shared
        else "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE",
    )


@check
def cache_without_bound(server: Server) -> Iterator[Problem]:
    """A cache needs a size and a policy."""
    if not server.has_cache or not server.config:
        return
    policy = server.config.get("maxmemory-policy", "noeviction")
    if server.config.get("maxmemory", "0") == "0":
        yield Problem(
            severity="warning",
            title="the cache has no memory limit",
            evidence=f"maxmemory 0, {server.info.get('used_memory_human', '?')} used",
            why="it grows until the system kills the server, which takes prices, sessions and all "
            "other roles on it away at once",
            fix="CONFIG SET maxmemory 1gb (less than the machine has), then CONFIG REWRITE",
        )
    elif policy == "noeviction" and not server.has_state:
        yield Problem(
            severity="warning",
            title="the cache takes no writes when it is full",
            evidence=f"maxmemory {server.config['maxmemory']}, maxmemory-policy noeviction",
            why="prices stop being stored at the limit, so that new subscribers get no snapshot",
            fix="CONFIG SET maxmemory-policy allkeys-lru, then CONFIG REWRITE",
        )


@check
def memory_nearly_full(server: Server) -> Iterator[Problem]:
    limit, used = server.number("maxmemory"), server.number("used_memory")
    if not limit or not server.has_state or used < limit * _FULL:
        return
    yield Problem(
        severity="warning",
        title="memory is nearly full",
        evidence=f"{used / _MB:,.0f} MB of {limit / _MB:,.0f} MB used ({used / limit:.0%})",
        why="at 100 % orders can no longer be counted against their limits, and executions can no "
        "longer be logged",
        fix="CONFIG SET maxmemory to more, or lower channels.log_size and channels.log_ttl",
    )


@check
def subscriber_output_buffer(server: Server) -> Iterator[Problem]:
    """The limit on what may wait for a slow subscriber: neither none nor too little."""
    words = server.config.get("client-output-buffer-limit", "").split()
    if "pubsub" not in words:
        return
    place = words.index("pubsub")
    hard, soft, seconds = (int(word) for word in words[place + 1 : place + 4])
    fix = 'CONFIG SET client-output-buffer-limit "pubsub 64mb 32mb 60", then CONFIG REWRITE'
    evidence = f"client-output-buffer-limit pubsub {hard} {soft} {seconds}"
    if hard == 0:
        yield Problem(
            severity="warning",
            title="a slow subscriber can take all memory",
            evidence=evidence,
            why="what it does not read is kept for it without bound, until the server runs out of "
            "memory and every role fails",
            fix=fix,
        )
    elif hard < _SMALL_OUTPUT:
        yield Problem(
            severity="warning",
            title="subscribers are cut off early",
            evidence=evidence,
            why="a burst of ticks larger than this ends the connection: a gap in market data, in "
            "the moment when it matters most",
            fix=fix,
        )
    cut = server.number("client_output_buffer_limit_disconnections")
    if cut:
        yield Problem(
            severity="warning",
            title="clients were cut off because they did not read fast enough",
            evidence=f"{cut:,} since the server started; {evidence}",
            why="each was a subscriber that lost messages",
            fix="find the slow one (CLIENT LIST, field omem), give it less to read or policy "
            '"latest"; ' + fix,
        )


def _roles(server: Server) -> str:
    return ", ".join(server.role_names)
