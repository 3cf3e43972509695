"""What the exporter may ask of a sentinel, with the files that make-secrets.sh makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from rtx.topology.process import free_port
from tests.conftest import wait_sync
from tests.deploy.layouts import DEPLOY, Layout


@pytest.fixture
def layout(binary: str, tmp_path: Path, secrets: Path) -> Iterator[Layout]:
    """One sentinel, which sees neither its primaries nor the other sentinels."""
    layout = Layout(binary, tmp_path, secrets)
    layout.ports |= {"cache-1": free_port(), "state-1": free_port()}
    conf = tmp_path / "sentinel.conf"
    conf.write_text(layout.with_our_addresses((DEPLOY / "sentinel.conf").read_text("utf-8")))
    try:
        layout.add("sentinel-1", "start-sentinel.sh", [conf])
        wait_sync(lambda: layout.ask("sentinel-1", "PING"))
        yield layout
    finally:
        layout.stop()


def test_the_exporter_looks_at_sentinels_and_changes_nothing(layout: Layout) -> None:
    own = {"username": "exporter", "password": layout.password("exporter")}
    with closing(redis.Redis(port=layout.ports["sentinel-1"], protocol=2, **own)) as client:
        assert len(client.execute_command("SENTINEL", "MASTERS")) == 2
        assert client.info()
        for refused in (
            ("SENTINEL", "FAILOVER", "trading-redis"),
            ("SENTINEL", "SET", "trading-redis", "quorum", "1"),
            ("SENTINEL", "CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("SHUTDOWN",),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*refused)


def test_redis_exporter_tells_what_the_alerts_are_about(layout: Layout, tmp_path: Path) -> None:
    program = shutil.which("prometheus-redis-exporter")
    if program is None:
        pytest.skip("Debian's prometheus-redis-exporter is not installed")
    port, place = free_port(), f"127.0.0.1:{layout.ports['sentinel-1']}"
    known = json.loads((layout.secrets / "exporter.json").read_text("utf-8"))
    ours = {url.replace("sentinel-1:26379", place): word for url, word in known.items()}
    (tmp_path / "exporter.json").write_text(json.dumps(ours))
    environment = {  # as in compose.ha.yaml
        **os.environ,
        "REDIS_ADDR": "",
        "REDIS_USER": "exporter",
        "REDIS_PASSWORD_FILE": str(tmp_path / "exporter.json"),
        "REDIS_EXPORTER_CONFIG_COMMAND": "-",
    }
    command = [program, "-web.listen-address", f"127.0.0.1:{port}"]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    exporter = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:

        def told() -> str:
            url = f"http://127.0.0.1:{port}/scrape?target=redis://{place}"
            try:
                with direct.open(url, timeout=5) as answer:
                    return str(answer.read(), "utf-8")
            except OSError:
                return ""

        wait_sync(told)
        text = told()
    finally:
        exporter.kill()
        exporter.wait()
    assert "\nredis_up 1\n" in text
    for name in ("master_ckquorum_status", "master_ok_slaves", "tilt"):
        assert f"\nredis_sentinel_{name}" in text, name
    assert layout.ask("sentinel-1", "ACL", "LOG") == []
