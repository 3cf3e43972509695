"""The pages as a site whose builder checks every link, and what they must name."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(
    find_spec("mkdocs") is None, reason="mkdocs is not there: pip install '.[docs]'"
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    index = (tmp_path / "index.html").read_text("utf-8")
    assert 'src="images/architecture.svg"' in index
    assert (tmp_path / "images" / "architecture.svg").exists()
    assert "<code>examples/</code>" in index  # a link on the code's site, which this is not
    assert not (tmp_path / "hooks.py").exists()


def test_the_page_on_deployment_names_every_file_of_it() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text("utf-8")
    for path in (ROOT / "deploy").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        assert f"`{name}`" in page, name
