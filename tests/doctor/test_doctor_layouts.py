"""The doctor at what the deployment files start: nothing to say, until a fault is planted."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rtx.monitoring.doctor import Finding, Report, examine
from rtx.monitoring.doctor.host import Host
from rtx.settings import Settings
from rtx.topology.process import find_server
from rtx.topology.slots import SLOTS
from tests.conftest import wait_sync
from tests.deploy.layouts import CONFS, DEPLOY, GROUPS, Layout, whole

QUIET = Host(huge_pages="never", overcommit=1, backlog=4096, open_files=65536)
STATE = ("state-1", "state-2", "state-3")
NODES = tuple(f"node-{number}" for number in range(1, 7))
_OF_TIME = {"slow-commands", "stood-still", "disk-too-slow"}
"""Found where the machine that runs the tests stands still: true, and no fault of the files."""

OF_FROZEN = {"sentinel-in-tilt"}
"""Found for half a minute after a test has frozen a sentinel."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make-secrets.sh makes."""
    out = tmp_path_factory.mktemp("made") / "secrets"
    subprocess.run(["sh", str(DEPLOY / "make-secrets.sh"), str(out)], check=True, timeout=20)
    return out


@pytest.fixture(scope="module")
def ha(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Iterator[Layout]:
    """Two primaries with two replicas each, and three sentinels."""
    directory = tmp_path_factory.mktemp("ha")
    layout = Layout(find_server(), directory, made)
    try:
        _start(layout, directory)
        yield layout
    finally:
        layout.stop()


def _start(layout: Layout, directory: Path) -> None:
    """As `start_ha`, but quicker: copies are not waited for, and sentinels find them in sync."""
    quick = _quick(directory)
    for group, confs in CONFS.items():
        for number in (1, 2, 3):
            more = {"PRIMARY": f"127.0.0.1 {layout.ports[f'{group}-1']}"} if number > 1 else {}
            files = [*(DEPLOY / conf for conf in confs), quick]
            layout.add(f"{group}-{number}", "start-server.sh", files, MEMORY="100mb", **more)
    wait_sync(lambda: all(_in_sync(layout, f"{group}-1", 2) for group in GROUPS), within=30)
    conf = directory / "sentinel.conf"
    conf.write_text(layout.with_our_addresses((DEPLOY / "sentinel.conf").read_text("utf-8")))
    for number in (1, 2, 3):
        layout.add(f"sentinel-{number}", "start-sentinel.sh", [conf])
    wait_sync(lambda: all(whole(layout, group) for group in GROUPS), within=30)


def _quick(directory: Path) -> Path:
    """A copy for a replica begins at once, rather than after a wait for others that want one."""
    (directory / "quick.conf").write_text("repl-diskless-sync-delay 0\n")
    return directory / "quick.conf"


def _in_sync(layout: Layout, primary: str, replicas: int) -> bool:
    told = str(layout.ask(primary, "INFO", "replication"))
    return told.count("'state': 'online'") == replicas or told.count("state=online") == replicas


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Iterator[Layout]:
    """Three primaries with a replica each."""
    directory = tmp_path_factory.mktemp("nodes")
    layout = Layout(find_server(), directory, made)
    files = [DEPLOY / "redis-state.conf", DEPLOY / "redis-cluster.conf", _quick(directory)]
    try:
        for name in NODES:
            layout.add(name, "start-server.sh", files, MEMORY="100mb")
        wait_sync(lambda: all(layout.ask(name, "PING") for name in NODES))
        _join(layout)
        yield layout
    finally:
        layout.stop()


def _join(layout: Layout) -> None:
    for number, name in enumerate(NODES[:3]):
        first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
        layout.ask(name, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        layout.ask(name, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
    for name in NODES[1:]:
        layout.ask("node-1", "CLUSTER", "MEET", "127.0.0.1", str(layout.ports[name]))

    known = "cluster_known_nodes:6"
    wait_sync(lambda: all(known in str(layout.ask(n, "CLUSTER", "INFO")) for n in NODES), within=20)
    for replica, primary in zip(NODES[3:], NODES[:3], strict=True):
        layout.ask(replica, "CLUSTER", "REPLICATE", str(layout.ask(primary, "CLUSTER", "MYID")))
    wait_sync(lambda: _is_whole(layout), within=20)


def _is_whole(layout: Layout) -> bool:
    for name in NODES:
        if "cluster_state:ok" not in str(layout.ask(name, "CLUSTER", "INFO")):
            return False
        if str(layout.ask(name, "CLUSTER", "NODES")).count("slave") < 3:
            return False
    return all(_in_sync(layout, name, 1) for name in NODES[:3])


def settings_of(layout: Layout, file: str, directory: Path, user: str = "admin") -> Settings:
    """The shipped settings with another user."""
    text = layout.with_our_addresses((DEPLOY / file).read_text("utf-8"))
    (directory / "rtx.toml").write_text(
        text.replace('"gateway"', f'"{user}"').replace("gateway-password", f"{user}-password")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTX_CONFIG", str(directory / "rtx.toml"))
        return Settings.load()


async def look(settings: Settings) -> Report:
    return await examine(settings, host_of=lambda _: QUIET)


def names(report: Report) -> set[str]:
    return {finding.check for finding in report.findings} - _OF_TIME


def named(report: Report) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


# --- sentinels -------------------------------------------------------------------------------


@pytest.fixture
def shipped(ha: Layout, tmp_path: Path) -> Settings:
    return settings_of(ha, "rtx.ha.toml", tmp_path)


async def test_nothing_is_found_of_the_shipped_layout_with_failover(
    ha: Layout, shipped: Settings
) -> None:
    report = await look(shipped)
    assert names(report) == set()
    assert report.unseen == ()
    parts = [(server.part, server.roles) for server in report.servers]
    assert parts.count(("primary", ("cache",))) == 1
    assert parts.count(("replica", ("cache",))) == 2
    assert parts.count(("primary", ("pubsub", "limits"))) == 1
    assert parts.count(("replica", ("pubsub", "limits"))) == 2
    assert parts.count(("sentinel", ("cache", "pubsub", "limits"))) == 3
    assert all(server.version for server in report.servers)


def _set(server: str, name: str, value: str) -> Callable[[Layout], Callable[[], object]]:
    def plant(layout: Layout) -> Callable[[], object]:
        with closing(layout.client(server)) as client:
            before = client.config_get(name)[name]
        layout.ask(server, "CONFIG", "SET", name, value)
        return lambda: layout.ask(server, "CONFIG", "SET", name, before)

    return plant


def _on_replicas(name: str, value: str) -> Callable[[Layout], Callable[[], object]]:
    def plant(layout: Layout) -> Callable[[], object]:
        undo = [_set(server, name, value)(layout) for server in STATE[1:]]
        return lambda: [one() for one in undo]

    return plant


def _sentinel_set(name: str, value: str, before: str) -> Callable[[Layout], Callable[[], object]]:
    def plant(layout: Layout) -> Callable[[], object]:
        words = ("SENTINEL", "SET", "trading-state", name)
        layout.ask("sentinel-2", *words, value)
        return lambda: layout.ask("sentinel-2", *words, before)

    return plant


def _user_of_one(layout: Layout) -> Callable[[], object]:
    layout.ask("state-2", "ACL", "SETUSER", "engine", "off")
    return lambda: layout.ask("state-2", "ACL", "SETUSER", "engine", "on")


def _password_of_one(layout: Layout) -> Callable[[], object]:
    layout.ask("state-3", "ACL", "SETUSER", "engine", ">another")
    return lambda: layout.ask("state-3", "ACL", "SETUSER", "engine", "<another")


def _frozen(name: str) -> Callable[[Layout], Callable[[], object]]:
    def plant(layout: Layout) -> Callable[[], object]:
        process = layout.running[name]
        process.send_signal(signal.SIGSTOP)
        return lambda: process.send_signal(signal.SIGCONT)

    return plant


@pytest.mark.parametrize(
    ("plant", "check", "severity", "where"),
    [
        (
            _set("state-1", "min-replicas-to-write", "0"),
            "writes-without-replicas",
            "warning",
            "state-1",
        ),
        (
            _set("state-1", "min-replicas-to-write", "2"),
            "no-replica-to-spare",
            "warning",
            "state-1",
        ),
        (_set("state-1", "repl-backlog-size", "16kb"), "backlog-short", "warning", "state-1"),
        (_set("state-2", "maxmemory", "50mb"), "settings-differ", "warning", "state-2"),
        (_set("state-3", "appendonly", "no"), "settings-differ", "warning", "state-3"),
        (_set("state-2", "masterauth", ""), "cannot-rejoin", "critical", "state-2"),
        (_on_replicas("replica-priority", "0"), "none-may-be-promoted", "critical", "state-1"),
        (_user_of_one, "users-differ", "critical", "state-2"),
        (_password_of_one, "users-differ", "critical", "state-3"),
        (
            _set("cache-1", "maxmemory-policy", "noeviction"),
            "cache-refuses-when-full",
            "warning",
            "cache-1",
        ),
        (_set("cache-2", "save", "60 1"), "cache-persisted", "info", "cache-2"),
        (
            _sentinel_set("down-after-milliseconds", "1000", "5000"),
            "down-after-short",
            "warning",
            "sentinel-2",
        ),
        (
            _sentinel_set("down-after-milliseconds", "60000", "5000"),
            "down-after-long",
            "warning",
            "sentinel-2",
        ),
        (_sentinel_set("quorum", "1", "2"), "odd-quorum", "warning", "sentinel-2"),
        (_sentinel_set("quorum", "4", "2"), "no-quorum", "critical", "sentinel-2"),
        (_frozen("sentinel-3"), "sentinel-away", "warning", "sentinel-3"),
        (_frozen("state-2"), "unreachable", "critical", "state-2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_fault_of_one_is_found_and_named(
    ha: Layout,
    shipped: Settings,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Layout], Callable[[], object]],
    check: str,
    severity: str,
    where: str,
) -> None:
    monkeypatch.setattr("rtx.monitoring.doctor.gathering.ANSWER_WITHIN", 0.7)
    undo = plant(ha)
    try:
        finding = named(await look(shipped))[check]
    finally:
        undo()
    assert finding.severity == severity
    assert finding.server == f"127.0.0.1:{ha.ports[where]}"


async def test_users_of_limited_rights_are_told_what_was_not_looked_at(
    ha: Layout, tmp_path: Path
) -> None:
    report = await look(settings_of(ha, "rtx.ha.toml", tmp_path, "exporter"))
    assert report.count("critical") == 0
    unseen = {one.what: one for one in report.unseen}
    assert {"CONFIG GET", "ACL LIST"} <= set(unseen)
    left_out = {name for one in report.unseen if one.what == "CONFIG GET" for name in one.checks}
    assert {"state-not-persisted", "settings-differ"} <= left_out
    blind = await look(settings_of(ha, "rtx.ha.toml", tmp_path, "subscriber"))
    assert "INFO" in {one.what for one in blind.unseen}
    assert names(blind) - OF_FROZEN == set()


async def test_a_wrong_password_is_told_for_servers_and_for_sentinels(
    ha: Layout, shipped: Settings
) -> None:
    wrong = {"username": "admin", "password": "s3cret-guess"}
    report = await look(Settings.load(**{**_urls(shipped), "login": wrong, **_sentinels(shipped)}))
    assert names(report) - OF_FROZEN == {"login-refused"}
    assert sum(1 for one in report.findings if one.check == "login-refused") == 6
    report = await look(Settings.load(**_urls(shipped), login={**wrong}))
    assert {"no-sentinels", "sentinel-away"} == {one.check for one in report.findings}
    assert report.count("critical") == 2  # one for each service
    assert "s3cret" not in str(report)


def _urls(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in ("cache_url", "pubsub_url", "limits_url")}


def _sentinels(settings: Settings) -> dict[str, object]:
    return {"sentinel_login": settings.sentinel_login}


# --- a cluster -------------------------------------------------------------------------------


@pytest.fixture
def of_nodes(nodes: Layout, tmp_path: Path) -> Settings:
    return settings_of(nodes, "rtx.cluster.toml", tmp_path)


async def test_nothing_is_found_of_the_shipped_cluster(nodes: Layout, of_nodes: Settings) -> None:
    report = await look(of_nodes)
    assert names(report) == set()
    assert report.unseen == ()
    assert [server.part for server in report.servers].count("primary") == 3
    assert [server.part for server in report.servers].count("replica") == 3


def _slot_without_node(layout: Layout) -> Callable[[], object]:
    layout.ask("node-1", "CLUSTER", "DELSLOTS", "0")
    return lambda: layout.ask("node-1", "CLUSTER", "ADDSLOTS", "0")


def _migration_left_open(layout: Layout) -> Callable[[], object]:
    to = str(layout.ask("node-2", "CLUSTER", "MYID"))
    layout.ask("node-1", "CLUSTER", "SETSLOT", "5", "MIGRATING", to)
    return lambda: layout.ask("node-1", "CLUSTER", "SETSLOT", "5", "STABLE")


@pytest.mark.parametrize(
    ("plant", "check", "severity", "where"),
    [
        (_set("node-1", "cluster-node-timeout", "900"), "node-timeout", "warning", "node-1"),
        (
            _set("node-2", "cluster-require-full-coverage", "yes"),
            "full-coverage-required",
            "info",
            "node-2",
        ),
        (
            _set("node-3", "cluster-allow-reads-when-down", "yes"),
            "reads-while-down",
            "warning",
            "node-3",
        ),
        (
            _set("node-5", "cluster-replica-no-failover", "yes"),
            "failover-forbidden",
            "warning",
            "node-5",
        ),
        (_set("node-4", "maxmemory", "50mb"), "settings-differ", "warning", "node-4"),
        (_migration_left_open, "slots-moving", "warning", "node-1"),
        (_slot_without_node, "nodes-disagree", "critical", ""),
        (_frozen("node-6"), "unreachable", "critical", "node-6"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_fault_of_one_node_is_found_and_named(
    nodes: Layout,
    of_nodes: Settings,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Layout], Callable[[], object]],
    check: str,
    severity: str,
    where: str,
) -> None:
    monkeypatch.setattr("rtx.monitoring.doctor.gathering.ANSWER_WITHIN", 0.7)
    undo = plant(nodes)
    try:
        finding = named(await look(of_nodes))[check]
    finally:
        undo()
    assert finding.severity == severity
    if where:
        assert finding.server == f"127.0.0.1:{nodes.ports[where]}"
