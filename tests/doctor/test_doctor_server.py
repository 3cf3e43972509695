"""The doctor at a real server: faults planted one after the other, and nothing changed by it."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import rtx
from rtx.errors import SettingsError
from rtx.monitoring.doctor import Finding, Report, examine
from rtx.monitoring.doctor.host import Host
from rtx.settings import Settings
from rtx.topology.process import find_server, free_port
from tests.conftest import ROOT, wait_sync

CONF = """
bind 127.0.0.1
save ""
appendonly yes
maxmemory 100mb
latency-monitor-threshold 100
lazyfree-lazy-expire yes
lazyfree-lazy-eviction yes
enable-debug-command local
"""
ALWAYS = {"no-replica", "default-user-may-do-all"}
"""What is found of this server before anything is planted."""

EARLIER = {"access-denied"}
"""What a test cannot take away again: the server counts refusals as long as it lives."""

QUIET = Host(huge_pages="never", overcommit=1, backlog=4096, open_files=65536)


@dataclass
class Ill:
    """The server that faults are planted on."""

    port: int
    process: subprocess.Popen[bytes]
    client: redis.Redis

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def look(self, *only: str, **settings: object) -> Report:
        loaded = Settings.load(**{"url": self.url, **settings})
        return await examine(loaded, only=only, host_of=lambda _: QUIET)


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ill]:
    directory = tmp_path_factory.mktemp("ill")
    conf = directory / "server.conf"
    port = free_port()
    conf.write_text(f"{CONF}port {port}\ndir {directory}\nlogfile {directory}/log\n")
    process = subprocess.Popen([find_server(), str(conf)])
    patience = Retry(NoBackoff(), 0)  # a refusal is an answer
    with closing(redis.Redis(port=port, decode_responses=True, retry=patience)) as client:
        try:
            wait_sync(client.ping)
            yield Ill(port, process, client)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def as_it_was(ill: Ill) -> Iterator[None]:
    """Whatever a test plants is taken away again."""
    before = ill.client.config_get("*")
    yield
    now = ill.client.config_get("*")
    changed = {name: text for name, text in before.items() if text != now[name]}
    for name in sorted(changed, key=lambda name: name != "bind"):
        ill.client.config_set(name, changed[name])
    ill.client.flushall()
    ill.client.config_resetstat()
    ill.client.slowlog_reset()
    ill.client.latency_reset()


def named(report: Report) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


async def test_nothing_else_is_found_of_a_server_that_is_well(ill: Ill) -> None:
    report = await ill.look()
    assert set(named(report)) - EARLIER == ALWAYS
    assert report.unseen == ()
    assert report.count("critical") == 0
    [server] = report.servers
    assert (server.part, server.roles) == ("primary", ("cache", "pubsub", "limits"))


@pytest.mark.parametrize(
    ("config", "check", "severity"),
    [
        ({"maxmemory": "0"}, "memory-without-bound", "warning"),
        ({"maxmemory": "1000gb"}, "memory-beyond-machine", "critical"),
        ({"appendonly": "no"}, "state-not-persisted", "critical"),
        ({"appendonly": "no", "save": "60 1"}, "state-only-in-snapshots", "warning"),
        ({"appendfsync": "no"}, "sync-left-to-the-system", "warning"),
        ({"appendfsync": "always"}, "sync-at-every-write", "info"),
        ({"no-appendfsync-on-rewrite": "yes"}, "no-sync-while-rewriting", "warning"),
        (
            {"stop-writes-on-bgsave-error": "no", "save": "60 1"},
            "failed-snapshots-ignored",
            "warning",
        ),
        ({"maxmemory-policy": "volatile-lru"}, "state-can-be-evicted", "critical"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "0"}, "state-can-be-evicted", "warning"),
        ({"client-output-buffer-limit": "pubsub 0 0 0"}, "subscriber-unbounded", "warning"),
        (
            {"client-output-buffer-limit": "pubsub 1mb 1mb 60"},
            "subscriber-cut-off-early",
            "warning",
        ),
        ({"client-output-buffer-limit": "replica 1mb 1mb 9"}, "replica-cut-off-early", "warning"),
        ({"lazyfree-lazy-expire": "no"}, "freed-in-the-way", "warning"),
        ({"min-replicas-to-write": "1"}, "no-replica-to-spare", "critical"),
        ({"replica-read-only": "no"}, "replica-writable", "warning"),
        ({"slowlog-log-slower-than": "-1"}, "slowlog-off", "warning"),
        ({"slowlog-max-len": "0"}, "slowlog-off", "warning"),
        ({"latency-monitor-threshold": "0"}, "latency-monitor-off", "info"),
        ({"notify-keyspace-events": "KEA"}, "key-events", "warning"),
        ({"busy-reply-threshold": "0"}, "scripts-without-end", "warning"),
        ({"tcp-keepalive": "0"}, "keepalive-off", "warning"),
        ({"timeout": "60"}, "idle-clients-cut-off", "warning"),
        ({"maxclients": "500"}, "pool-too-large", "warning"),
        ({"bind": "*"}, "no-password", "warning"),
        ({"bind": "*", "protected-mode": "no"}, "no-password", "critical"),
    ],
    ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else None,
)
async def test_a_setting_that_is_wrong_is_found(
    ill: Ill, config: dict[str, str], check: str, severity: str
) -> None:
    for name, value in config.items():
        ill.client.config_set(name, value)
    finding = named(await ill.look())[check]
    assert finding.severity == severity
    assert any(name in finding.evidence for name in config), finding.evidence


def _keys(client: redis.Redis) -> None:
    client.set("price:EURUSD", "{}")
    client.set("celery", "x", ex=60)
    client.set("staging:price:EURUSD", "{}", ex=60)
    client.setrange("account:1", 9 << 20, "x")
    client.expire("account:1", 60)


def _database_9(client: redis.Redis) -> None:
    client.execute_command("SELECT", 9)
    client.set("x", "y")
    client.execute_command("SELECT", 0)


def _scripts(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(1_001):
            pipe.script_load(f"return {number}")
        pipe.execute()


def _wrong_password(client: redis.Redis) -> None:
    with suppress(redis.AuthenticationError):
        client.execute_command("AUTH", "nobody", "guess")


PLANTED: list[tuple[str, Callable[[redis.Redis], object], list[str], str]] = [
    (
        "keys",
        _keys,
        ["keys-without-ttl", "foreign-keys", "several-namespaces", "big-keys"],
        "FLUSHALL",
    ),
    ("another database", _database_9, ["other-databases"], "FLUSHALL"),
    (
        "a stall",
        lambda client: client.execute_command("DEBUG", "SLEEP", "0.15"),
        ["slow-commands", "walkers"],
        "PING",
    ),
    ("KEYS *", lambda client: client.keys("*"), ["walkers"], "PING"),
    ("scripts", _scripts, ["too-many-scripts"], "SCRIPT FLUSH"),
    (
        "a guest",
        lambda client: client.execute_command("ACL", "SETUSER", "guest", "on", "nopass", "+get"),
        ["user-without-password"],
        "ACL DELUSER guest",
    ),
    ("a guess", _wrong_password, ["access-denied"], "PING"),
    (
        "a replica",
        lambda client: client.replicaof("127.0.0.1", 1),
        ["is-a-replica", "link-down"],
        "REPLICAOF NO ONE",
    ),
]


@pytest.mark.parametrize(
    ("plant", "checks", "undo"),
    [case[1:] for case in PLANTED],
    ids=[case[0] for case in PLANTED],
)
async def test_what_was_done_to_a_server_is_found(
    ill: Ill, plant: Callable[[redis.Redis], object], checks: list[str], undo: str
) -> None:
    plant(ill.client)
    try:
        found = named(await ill.look(*checks))
        assert set(found) == set(checks)
    finally:
        ill.client.execute_command(*undo.split())


async def test_keys_are_named_with_their_database_and_the_size_of_the_sample(ill: Ill) -> None:
    with ill.client.pipeline(transaction=False) as pipe:
        for number in range(2_000):
            pipe.set(f"price:S{number}", "x")
        pipe.execute()
    finding = named(await ill.look())["keys-without-ttl"]
    assert "of 2,000 keys looked at" in finding.evidence
    looked_at = int(finding.evidence.split(";")[1].split()[0])
    assert 250 <= looked_at <= 300  # a sample, which is bounded


@pytest.mark.parametrize("namespace", ["", "live"])
async def test_nothing_is_found_of_what_the_layer_itself_stores(ill: Ill, namespace: str) -> None:
    settings = Settings.load(url=ill.url, namespace=namespace, concurrency={"jobs": {"limit": 2}})
    async with rtx.open(settings) as layer:
        await layer.prices.put(rtx.Price("EURUSD", bid=1.1, ask=1.2))
        await layer.market_data.publish(rtx.Tick("BTCUSD", bid=1.1, ask=1.2, lp="OANDA"))
        await layer.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.1))
        await layer.alerts.publish(1, rtx.Alert("margin_call", "critical", "98 %"))
        rule = {"id": "r1", "account_id": 1, "kind": "price_above", "symbol": "EURUSD"}
        await layer.alert_rules.put(rtx.AlertRule(**rule, threshold=1.2))
        await layer.sessions.create("ann", [1])
        await layer.limits.orders.hit(1)
        await layer.limits.define("orders", limit=9, per=1.0)
        async with layer.limits.concurrency["jobs"].hold("ann"):
            found = named(await ill.look(namespace=namespace))
    assert set(found) - EARLIER == ALWAYS


async def test_it_asks_only_what_changes_nothing(ill: Ill) -> None:
    _keys(ill.client)
    _database_9(ill.client)
    before = ill.client.config_get("*"), ill.client.execute_command("DEBUG", "DIGEST")
    ill.client.config_resetstat()
    await ill.look()
    stats = ill.client.info("commandstats")
    asked = {name.removeprefix("cmdstat_") for name in stats}
    assert asked <= {
        *("hello", "client|setname", "select", "ping", "info", "config|get", "acl|list"),
        *("slowlog|get", "latency|latest", "time", "scan", "pttl", "memory|usage"),
        *("config|resetstat",),
    }
    assert before == (ill.client.config_get("*"), ill.client.execute_command("DEBUG", "DIGEST"))


async def test_a_user_of_limited_rights_is_told_what_was_not_looked_at(ill: Ill) -> None:
    ill.client.execute_command(
        "ACL", "SETUSER", "app", "on", ">pw", "-@all", "+@connection", "+info"
    )
    _keys(ill.client)
    try:
        report = await ill.look(login={"username": "app", "password": "pw"})
        assert "no-replica" in named(report)  # INFO says so
        assert "state-not-persisted" not in named(report)
        unseen = {one.what: one for one in report.unseen}
        assert set(unseen) == {
            "CONFIG GET",
            "ACL LIST",
            "SLOWLOG GET",
            "LATENCY LATEST",
            "keys",
        } | ({"TIME"} if "TIME" in unseen else set())
        assert "state-not-persisted" in unseen["CONFIG GET"].checks
        assert "NOPERM" in unseen["CONFIG GET"].reason
        assert "keys-without-ttl" in unseen["keys"].checks
    finally:
        ill.client.execute_command("ACL", "DELUSER", "app")


async def test_the_documented_user_of_the_doctor_sees_everything(ill: Ill) -> None:
    page = (ROOT / "docs" / "reference" / "doctor.md").read_text("utf-8")
    [line] = re.findall(r"^ACL SETUSER doctor .*$", page, re.MULTILINE)
    ill.client.execute_command(*line.replace("A-LONG-SECRET", "pw").split())
    _keys(ill.client)
    try:
        report = await ill.look(login={"username": "doctor", "password": "pw"})
    finally:
        ill.client.execute_command("ACL", "DELUSER", "doctor")
    assert report.unseen == ()
    assert "big-keys" in named(report)


async def test_a_wrong_password_is_one_critical_finding_that_does_not_tell_it(ill: Ill) -> None:
    report = await ill.look(login={"username": "engine", "password": "s3cret-guess"})
    assert [(one.check, one.severity) for one in report.findings] == [("login-refused", "critical")]
    assert "s3cret" not in str(report)
    assert report.unseen == ()


async def test_a_frozen_server_is_told_in_time_and_the_others_are_judged(
    ill: Ill, shared_server: str
) -> None:
    ill.client.config_set("maxmemory", "0")
    ill.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        report = await examine(Settings.load(url=shared_server, cache_url=ill.url))
        took = time.monotonic() - began
    finally:
        ill.process.send_signal(signal.SIGCONT)
    print(f"\na frozen server and one that is well: {took:.1f} s")
    frozen = [one for one in report.findings if one.server == ill.url]
    assert [one.check for one in frozen] == ["unreachable"]
    assert frozen[0].roles == ("cache",)
    assert {one.check for one in report.findings if one.server == shared_server} >= {"no-replica"}
    assert took < 30


@pytest.mark.parametrize("bound", ["gathering.ANSWER_WITHIN", "looking.DEADLINE"])
async def test_a_server_that_freezes_while_it_is_asked_is_told_too(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """It took the connection and the login, and says nothing after that."""
    hung = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"SETNAME" not in (await reader.read(4096)).upper():
            pass
        writer.write(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n+OK\r\n")
        await hung.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(f"rtx.monitoring.doctor.{bound}", 0.3)
    try:
        report = await examine(Settings.load(url=f"redis://127.0.0.1:{port}"))
    finally:
        hung.set()
        server.close()
        await server.wait_closed()
    assert [one.check for one in report.findings] == ["unreachable"]


async def test_what_was_seen_before_the_deadline_is_judged(
    ill: Ill, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("rtx.monitoring.doctor.sample.take", endless)
    monkeypatch.setattr("rtx.monitoring.doctor.looking.DEADLINE", 2.0)
    report = await ill.look()
    assert set(named(report)) - EARLIER == ALWAYS
    assert [(one.what, one.reason) for one in report.unseen] == [
        ("keys", "it did not answer all within 2 s")
    ]


async def test_a_server_busy_with_a_script_is_a_finding(ill: Ill) -> None:
    ill.client.config_set("lua-time-limit", "1")
    with closing(redis.Redis(port=ill.port)) as other:
        stuck = asyncio.create_task(asyncio.to_thread(_run_for_ever, other))
        try:
            report = await _until_busy(ill)
        finally:
            ill.client.script_kill()
            await stuck
    [finding] = [one for one in report.findings if one.check == "unreachable"]
    assert "BUSY" in finding.evidence


def _run_for_ever(client: redis.Redis) -> None:
    with suppress(redis.ResponseError):
        client.eval("while true do end", 0)


async def _until_busy(ill: Ill) -> Report:
    async with asyncio.timeout(20):
        while True:
            report = await ill.look()
            if "unreachable" in named(report):
                return report


async def test_two_urls_of_one_server_are_one_server(ill: Ill) -> None:
    report = await ill.look(cache_url=f"redis://localhost:{ill.port}/3")
    assert [server.roles for server in report.servers] == [("cache", "pubsub", "limits")]


async def test_two_servers_are_judged_by_their_roles(ill: Ill, shared_server: str) -> None:
    ill.client.config_set("maxmemory-policy", "allkeys-lru")
    ill.client.config_set("appendonly", "no")
    report = await ill.look(cache_url=ill.url, url=shared_server)
    assert [server.roles for server in report.servers] == [("cache",), ("pubsub", "limits")]
    about_cache = {one.check for one in report.findings if one.server == ill.url}
    assert about_cache - EARLIER == {"default-user-may-do-all"}


async def test_a_server_that_is_away_is_a_finding_and_the_others_are_judged(ill: Ill) -> None:
    report = await ill.look(limits_url="redis://127.0.0.1:1")
    away = named(report)["unreachable"]
    assert (away.severity, away.roles) == ("critical", ("limits",))
    assert "no-replica" in named(report)


async def test_one_check_alone_and_a_check_that_there_is_not(ill: Ill) -> None:
    report = await ill.look("no-replica")
    assert [one.check for one in report.findings] == ["no-replica"]
    assert report.checks == 1
    with pytest.raises(SettingsError, match=r"no check 'no-such'; they are access-denied, "):
        await ill.look("no-such")


async def test_an_embedded_server_can_be_looked_at(tmp_path: Path) -> None:
    report = await examine(Settings.load(url=f"embedded://{tmp_path}/data"))
    assert {"no-conf-file", "memory-without-bound"} <= set(named(report))
    assert report.count("critical") == 0
