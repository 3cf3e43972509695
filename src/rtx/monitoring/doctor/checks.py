"""What a check is, and the registry of all of them.

A check is a function that yields a `Seen` for each thing it finds wrong with its subject: a server,
a family of a primary and its replicas, the sentinels of a service, a cluster, or the settings. What
it says besides the evidence is declared, so that the reference is made from the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from rtx.monitoring.doctor.findings import SEVERITIES, Finding, Severity, Unseen

_FACT = re.compile(r"{(\w+)}")


class Subject(Protocol):
    """What can be checked."""

    @property
    def name(self) -> str:
        """How it is called in a report."""

    @property
    def role_names(self) -> tuple[str, ...]:
        """Names of the roles it plays, in their usual order."""

    def has(self, source: str) -> bool:
        """Whether a source could be read."""

    @property
    def unseen(self) -> Mapping[str, str]:
        """The sources that could not be read, each with the reason."""


S = TypeVar("S", bound=Subject)


class Seen(Struct, frozen=True):
    """What a check saw: the actual values.

    `severity` stands where it is not the check's first; `facts` fill the `{names}` of its texts;
    `server` is whom it is about where that is not the subject.
    """

    evidence: str
    severity: Severity | None = None
    facts: Mapping[str, str] = {}
    server: str = ""


Look: TypeAlias = "Callable[[S], Iterator[Seen]]"


class Words(Struct, frozen=True, kw_only=True):
    """What is declared of a check; `severities` are those it may have, the usual one first."""

    name: str
    severities: tuple[Severity, ...]
    title: str
    why: str
    fix: str
    needs: tuple[str, ...] = ()

    def plain(self, text: str) -> str:
        """One of its texts with the names of facts in capitals, for the reference."""
        return _FACT.sub(lambda found: found[1].upper(), text)


CHECKS: dict[str, Words] = {}
"""Every check by its name; a module of checks adds its own when it is imported."""


class Checks(Generic[S]):
    """The checks of one kind of subject."""

    def __init__(self) -> None:
        self._looks: dict[str, Look[S]] = {}

    def __call__(
        self, *severities: Severity, title: str, why: str, fix: str, needs: tuple[str, ...] = ()
    ) -> Callable[[Look[S]], Look[S]]:
        """Register a function under its name with dashes.

        `needs` names sources of the subject: the check is made only where all were read.
        """

        def add(look: Look[S]) -> Look[S]:
            name = look.__name__.replace("_", "-")
            if name in CHECKS or not set(severities) <= set(SEVERITIES) or not severities:
                raise ValueError(f"the check {name} is there twice, or has no severity")
            CHECKS[name] = Words(
                name=name, severities=severities, title=title, why=why, fix=fix, needs=needs
            )
            self._looks[name] = look
            return look

        return add

    @property
    def names(self) -> tuple[str, ...]:
        """The checks that were registered here."""
        return tuple(self._looks)

    def findings(self, subject: S) -> Iterator[Finding]:
        """What these checks say of a subject, as far as its sources were read."""
        for name, look in self._looks.items():
            words = CHECKS[name]
            if not all(map(subject.has, words.needs)):
                continue
            for seen in look(subject):
                yield Finding(
                    severity=seen.severity or words.severities[0],
                    check=name,
                    title=_filled(words.title, seen.facts),
                    evidence=seen.evidence,
                    why=_filled(words.why, seen.facts),
                    fix=_filled(words.fix, seen.facts),
                    server=seen.server or subject.name,
                    roles=subject.role_names,
                )

    def unseen(self, subject: S) -> Iterator[Unseen]:
        """What could not be read of a subject, and the checks that were left out."""
        for source, reason in subject.unseen.items():
            left_out = tuple(name for name in self._looks if source in CHECKS[name].needs)
            if left_out:
                yield Unseen(server=subject.name, what=source, reason=reason, checks=left_out)


def _filled(text: str, facts: Mapping[str, str]) -> str:
    return _FACT.sub(lambda found: facts.get(found[1], found[1].upper()), text)
