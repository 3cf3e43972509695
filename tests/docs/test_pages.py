"""Every Python block of README.md and docs/ runs; JSON parses; links and commands exist."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import typer

from rtx.cli.app import app
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\s*$")
_NO_RUN = re.compile(r"<!-- no-run: \S.* -->")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass
class Block:
    """A fenced block: its language, text, and the page and line of its first line."""

    language: str
    text: str
    page: Path
    line: int
    no_run: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[str, int, bool] | None = None
    text: list[str] = []
    last = ""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, text = (fence[1], number + 1, bool(_NO_RUN.fullmatch(last.strip()))), []
        elif opened is not None and fence:
            language, start, no_run = opened
            found.append(Block(language, "\n".join(text) + "\n", page, start, no_run))
            opened = None
        elif opened is not None:
            text.append(line)
        if line.strip():
            last = line
    assert opened is None, f"{page}: a block is not closed"
    return found


def of_language(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def compiled(block: Block) -> CodeType:
    """The block's code, whose tracebacks name the page and the line."""
    source = "\n" * (block.line - 1) + block.text
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, str(block.page), "exec", flags=flags, dont_inherit=True)
    assert isinstance(code, CodeType)
    return code


@pytest.mark.parametrize("page", PAGES, ids=by_name)
async def test_the_python_of_a_page_runs(page: Path, tmp_path, monkeypatch) -> None:
    runnable = [item for item in blocks(page) if item.language == "python" and not item.no_run]
    if not runnable:
        return
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in runnable:
        result = eval(compiled(block), namespace)  # noqa: S307
        if inspect.iscoroutine(result):
            await result


@pytest.mark.parametrize("block", of_language("python"), ids=str)
def test_a_block_that_is_not_run_is_python_all_the_same(block: Block) -> None:
    compiled(block)


@pytest.mark.parametrize("block", of_language("json"), ids=str)
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


def rtx_lines() -> list[tuple[str, str]]:
    """Every line of a shell block that calls rtx, with where it stands."""
    found = []
    for block in of_language("sh"):
        for offset, line in enumerate(block.text.splitlines()):
            words = line.split("#")[0].strip()
            command = re.search(r"(?:^|[|;&]\s*|(?:[A-Z_]+=\S+\s+)+)(rtx\s[^|>;&]*)", words)
            if command:
                found.append((f"{by_name(block.page)}:{block.line + offset}", command[1]))
    return found


@pytest.mark.parametrize(("place", "line"), rtx_lines())
def test_a_shell_line_names_a_command_and_options_that_exist(place: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{place}: rtx has no command {words[0]}"
        command = command.commands[words.pop(0)]
    options = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in options | {"--help", "-h"}, f"{place}: no option {word}"


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in _LINK.findall(without_code(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_can_be_reached_from_the_index() -> None:
    reached = {ROOT / "docs" / "index.md"}
    left = list(reached)
    while left:
        page = left.pop()
        for target in _LINK.findall(without_code(page)):
            file = (page.parent / target.partition("#")[0]).resolve()
            if file.suffix == ".md" and file.exists() and file not in reached:
                reached.add(file)
                left.append(file)
    assert {page for page in PAGES if "docs" in page.parts} <= reached
