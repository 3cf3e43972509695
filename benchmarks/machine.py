"""Facts about where a run took place; no host names, no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.base import Arena, Machine

_PACKAGES = (
    "hiredis",
    "msgspec",
    "uvloop",
    "redis",
    "coredis",
    "valkey-glide",
    "cashews",
    "aiocache",
)


def describe(arena: Arena) -> Machine:
    """The machine, the server and the versions of everything that races."""
    return Machine(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=_cores(),
        load=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        server=_server(arena),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        commit=_commit(),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _server(arena: Arena) -> str:
    facts: object = arena.witness.info("server")
    assert isinstance(facts, dict)
    if version := facts.get("valkey_version"):
        return f"Valkey {version}"
    return f"Redis {facts.get('redis_version')}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    root = Path(__file__).resolve().parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()
