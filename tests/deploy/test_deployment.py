"""The parts of compose.yaml together, as processes: two servers, the gateway, the doctor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from rtx.monitoring.doctor import examine
from rtx.settings import Settings
from rtx.topology.process import free_port
from tests.conftest import ROOT, wait_sync

DEPLOY = ROOT / "deploy"


@pytest.fixture
def servers(boot, secrets: Path) -> tuple[int, int]:
    """Ports of the cache server and the state server, with their users."""
    login = ("health", (secrets / "health-password").read_text())
    users = ("--aclfile", str(secrets / "users.acl"), "--maxmemory", "100mb")
    cache, state = (
        boot(DEPLOY / f"redis-{name}.conf", *users, user=login[0], password=login[1])
        for name in ("cache", "state")
    )
    return cache.port, state.port


def test_the_gateway_serves_with_its_settings_and_its_password_file(
    servers: tuple[int, int], secrets: Path, tmp_path: Path
) -> None:
    text = (DEPLOY / "rtx.toml").read_text("utf-8").replace("/run/secrets", str(secrets))
    for name, port in zip(("cache", "state"), servers, strict=True):
        text = text.replace(f"redis://{name}:6379", f"redis://127.0.0.1:{port}")
    (tmp_path / "rtx.toml").write_text(text)
    port = free_port()
    command = [sys.executable, "-m", "rtx.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "RTX_CONFIG": str(tmp_path / "rtx.toml")}
    gateway = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path)
    try:

        def ready() -> bool:
            assert gateway.poll() is None, "the gateway ended"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_sync(ready, within=20)
        assert "rtx_gateway_connections" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        gateway.terminate()
        assert gateway.wait(timeout=10) == 0


async def test_the_doctor_finds_nothing_critical(servers: tuple[int, int], secrets: Path) -> None:
    password = (secrets / "admin-password").read_text()
    cache, state = (f"redis://admin:{password}@127.0.0.1:{port}" for port in servers)
    report = await examine(Settings.load(cache_url=cache, pubsub_url=state, limits_url=state))
    # Debian's Redis 7.0 has known holes, which are no fault of these files.
    critical = [
        finding.title
        for finding in report.findings
        if finding.severity == "critical" and "CVE" not in str(finding)
    ]
    assert critical == []
