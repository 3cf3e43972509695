"""What a finding is, and the report of them all."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Severity: TypeAlias = Literal["critical", "warning", "info"]
"""critical: money or messages can be lost, trading stops, or strangers can get in. warning: it will
hurt one day. info: worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


class Finding(Struct, frozen=True, kw_only=True):
    """What is wrong, where, how it was seen, why it matters, and commands or settings to copy."""

    severity: Severity
    check: str
    title: str
    evidence: str
    why: str
    fix: str
    server: str
    roles: tuple[str, ...]


class Unseen(Struct, frozen=True, kw_only=True):
    """What could not be looked at, why, and the checks that were therefore not made."""

    server: str
    what: str
    reason: str
    checks: tuple[str, ...]


class ServerSummary(Struct, frozen=True, kw_only=True):
    """A server or sentinel that was looked at; `version` is empty when it did not answer.

    `part` is `primary`, `replica` or `sentinel` by its own word, and empty when it did not say.
    """

    url: str
    roles: tuple[str, ...]
    part: str
    version: str


class Report(Struct, frozen=True, kw_only=True):
    """Everything found, the worst first; `checks` is how many there are."""

    servers: tuple[ServerSummary, ...]
    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...]
    checks: int

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(1 for finding in self.findings if finding.severity == severity)

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; None without any."""
        return self.findings[0].severity if self.findings else None
