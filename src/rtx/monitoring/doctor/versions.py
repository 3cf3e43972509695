"""Checks of versions: known holes that an update closes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from rtx.monitoring.doctor.findings import Problem, Severity, check
from rtx.monitoring.doctor.server import Server

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
        "CVE-2024-46981",
        "who may run a Lua script may run code on the machine",
        "warning",
        redis=((6, 2, 17), (7, 2, 7), (7, 4, 2)),
        valkey=((7, 2, 8), (8, 0, 2)),
        older_too=True,
    ),
    Hole(
        "CVE-2025-67733",
        "a Lua script's error can put false replies into a client's connection",
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
)


@check
def known_hole(server: Server) -> Iterator[Problem]:
    found = re.match(r"\w+ (\d+)\.(\d+)\.(\d+)", server.version)
    if found is None:
        return
    version = (int(found[1]), int(found[2]), int(found[3]))
    for hole in HOLES:
        fix = hole.fix_for(version, is_valkey=server.is_valkey)
        if fix is None:
            continue
        product = "Valkey" if server.is_valkey else "Redis"
        yield Problem(
            severity=hole.severity,
            title=f"{server.version} has a known hole, {hole.name}",
            evidence=f"the server says {server.version}; fixed in {_dotted(fix)}",
            why=f"{hole.what}; this layer's limits and logs need scripts, so they cannot be "
            "forbidden",
            fix=f"update to {product} {_dotted(fix)} or later; a distribution may have repaired "
            "it without a new number: see its package's changelog",
        )


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
