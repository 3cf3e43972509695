"""compose.ha.yaml as processes, with the shipped users: it fails over, and takes back the lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import rtx
from rtx.errors import RtxError
from rtx.settings import Settings
from tests.conformance.servers import SERVERS
from tests.conftest import eventually, wait_sync
from tests.deploy.layouts import DEPLOY, GROUPS, Layout, start_ha

CLI = shutil.which("valkey-cli") or shutil.which("redis-cli")


# One server program in each run of the suite; the others take half a minute each too.
_PROGRAMS = [
    pytest.param(server, marks=[pytest.mark.soak] if place else [], id=server.name)
    for place, server in enumerate(SERVERS)
]


@pytest.fixture(params=_PROGRAMS)
def binary(request: pytest.FixtureRequest) -> str:
    return request.param.needed()


@pytest.fixture
def layout(binary: str, tmp_path: Path, secrets: Path) -> Iterator[Layout]:
    layout = Layout(binary, tmp_path, secrets)
    try:
        start_ha(layout, tmp_path)
        yield layout
    finally:
        layout.stop()


@pytest.fixture
def settings(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    text = layout.with_our_addresses((DEPLOY / "rtx.ha.toml").read_text("utf-8"))
    # Who writes everything, in the place of the gateway.
    text = text.replace('"gateway"', '"engine"').replace("gateway-password", "engine-password")
    (tmp_path / "rtx.toml").write_text(text)
    monkeypatch.setenv("RTX_CONFIG", str(tmp_path / "rtx.toml"))
    return Settings.load()


async def _writes(layer: rtx.DataLayer) -> bool:
    """Whether every role takes writes."""
    try:
        await layer.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.1))
        await layer.prices.put(rtx.Price("EURUSD", bid=1.1, ask=1.2))
        return not (await layer.limits.orders.hit(time.monotonic())).degraded
    except RtxError:
        return False


@pytest.mark.timeout(120)
async def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(
    layout: Layout, settings: Settings
) -> None:
    async with rtx.open(settings) as layer:
        await eventually(lambda: _writes(layer))
        before = (await layer.executions.history(1)).last
        for group in GROUPS:
            layout.kill(f"{group}-1")
        died = time.monotonic()
        await eventually(lambda: _writes(layer), within=30, every=0.05)
        took = time.monotonic() - died
        print(f"\nboth primaries killed: all roles take writes again after {took:.1f} s")
        assert took < 10.0
        found = await layer.executions.history(1, after=before)
        assert found.messages
        assert (await layer.health()).ready
        for group in GROUPS:
            layout.start(f"{group}-1")
        for group in GROUPS:
            one = f"{group}-1"
            wait_sync(lambda one=one: layout.role(one) == "slave", within=30)
            others = [layout.role(f"{group}-{number}") for number in (2, 3)]
            assert sorted(map(str, others)) == ["master", "slave"]
        assert await _writes(layer)
    for name in layout.ports:
        if not name.startswith("sentinel"):
            with closing(layout.client(name)) as client:
                refused = client.execute_command("ACL", "LOG")
                assert not refused, f"{name}: {[entry[:12] for entry in refused]}"
    if CLI is None:
        return
    wait_sync(lambda: _healthy(layout))
    layout.kill("sentinel-2")
    layout.kill("sentinel-3")
    wait_sync(lambda: not _healthy(layout), within=20)


def _healthy(layout: Layout) -> bool:
    """What the healthcheck of a sentinel says."""
    environment = {
        "PATH": os.environ["PATH"],
        "HEALTH_PORT": str(layout.ports["sentinel-1"]),
        "SENTINELS_PASSWORD_FILE": str(layout.secrets / "sentinels-password"),
    }
    command = ["sh", str(DEPLOY / "check-sentinel.sh")]
    return subprocess.run(command, env=environment, capture_output=True, timeout=10).returncode == 0
