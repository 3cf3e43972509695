"""`rtx doctor` on servers that are ill in ways of our making."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
import redis.asyncio as redis_py

from rtx import urls
from rtx.monitoring.doctor import CHECKS, Finding, Report, examine
from rtx.monitoring.doctor.findings import findings_of
from rtx.monitoring.doctor.server import Server
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.process import ServerProcess
from tests.cli.conftest import Rtx

HEALTHY = {
    "maxmemory": "1gb",
    "appendonly": "yes",
    "latency-monitor-threshold": "10",
}


@pytest.fixture
async def client(own_server: ServerProcess) -> redis_py.Redis:
    return redis_py.Redis.from_url(own_server.url)


async def configure(client: redis_py.Redis, config: dict[str, str]) -> None:
    # The addresses first: what forks a child, as appendonly does, holds the old ones a moment.
    for name, value in sorted(config.items(), key=lambda item: item[0] != "bind"):
        await client.config_set(name.replace("_", "-"), value)


async def look(server: ServerProcess, client: redis_py.Redis, **config: str) -> Report:
    await configure(client, {**HEALTHY, **config})
    await client.aclose()
    return await examine(Settings.load(url=server.url))


def named(report: Report | Iterable[Finding]) -> dict[str, Finding]:
    findings = report.findings if isinstance(report, Report) else report
    return {finding.check: finding for finding in findings}


async def test_a_shared_server_with_eviction_is_critical(
    own_server: ServerProcess, client: redis_py.Redis
) -> None:
    report = await look(own_server, client, maxmemory_policy="allkeys-lru")
    finding = named(report)["state-can-be-evicted"]
    assert finding.severity == "critical"
    assert finding.roles == ("cache", "pubsub", "limits")
    assert "allkeys-lru" in finding.evidence
    assert "RTX_LIMITS_URL" in finding.fix
    assert report.findings[0].severity == "critical"


async def test_a_healthy_server_has_nothing_critical(
    own_server: ServerProcess, client: redis_py.Redis
) -> None:
    report = await look(own_server, client)
    assert report.count("critical") == 0
    assert set(named(report)) == {"no-replica", "default-user-may-do-all"}


@pytest.mark.parametrize(
    ("config", "check", "severity"),
    [
        ({"maxmemory": "0"}, "cache-without-bound", "warning"),
        ({"appendonly": "no"}, "state-not-persisted", "critical"),
        ({"appendonly": "no", "save": "60 1"}, "state-not-persisted", "warning"),
        ({"appendfsync": "no"}, "state-not-persisted", "warning"),
        ({"maxmemory_policy": "volatile-lru"}, "state-can-be-evicted", "critical"),
        (
            {"client_output_buffer_limit": "pubsub 0 0 0"},
            "subscriber-output-buffer",
            "warning",
        ),
        (
            {"client_output_buffer_limit": "pubsub 1mb 1mb 60"},
            "subscriber-output-buffer",
            "warning",
        ),
        ({"slowlog_log_slower_than": "-1"}, "slowlog-off", "warning"),
        ({"slowlog_max_len": "0"}, "slowlog-off", "warning"),
        ({"latency_monitor_threshold": "0"}, "latency-monitor-off", "info"),
        ({"bind": "*"}, "no-password", "warning"),
        ({"bind": "*", "protected_mode": "no"}, "no-password", "critical"),
    ],
    ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else None,
)
async def test_what_is_wrong_is_found(
    own_server: ServerProcess,
    client: redis_py.Redis,
    config: dict[str, str],
    check: str,
    severity: str,
) -> None:
    finding = named(await look(own_server, client, **config))[check]
    assert finding.severity == severity
    for text in (finding.title, finding.evidence, finding.why, finding.fix):
        assert text


async def test_a_replica_is_critical(own_server: ServerProcess, client: redis_py.Redis) -> None:
    await client.replicaof("127.0.0.1", 1)
    report = await look(own_server, client)
    assert named(report)["is-a-replica"].severity == "critical"


async def test_protected_mode_off_is_noted_where_there_is_a_password(
    own_server: ServerProcess, client: redis_py.Redis
) -> None:
    await configure(client, {**HEALTHY, "bind": "*", "protected-mode": "no"})
    await client.config_set("requirepass", "s3cret")
    await client.aclose()
    report = await examine(Settings.load(url=own_server.url.replace("//", "//:s3cret@")))
    findings = named(report)
    assert findings["protected-mode-off"].severity == "info"
    assert "no-password" not in findings
    assert "s3cret" not in str(report)


async def test_a_user_who_may_not_read_the_configuration_is_told(
    own_server: ServerProcess, client: redis_py.Redis
) -> None:
    await client.acl_setuser(
        "app",
        enabled=True,
        passwords=["+pw"],
        categories=["-@all", "+@connection"],
        commands=["+info"],
    )
    await client.aclose()
    report = await examine(Settings.load(url=own_server.url.replace("//", "//app:pw@")))
    assert "configuration-hidden" in named(report)


async def test_two_servers_are_judged_by_their_roles(
    own_server: ServerProcess, client: redis_py.Redis, shared_server: str
) -> None:
    for name, value in {**HEALTHY, "maxmemory-policy": "allkeys-lru", "appendonly": "no"}.items():
        await client.config_set(name, value)
    await client.aclose()
    report = await examine(Settings.load(url=shared_server, cache_url=own_server.url))
    assert [server.roles for server in report.servers] == [("cache",), ("pubsub", "limits")]
    about_cache = named(one for one in report.findings if one.server == own_server.url)
    assert set(about_cache) == {"default-user-may-do-all"}


async def test_a_server_that_is_away_is_a_finding_and_the_others_are_judged(
    own_server: ServerProcess, client: redis_py.Redis
) -> None:
    await client.aclose()
    report = await examine(Settings.load(url=own_server.url, limits_url="redis://127.0.0.1:1"))
    away = named(report)["unreachable"]
    assert away.severity == "critical"
    assert away.roles == ("limits",)
    assert "state-not-persisted" in named(report)


@pytest.mark.parametrize(
    ("info", "holes"),
    [
        ({"redis_version": "7.0.15"}, {"CVE-2025-49844", "CVE-2024-46981"}),
        ({"redis_version": "7.2.10"}, {"CVE-2025-49844"}),
        ({"redis_version": "7.2.11"}, set()),
        ({"redis_version": "8.2.1"}, {"CVE-2025-49844"}),
        ({"redis_version": "8.2.2"}, set()),
        ({"redis_version": "8.4.0"}, set()),
        (
            {"redis_version": "7.2.4", "valkey_version": "8.1.3"},
            {"CVE-2025-49844", "CVE-2025-67733", "CVE-2026-56684"},
        ),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.5"}, set()),
        (
            {"redis_version": "7.2.4", "valkey_version": "9.0.2"},
            {"CVE-2025-67733", "CVE-2026-27623", "CVE-2026-56684"},
        ),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.1"}, set()),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else None,
)
def test_known_holes_by_version(info: dict[str, str], holes: set[str]) -> None:
    location = urls.parse("redis://127.0.0.1:1")
    server = Server("redis://127.0.0.1:1", location, frozenset(Role), info=info)
    titles = [one.title for one in findings_of(server) if one.check == "known-hole"]
    assert {title.rpartition(" ")[2] for title in titles} == holes


def test_every_check_is_silent_about_a_server_that_told_nothing() -> None:
    location = urls.parse("redis://127.0.0.1:1")
    server = Server("redis://127.0.0.1:1", location, frozenset(Role), error="away")
    assert len(CHECKS) >= 15
    assert [one.check for one in findings_of(server)] == ["unreachable"]


async def test_the_command_shows_findings_and_ends_with_1_when_one_is_critical(
    rtx: Rtx, own_server: ServerProcess
) -> None:
    rtx.env["RTX_URL"] = own_server.url
    ended = await rtx("doctor")
    assert ended.code == 1
    assert "CRITICAL  state is not persisted" in ended.out
    for name in ("seen", "why", "fix"):
        assert f"\n  {name} " in ended.out
    assert max(map(len, ended.lines)) <= 80
    assert "1 critical finding" in ended.out


async def test_the_command_as_json_and_0_when_nothing_is_critical(
    rtx: Rtx, own_server: ServerProcess
) -> None:
    async with redis_py.Redis.from_url(own_server.url) as client:
        await client.config_set("appendonly", "yes")
    rtx.env["RTX_URL"] = own_server.url
    ended = await rtx("doctor", "--json")
    assert ended.code == 0
    report = json.loads(ended.out)
    assert report["servers"][0]["roles"] == ["cache", "pubsub", "limits"]
    assert {"severity", "check", "title", "evidence", "why", "fix", "server", "roles"} == set(
        report["findings"][0]
    )


async def test_the_command_finds_nobody_at_home(rtx: Rtx) -> None:
    ended = await rtx("doctor", "--url", "redis://127.0.0.1:1")
    assert ended.code == 1
    assert "CRITICAL  cannot be reached" in ended.out
    assert ended.out.count("CRITICAL") == 1
