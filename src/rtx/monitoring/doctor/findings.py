"""What a check is, what it finds, and the registry of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from rtx.monitoring.doctor.server import Server

Severity: TypeAlias = Literal["critical", "warning", "info"]
"""critical: money or messages can be lost, or strangers can get in. warning: it will hurt one day.
info: worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


class Problem(Struct, frozen=True, kw_only=True):
    """What a check says of one server; `fix` is commands or settings to copy."""

    severity: Severity
    title: str
    evidence: str
    why: str
    fix: str


class Finding(Struct, frozen=True, kw_only=True):
    """A problem, the check that found it, and the server with its roles."""

    severity: Severity
    check: str
    title: str
    evidence: str
    why: str
    fix: str
    server: str
    roles: tuple[str, ...]


class ServerSummary(Struct, frozen=True, kw_only=True):
    """A server that was looked at; `version` is empty when it did not answer."""

    url: str
    roles: tuple[str, ...]
    version: str


class Report(Struct, frozen=True, kw_only=True):
    """Everything found, the worst first; `checks` is how many were made on each server."""

    servers: tuple[ServerSummary, ...]
    findings: tuple[Finding, ...]
    checks: int

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(1 for finding in self.findings if finding.severity == severity)


Check: TypeAlias = Callable[[Server], Iterator[Problem]]

CHECKS: dict[str, Check] = {}
"""Every check by its name; a module of checks adds its own when it is imported."""


def check(function: Check) -> Check:
    """Add a check to the registry, under its name with dashes."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def findings_of(server: Server) -> Iterator[Finding]:
    """What every check says of a server."""
    for name, function in CHECKS.items():
        for problem in function(server):
            yield Finding(
                severity=problem.severity,
                check=name,
                title=problem.title,
                evidence=problem.evidence,
                why=problem.why,
                fix=problem.fix,
                server=server.url,
                roles=server.role_names,
            )
