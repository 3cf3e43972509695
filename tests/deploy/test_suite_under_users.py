"""The tests of caches, channels, limits and alerts pass with the shipped users.

The shared server then runs with deploy/users.acl, the layer logs in as `engine`, and witnesses as
`admin`: `RTXTEST_USERS=1 pytest tests/cache` does the same by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FOLDERS = ("tests/cache", "tests/pubsub", "tests/ratelimit", "tests/alerts")
SAMPLE = (
    "tests/cache/test_ttls.py",
    "tests/pubsub/test_backlog.py",
    "tests/ratelimit/test_refunds.py",
)


def passed_under_users(*arguments: str, within: float) -> int:
    """How many tests passed in a pytest of their own; fails where any does not."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak"]
    ended = subprocess.run(
        [*command, *arguments],
        env={**own, "RTXTEST_USERS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=within,
    )
    assert ended.returncode == 0, ended.stdout[-8_000:]
    [count] = re.findall(r"(\d+) passed", ended.stdout)
    return int(count)


def test_a_sample_passes_under_the_shipped_users() -> None:
    assert passed_under_users(*SAMPLE, within=50) >= 30


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_everything_passes_under_the_shipped_users() -> None:
    count = passed_under_users("-n", "2", *FOLDERS, within=1_700)
    print(f"{count} tests passed under the shipped users")
    assert count > 500
