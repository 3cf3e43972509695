"""Checks of versions: known holes that an update closes.

Sources, as read in November 2026: the release notes of Redis and Valkey, of which the security
entries are also in docker-library/official-images (pull requests 19401, 20011, 20204, 20902, 21922)
and valkey-io/valkey (2314, 3632 to 3635); for Valkey 9.0.3, 9.0.5 and 9.1.1 the notes themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.findings import SEVERITIES, Severity
from rtx.monitoring.doctor.server import Server, check

Version: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Hole:
    """A vulnerability: the first fixed release of each line, and whether older lines have it."""

    name: str
    what: str
    severity: Severity
    redis: tuple[Version, ...] = ()
    valkey: tuple[Version, ...] = ()
    older_too: bool = False

    def fix_for(self, version: Version, *, is_valkey: bool) -> Version | None:
        """The release to update to; None when this version does not have it."""
        fixes = self.valkey if is_valkey else self.redis
        for fix in fixes:
            if version[:2] == fix[:2]:
                return fix if version < fix else None
        later = [fix for fix in fixes if fix > version]
        return min(later) if later and self.older_too else None


HOLES = (
    Hole(
        "CVE-2025-49844",
        "who may run a Lua script can run code on the machine (CVSS 10)",
        "critical",
        redis=((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
        valkey=((7, 2, 11), (8, 0, 6), (8, 1, 4)),
        older_too=True,
    ),
    Hole(
        "the security release of July 2026",
        "several holes of all lines, through which code may be run on the machine",
        "critical",
        redis=(
            *((6, 2, 23), (7, 2, 15), (7, 4, 10), (8, 2, 8)),
            *((8, 4, 5), (8, 6, 5), (8, 8, 1)),
        ),
        older_too=True,
    ),
    Hole(
        "CVE-2026-23479",
        "a logged-in client may run code on the machine, where blocked clients are evicted",
        "warning",
        redis=((7, 4, 9), (8, 2, 6), (8, 4, 3), (8, 6, 3)),
        valkey=((7, 2, 13), (8, 0, 9), (8, 1, 7), (9, 0, 4)),
    ),
    Hole(
        "CVE-2024-46981",
        "who may run a Lua script may run code on the machine",
        "warning",
        redis=((6, 2, 17), (7, 2, 7), (7, 4, 2)),
        valkey=((7, 2, 8), (8, 0, 2)),
        older_too=True,
    ),
    Hole(
        "CVE-2025-21605",
        "anyone, without a login, can let the server's output grow until its memory is used up",
        "warning",
        redis=((6, 2, 18), (7, 2, 8), (7, 4, 3)),
        valkey=((7, 2, 9), (8, 0, 3), (8, 1, 1)),
        older_too=True,
    ),
    Hole(
        "CVE-2025-32023",
        "who may use HyperLogLogs may run code on the machine",
        "warning",
        redis=((6, 2, 19), (7, 2, 10), (7, 4, 5), (8, 0, 3)),
        valkey=((7, 2, 10), (8, 0, 4), (8, 1, 3)),
        older_too=True,
    ),
    Hole(
        "CVE-2025-67733",
        "a Lua script's error can put false replies into a client's connection",
        "warning",
        valkey=((7, 2, 12), (8, 0, 7), (8, 1, 6), (9, 0, 3)),
    ),
    Hole(
        "CVE-2026-21863",
        "who reaches the cluster's bus port can end the server",
        "warning",
        valkey=((7, 2, 12), (8, 0, 7), (8, 1, 6), (9, 0, 3)),
    ),
    Hole(
        "CVE-2026-27623",
        "a malformed request from anyone, without a login, can end the server",
        "warning",
        valkey=((9, 0, 3),),
    ),
    Hole(
        "CVE-2026-56684",
        "over TLS a logged-in client can run code on the machine with CLIENT KILL",
        "warning",
        valkey=((8, 0, 10), (8, 1, 9), (9, 0, 5), (9, 1, 1)),
    ),
    Hole(
        "CVE-2026-63639",
        "who may restore a stream, or feeds a snapshot to the server, may run code on the machine",
        "warning",
        valkey=((8, 0, 10), (8, 1, 9), (9, 0, 5), (9, 1, 1)),
    ),
)


@check(
    "critical",
    "warning",
    title="{version} has known holes",
    why="{what}; this layer's limits and logs need scripts, so they cannot be forbidden",
    fix="update to {product} {fixed} or later; a distribution may have repaired it without a new "
    "number: see its package's changelog",
    needs=("INFO",),
)
def known_hole(server: Server) -> Iterator[Seen]:
    version = parsed(server.version)
    if version is None:
        return
    found = [
        (hole, fix)
        for hole in HOLES
        if (fix := hole.fix_for(version, is_valkey=server.is_valkey)) is not None
    ]
    if not found:
        return
    worst = min((hole for hole, _ in found), key=lambda hole: SEVERITIES.index(hole.severity))
    yield Seen(
        ", ".join(f"{hole.name} (fixed in {dotted(fix)})" for hole, fix in found),
        worst.severity,
        {
            "version": server.version,
            "what": worst.what,
            "product": "Valkey" if server.is_valkey else "Redis",
            "fixed": dotted(max(fix for _, fix in found)),
        },
    )


def parsed(text: str) -> Version | None:
    """The version in a text such as `Valkey 9.1.2`."""
    found = re.match(r"\w+ (\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def dotted(version: Version) -> str:
    """Such as 9.1.2."""
    return ".".join(map(str, version))
