"""`rtx doctor`: what is wrong with a live deployment, why it matters, and the fix."""

from __future__ import annotations

import asyncio
from textwrap import wrap
from typing import TYPE_CHECKING

from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.cli.terminal import count

if TYPE_CHECKING:
    from rtx.monitoring.doctor import Finding, Report

_INDENT = " " * 8
_WIDEST = 100
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def doctor(url: options.Url = None, json: options.Json = False) -> None:
    """Look at the configured servers, role by role, and say what is wrong.

    Reads only. Each finding has its evidence, why it matters to a trading engine, and the exact
    fix. Exit code 1 when one is critical.

    \b
    Examples:
      RTX_URL=redis://127.0.0.1:6379 rtx doctor
      rtx doctor --json | jq '.findings[].title'
    """

    async def main(_: asyncio.Event) -> int:
        settings = options.load_for_server(url, "look at")
        from rtx.monitoring.doctor import examine

        report = await examine(settings)
        if json:
            import msgspec

            text = msgspec.json.encode(report)
            terminal.stdout().out(msgspec.json.format(text, indent=2).decode())
        else:
            _show(report)
        return 1 if report.count("critical") else 0

    run(main)


def _show(report: Report) -> None:
    from rich.text import Text

    out = terminal.stdout()
    for server in report.servers:
        version = server.version or "no answer"
        out.print(Text.assemble((", ".join(server.roles), "bold"), f"  {server.url}  {version}"))
    for finding in report.findings:
        out.print()
        _show_finding(finding)
    counts = (
        count(report.count("critical"), "critical finding"),
        count(report.count("warning"), "warning"),
        count(report.count("info"), "note"),
    )
    out.print(Text(f"\n{', '.join(counts)}; {report.checks} checks"))


def _show_finding(finding: Finding) -> None:
    from rich.text import Text

    out = terminal.stdout()
    out.print(
        Text.assemble(
            (finding.severity.upper(), _STYLES[finding.severity]),
            f"  {finding.title}  ",
            (f"[{', '.join(finding.roles)}]", "dim"),
        )
    )
    width = min(out.width, _WIDEST) - len(_INDENT)
    for name, text in (("seen", finding.evidence), ("why", finding.why), ("fix", finding.fix)):
        # Commands are there to be copied: never broken inside a word.
        lines = wrap(text, width, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines):
            head = f"  {name:<6}" if number == 0 else _INDENT
            out.print(Text.assemble((head, "dim"), line))
