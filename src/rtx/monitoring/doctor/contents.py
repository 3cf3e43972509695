"""Checks of what is stored, on a sample of the keys; `Contents` knows the names that are ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from rtx import urls
from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.sample import Key, counts_of
from rtx.monitoring.doctor.server import Server, check
from rtx.topology import DATABASES

_BIG = 8 * 2**20  # bytes; a log of 10,000 executions takes about 2 MB
_ENTITIES = (
    "account|price|positions|symbol|session|sessions|ratelimit|concurrency|executions|alerts"
    "|alert_rules|rtx"
)
_NAME = re.compile(rf"\{{?(?:(?P<namespace>[A-Za-z0-9_.:-]*?):)?(?P<entity>{_ENTITIES})(?:[:}}]|$)")
_PERISHABLE = {"account", "price", "positions", "symbol", "session", "ratelimit"}
_NEEDS = ("keys",)


@check(
    "warning",
    title="keys that should expire never do",
    why="a price, balance or session that never expires is believed for ever; a limit's key that "
    "stays counts old hits",
    fix="find the program that writes them without a TTL (a plain SET drops it); then DEL {key}",
    needs=_NEEDS,
)
def keys_without_ttl(server: Server) -> Iterator[Seen]:
    yield from _told(server, lambda key: not key.expires and _perishable(key.name))


@check(
    "info",
    title="other programs keep keys here too",
    why="they share memory, eviction and time with prices and orders; their FLUSHDB or KEYS hits "
    "the engine",
    fix="give them a server of their own; DEL {key} if nobody needs it",
    needs=_NEEDS,
)
def foreign_keys(server: Server) -> Iterator[Seen]:
    yield from _told(server, lambda key: _NAME.match(key.name) is None)


@check(
    "info",
    title="several namespaces share the server",
    why="a test system's load and its full memory are those of the real one; a namespace parts "
    "names, and nothing else",
    fix="give each deployment a server of its own, or see that each has a namespace that is meant "
    "to be here",
    needs=_NEEDS,
)
def several_namespaces(server: Server) -> Iterator[Seen]:
    names = {
        found["namespace"] or "" for key in server.sample.keys if (found := _NAME.match(key.name))
    }
    if len(names) > 1:
        shown = ", ".join(name or "(none)" for name in sorted(names)[:5])
        yield Seen(f"{len(names)} namespaces: {shown}; {server.sample.told}")


@check(
    "warning",
    title="there are very large values",
    why="reading, copying or freeing one holds up everything else for its whole length",
    fix="MEMORY USAGE {key} has its size; lower channels.log_size, or find the program that writes "
    "it; UNLINK {key} frees it beside the commands",
    needs=_NEEDS,
)
def big_keys(server: Server) -> Iterator[Seen]:
    yield from _told(
        server, lambda key: key.size > _BIG, lambda key: f" ({key.size / 2**20:,.0f} MB)"
    )


@check(
    "info",
    title="databases are in use that RTX does not use",
    why="another program is on the server, and shares memory, eviction and time with it; a cluster "
    "cannot take such a program over",
    fix="give it a server of its own; redis-cli -n {db} SCAN 0 shows its keys",
    needs=("INFO",),
)
def other_databases(server: Server) -> Iterator[Seen]:
    used = {0} if server.in_cluster else set(DATABASES.values())
    if isinstance(server.location, urls.Standalone | urls.Sentinel) and server.location.db:
        used.add(server.location.db)
    others = [(db, count) for db, count in counts_of(server.info) if db not in used]
    if others:
        told = ", ".join(f"database {db}: {count:,} keys" for db, count in others)
        yield Seen(told, facts={"db": str(others[0][0])})


def _perishable(name: str) -> bool:
    found = _NAME.match(name)
    if found is None or name.startswith("{") or name.endswith("ratelimit:config"):
        return False
    return found["entity"] in _PERISHABLE


def _told(
    server: Server, which: Callable[[Key], bool], more: Callable[[Key], str] = lambda _: ""
) -> Iterable[Seen]:
    found = [key for key in server.sample.keys if which(key)]
    if found:
        shown = ", ".join(f"{key.name[:60]}{more(key)} in database {key.db}" for key in found[:3])
        yield Seen(
            f"{len(found):,}, such as {shown}; {server.sample.told}", facts={"key": found[0].name}
        )
