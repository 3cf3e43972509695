"""The systemd units, as systemd itself reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # Only what they run is not installed here.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text("utf-8"), flags=re.M)
    copy = tmp_path / unit.name.replace("@", "@cache")
    copy.write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    told = [line for line in (found.stdout + found.stderr).splitlines() if unit.stem[:8] in line]
    assert told == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_no_unit_runs_as_root_or_may_become_it(unit: Path) -> None:
    lines = unit.read_text("utf-8").splitlines()
    assert any(re.fullmatch(r"User=rtx(-server)?", line) for line in lines)
    assert "NoNewPrivileges=yes" in lines
    assert not any(" #" in line for line in lines if not line.startswith("#"))


def test_units_run_scripts_that_are_here() -> None:
    for unit in UNITS:
        for script in re.findall(r"/usr/lib/rtx/(\S+)", unit.read_text("utf-8")):
            assert (DEPLOY / script).exists(), script
