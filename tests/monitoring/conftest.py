"""Programs around a running system: `rtx` commands, Prometheus and the exporter of Debian."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rtx.topology.process import free_port
from tests.conftest import ROOT, eventually

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def needed(program: str, package: str) -> str:
    """Path of a program, or a skip that says which package of Debian has it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: {package})")
    return found


@contextlib.asynccontextmanager
async def program(
    *command: str | Path | int, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs while this lasts."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def rtx_command(*arguments: str | int) -> list[str]:
    return [sys.executable, "-m", "rtx.cli", *map(str, arguments)]


def samples(text: str) -> Samples:
    """The samples of Prometheus text, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def hurried(rules: str, factor: float) -> str:
    """The alert rules with every duration in them divided; a range still has a few samples."""

    def shorter(found: re.Match[str]) -> str:
        unit = {"s": 1000, "m": 60_000}[found[3]]
        least = 8000 if found[1] == "[" else 1
        return f"{found[1]}{max(least, round(int(found[2]) * unit / factor))}ms"

    return re.sub(r"(for: |offset |\[)(\d+)([sm])\b", shorter, rules)


class Prometheus:
    """A real Prometheus."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self._http = http

    async def get(self, path: str, **query: str) -> Any:
        answer = await self._http.get(f"{self.url}/api/v1/{path}", params=query)
        body = answer.json()
        assert body["status"] == "success", (path, query, body)
        return body["data"]

    async def names(self) -> set[str]:
        return set(await self.get("label/__name__/values"))

    async def firing(self) -> set[str]:
        found = await self.get("query", query='ALERTS{alertstate="firing"}')
        return {each["metric"]["alertname"] for each in found["result"]}


@contextlib.asynccontextmanager
async def prometheus(
    directory: Path,
    jobs: Mapping[str, Mapping[str, object]],
    factor: float,
    interval: str = "1s",
) -> AsyncIterator[Prometheus]:
    """Prometheus on the jobs given, with the alert rules `factor` times as fast."""
    port = free_port()
    (directory / "alerts.yml").write_text(hurried(RULES.read_text("utf-8"), factor), "utf-8")
    config = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": "200ms",
        },
        "rule_files": [str(directory / "alerts.yml")],
        "scrape_configs": [{"job_name": name, **job} for name, job in jobs.items()],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    command = [
        needed("prometheus", "prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with program(*command), httpx.AsyncClient(trust_env=False, timeout=10) as http:
        url = f"http://127.0.0.1:{port}"
        await eventually(lambda: answers(http, f"{url}/-/ready"), within=30)
        yield Prometheus(url, http)


async def answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.TransportError:
        return False
