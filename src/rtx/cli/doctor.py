"""`rtx doctor`: what is wrong with a live deployment, why it matters, and the fix."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import StrEnum
from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.cli.terminal import count

if TYPE_CHECKING:
    from rtx.monitoring.doctor import Finding, Report, Unseen

_INDENT = " " * 8
_WIDEST = 100
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_CODES = {"critical": 1, "warning": 3, "info": 0, None: 0}


class Least(StrEnum):
    """The least severity that is shown."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


def doctor(
    url: options.Url = None,
    json: options.Json = False,
    severity: Annotated[
        Least, typer.Option("--severity", help="Show findings of this severity or worse.")
    ] = Least.INFO,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHECK", help="Make this check alone; several with commas."),
    ] = None,
) -> None:
    """Look at the configured servers and say what is wrong: every node, replica and sentinel.

    Reads only. Each finding has its evidence, why it matters to a trading engine, and the exact
    fix. Exit code 1 when one that is shown is critical, 3 when one is a warning, else 0.

    \b
    Examples:
      RTX_URL=redis://127.0.0.1:6379 rtx doctor
      rtx doctor --severity critical
      rtx doctor --json | jq '.findings[].title'
    """

    async def main(_: asyncio.Event) -> int:
        settings = options.load_for_server(url, "look at")
        from rtx.monitoring.doctor import examine

        report = _without_lesser(
            await examine(settings, only=tuple(options.split(only))), severity.value
        )
        if json:
            import msgspec

            text = msgspec.json.encode(report)
            terminal.stdout().out(msgspec.json.format(text, indent=2).decode())
        else:
            _show(report)
        return _CODES[report.worst]

    run(main)


def _without_lesser(report: Report, least: str) -> Report:
    import msgspec

    from rtx.monitoring.doctor import SEVERITIES

    order: list[str] = [*SEVERITIES]
    shown = order[: order.index(least) + 1]
    findings = tuple(one for one in report.findings if one.severity in shown)
    return msgspec.structs.replace(report, findings=findings)


def _show(report: Report) -> None:
    from rich.text import Text

    out = terminal.stdout()
    for roles, servers in groupby(report.servers, lambda server: server.roles):
        out.print(Text(", ".join(roles), style="bold"))
        for server in servers:
            version = server.version or "no answer"
            out.print(Text(f"  {server.part or 'server':<8}  {server.url}  {version}"))
    for alike in _alike(report.findings):
        out.print()
        _show_findings(alike)
    for unseen in _unseen_alike(report.unseen):
        out.print()
        _show_unseen(unseen)
    counts = (
        count(report.count("critical"), "critical finding"),
        count(report.count("warning"), "warning"),
        count(report.count("info"), "note"),
    )
    out.print(Text(f"\n{', '.join(counts)}; {report.checks} checks"))


def _alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that differ only in their server and evidence, together."""
    found: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        key = (one.severity, one.check, one.title, one.why, one.fix)
        found.setdefault(key, []).append(one)
    return list(found.values())


def _unseen_alike(several: Iterable[Unseen]) -> list[list[Unseen]]:
    found: dict[tuple[str, str], list[Unseen]] = {}
    for one in several:
        found.setdefault((one.what, one.reason), []).append(one)
    return list(found.values())


def _show_findings(alike: list[Finding]) -> None:
    from rich.text import Text

    first = alike[0]
    style = _STYLES[first.severity]
    terminal.stdout().print(
        Text.assemble((first.severity.upper(), style), f"  {first.title}"), soft_wrap=True
    )
    _line("check", first.check)
    evidence: dict[str, list[str]] = {}
    for one in alike:
        evidence.setdefault(one.evidence, []).append(one.server)
    for text, servers in evidence.items():
        _line("seen", f"{', '.join(servers)}: {text}")
    _line("why", first.why)
    _line("fix", first.fix)


def _show_unseen(alike: list[Unseen]) -> None:
    from rich.text import Text

    first = alike[0]
    checks = sorted({name for one in alike for name in one.checks})
    terminal.stdout().print(Text.assemble(("COULD NOT LOOK", "bold"), f"  at {first.what}"))
    _line("where", ", ".join(dict.fromkeys(one.server for one in alike)))
    _line("why", first.reason)
    _line("left", f"{count(len(checks), 'check')} not made: {', '.join(checks)}")


def _line(name: str, text: str) -> None:
    from rich.text import Text

    out = terminal.stdout()
    width = min(out.width, _WIDEST) - len(_INDENT)
    # Commands are there to be copied: never broken inside a word.
    lines = wrap(text, width, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        head = f"  {name:<5} " if number == 0 else _INDENT
        out.print(Text.assemble((head, "dim"), line), soft_wrap=True)
