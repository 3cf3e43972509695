"""The reference of the doctor is made from the checks: every one, in its own words."""

from __future__ import annotations

import json
import re

import msgspec

from rtx.monitoring.doctor import CHECKS, Report, Words
from rtx.monitoring.doctor import examination as _all_checks
from rtx.monitoring.doctor.groups import family, nodes, service, setup
from rtx.monitoring.doctor.server import check
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reference" / "doctor.md"
SECTIONS = {
    "A server": check,
    "A primary and its replicas": family,
    "Sentinels": service,
    "A cluster": nodes,
    "The settings": setup,
}
assert _all_checks


def row(words: Words) -> str:
    """A check's line in the reference; the names of facts are in capitals."""
    what = f"{words.plain(words.title)}: {words.plain(words.why)}"
    cells = (f"`{words.name}`", ", ".join(words.severities), what, words.plain(words.fix))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"


def sections() -> dict[str, list[str]]:
    """What has to be in the reference, by heading."""
    return {
        title: [row(CHECKS[name]) for name in checks.names] for title, checks in SECTIONS.items()
    }


def test_every_check_is_there_in_its_own_words_and_no_other() -> None:
    page = PAGE.read_text("utf-8")
    written = {
        title: [line for line in text.splitlines() if line.startswith("| `")]
        for title, text in re.findall(r"^### (.+)\n((?:(?!### ).*\n?)*)", page, re.MULTILINE)
    }
    assert written == sections()
    assert sum(map(len, written.values())) == len(CHECKS)


def test_the_json_that_is_shown_is_a_report() -> None:
    [text] = re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    report = msgspec.json.decode(text, type=Report)
    assert json.loads(msgspec.json.encode(report)) == json.loads(text)
    assert {finding.check for finding in report.findings} <= set(CHECKS)
