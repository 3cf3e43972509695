"""Every server file boots as it is, and the server then runs with what the file says."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SERVERS = ["redis.conf", "redis-cache.conf", "redis-state.conf"]
PARTS = ["redis-state-ha.conf", "redis-cluster.conf", "redis-defrag.conf", "redis-tls.conf"]
ALL = [*SERVERS, "sentinel.conf"]

_SIZE = re.compile(r"(\d+)(kb|mb|gb)")
_FACTOR = {"kb": 2**10, "mb": 2**20, "gb": 2**30}


def settings_of(path: Path) -> list[tuple[int, str, str]]:
    """The settings of a file: line number, name and value."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            found.append((number, name, value))
    return found


def meaning(value: str) -> str:
    """A value as CONFIG GET shows it: without quotes, sizes in bytes, old names of replicas."""
    text = " ".join(shlex.split(value))
    text = _SIZE.sub(lambda size: str(int(size[1]) * _FACTOR[size[2]]), text)
    return re.sub(r"\bslave\b", "replica", text)


@pytest.mark.parametrize("name", [*SERVERS, "redis-state-ha.conf", "redis-cluster.conf"])
def test_a_server_runs_with_what_its_file_says(name, boot) -> None:
    server = boot(DEPLOY / name, "--maxmemory", "100mb")
    wanted: dict[str, list[str]] = {}
    for _, setting, value in settings_of(DEPLOY / name):
        if setting not in {"port", "dir", "include", "maxmemory"}:
            wanted.setdefault(setting, []).append(meaning(value))
    with closing(server.client()) as client:
        for setting, values in wanted.items():
            shown = meaning(client.config_get(setting)[setting])
            if setting == "client-output-buffer-limit":  # all classes in one line
                assert all(value in shown for value in values), (setting, shown)
            else:
                assert shown == values[-1], (setting, shown)


def test_memory_is_put_together_where_the_server_can(boot, binary, tmp_path: Path) -> None:
    conf = DEPLOY / "redis-defrag.conf"
    with closing(boot(DEPLOY / "redis.conf").client()) as client:
        try:
            can = client.config_set("activedefrag", "yes")
        except redis.ResponseError:
            can = False
    if can:
        boot(conf)
    else:  # as the file says
        tried = subprocess.run(
            [binary, str(conf), "--port", "0"], capture_output=True, text=True, timeout=20
        )
        assert tried.returncode != 0
        assert "Active defragmentation cannot be enabled" in tried.stdout + tried.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_the_memory_of_a_server_is_what_its_file_says(name, boot) -> None:
    limit = {"redis.conf": 16, "redis-cache.conf": 16, "redis-state.conf": 4}[name] * 2**30
    with closing(boot(DEPLOY / name).client()) as client:
        assert int(client.config_get("maxmemory")["maxmemory"]) == limit


def test_a_sentinel_boots_and_watches_with_a_quorum_of_two(boot, tmp_path: Path) -> None:
    conf = tmp_path / "sentinel.conf"  # a sentinel writes into its file
    conf.write_bytes((DEPLOY / "sentinel.conf").read_bytes())
    server = boot(conf, "--sentinel")
    with closing(server.client()) as client:
        for group, primary in (("trading-redis", "cache-1"), ("trading-state", "state-1")):
            answer = client.execute_command("SENTINEL", "MASTER", group)
            watched = dict(zip(answer[::2], answer[1::2], strict=True)) if answer else {}
            assert (watched["ip"], watched["port"], watched["quorum"]) == (primary, "6379", "2")
            assert watched["down-after-milliseconds"] == "5000"
            assert watched["failover-timeout"] == "10000"
            assert watched["parallel-syncs"] == "1"


@pytest.mark.parametrize("name", [*ALL, *PARTS])
def test_every_setting_has_its_reason_above_it(name: str) -> None:
    lines = (DEPLOY / name).read_text("utf-8").splitlines()
    for number, setting, value in settings_of(DEPLOY / name):
        assert lines[number - 2].startswith("# "), f"{name}:{number}: {setting} has no reason"
        assert "#" not in value, f"{name}:{number}: a comment behind a value stops the server"


@pytest.mark.parametrize("name", ALL)
def test_no_file_holds_a_password_and_each_includes_one(name: str) -> None:
    found = {setting: value for _, setting, value in settings_of(DEPLOY / name)}
    assert not {"requirepass", "masterauth", "user", "sentinel auth-pass"} & set(found)
    assert "auth-pass" not in found.get("sentinel", "")
    assert found["include"].endswith("/*.conf")  # a pattern without a match is no error
