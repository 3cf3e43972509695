"""Checks of time: what was slow, whether slowness leaves a trace, and whether clocks agree."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.server import Server, Slow, check

_SLOW_MS = 100.0  # a tenth of a price's life
_LATELY = 3600.0  # seconds
_SKEW = 0.25  # seconds; a quarter of a price's life
_SKEW_TOO_MUCH = 1.0
_WALKERS = ("keys", "flushall", "flushdb", "monitor", "debug")


@check(
    "warning",
    title="slow commands leave no trace",
    why="one slow command holds up every price and order behind it; without the log nobody can say "
    "which it was",
    fix="CONFIG SET slowlog-log-slower-than 10000, CONFIG SET slowlog-max-len 128, then CONFIG "
    "REWRITE",
    needs=("CONFIG GET",),
)
def slowlog_off(server: Server) -> Iterator[Seen]:
    slower_than = server.config.get("slowlog-log-slower-than", "10000")
    length = server.config.get("slowlog-max-len", "128")
    if slower_than.startswith("-") or length == "0":
        yield Seen(f"slowlog-log-slower-than {slower_than}, slowlog-max-len {length}")


@check(
    "warning",
    title="commands were slow lately",
    why="the server does one thing at a time: every price, order and fill behind a slow command "
    "waited as long",
    fix="SLOWLOG GET 128 has the whole commands, their times and their clients; split what walks "
    "many keys, and keep large values out",
    needs=("SLOWLOG GET",),
)
def slow_commands(server: Server) -> Iterator[Seen]:
    if told := _told(server.slow):
        yield Seen(told)


@check(
    "info",
    title="the latency monitor is off",
    why="stalls by disk, fork or expiry do not show in the slow log; a price is fresh for 1 s "
    "only, so that a stall of that length empties the prices",
    fix="CONFIG SET latency-monitor-threshold 100, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def latency_monitor_off(server: Server) -> Iterator[Seen]:
    if server.config.get("latency-monitor-threshold") == "0":
        yield Seen("latency-monitor-threshold 0")


@check(
    "warning",
    title="the server stood still lately",
    why="every price, order and fill waited as long; limits that did not answer in time were "
    "decided without the server",
    fix="LATENCY DOCTOR explains each event: fork and aof are the disk and the memory, "
    "expire-cycle and eviction are too many keys at once, command is a slow one",
    needs=("LATENCY LATEST",),
)
def stood_still(server: Server) -> Iterator[Seen]:
    if told := _told(server.events):
        yield Seen(told)


@check(
    "warning",
    "critical",
    title="the server's clock is off",
    why="prices are fresh for a second by their own time, and sessions and limits end by the "
    "server's: with clocks apart fresh prices look old, or old ones fresh",
    fix="run chrony or systemd-timesyncd on the server's machine and on this one; compare with "
    "`redis-cli TIME`",
    needs=("TIME",),
)
def clock_off(server: Server) -> Iterator[Seen]:
    if abs(server.skew) >= _SKEW:
        way = "ahead of" if server.skew > 0 else "behind"
        yield Seen(
            f"at least {abs(server.skew):.2f} s {way} this machine's",
            "critical" if abs(server.skew) >= _SKEW_TOO_MUCH else "warning",
        )


@check(
    "warning",
    title="somebody runs commands that hold up the server",
    why="KEYS walks every key at once, MONITOR sends every command once more, FLUSHALL throws away "
    "limits and logs",
    fix="find who does (CLIENT LIST, field cmd); take the right away: ACL SETUSER {user} -keys "
    "-monitor -flushall -flushdb -debug, then ACL SAVE; SCAN walks without holding up",
    needs=("INFO commandstats",),
)
def walkers(server: Server) -> Iterator[Seen]:
    found: dict[str, int] = {}
    for name, calls in server.calls.items():
        command = name.partition("|")[0]
        if command in _WALKERS and calls:
            found[command] = found.get(command, 0) + calls
    if found:
        told = ", ".join(f"{name.upper()} {calls:,}" for name, calls in found.items())
        yield Seen(f"{told} times since the server started or its counters were reset")


@check(
    "warning",
    title="a script may run without end",
    why="a script holds up everything else; only after this time can SCRIPT KILL end it, and are "
    "clients told BUSY in place of nothing",
    fix="CONFIG SET busy-reply-threshold 5000 (lua-time-limit before Redis 7), then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def scripts_without_end(server: Server) -> Iterator[Seen]:
    for name in ("busy-reply-threshold", "lua-time-limit"):
        limit = server.size(name, -1)
        if limit == 0 or limit > 10_000:
            yield Seen(f"{name} {limit} (milliseconds; 0 is never)")
            return


@check(
    "warning",
    title="the server keeps very many scripts",
    why="a program puts values into the text of its scripts, so that each is another one: memory "
    "grows until the restart, and every call is compiled anew",
    fix="pass values as KEYS and ARGV; then SCRIPT FLUSH ASYNC frees the memory",
    needs=("INFO",),
)
def too_many_scripts(server: Server) -> Iterator[Seen]:
    count = server.number("number_of_cached_scripts")
    if count > 1_000:
        used = server.number("used_memory_scripts_eval") or server.number("used_memory_lua")
        yield Seen(f"number_of_cached_scripts {count:,}, {used / 2**20:,.0f} MB")


@check(
    "warning",
    title="every write also sends a key event",
    why="RTX listens to none of them, and they cost each write a publish",
    fix='CONFIG SET notify-keyspace-events "", then CONFIG REWRITE, unless another program listens',
    needs=("CONFIG GET",),
)
def key_events(server: Server) -> Iterator[Seen]:
    if events := server.config.get("notify-keyspace-events"):
        yield Seen(f"notify-keyspace-events {events}")


def _told(found: tuple[Slow, ...]) -> str:
    """The longest that happened lately, one for each name."""
    lately: dict[str, Slow] = {}
    for one in found:
        if one.ms >= _SLOW_MS and one.ago <= _LATELY:
            lately.setdefault(one.what, one)
    worst = list(lately.values())[:3]
    return ", ".join(f"{one.what} {one.ms:,.0f} ms, {_ago(one.ago)} ago" for one in worst)


def _ago(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{max(seconds, 0):,.0f} s"
