"""Every check, on facts: silent about a healthy deployment, and finds the fault that is put in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rtx.monitoring.doctor import CHECKS
from rtx.monitoring.doctor.host import read_host
from rtx.monitoring.doctor.parsing import nodes_of
from rtx.monitoring.doctor.server import Server, Slow
from rtx.monitoring.doctor.versions import HOLES
from rtx.topology import Role
from rtx.urls import Address
from tests.doctor.faults import CACHE, FAULTS, in_cluster
from tests.doctor.healthy import (
    STANDALONE,
    USERS,
    Subject,
    family,
    findings,
    nodes,
    replica,
    server,
    service,
    setup,
)

SHIPPED_DEFAULT = ("off", "sanitize-payload", "~*", "&*", "+@all")
"""What ACL LIST says of `user default off resetpass ~* &* +@all`."""


@pytest.mark.parametrize(
    "subject",
    [
        server(),
        replica(2),
        server(
            roles=CACHE, config={"maxmemory-policy": "allkeys-lru", "save": "", "appendonly": "no"}
        ),
        server({"valkey_version": "8.1.9"}, users={**USERS, "default": SHIPPED_DEFAULT}),
        in_cluster({"min-replicas-to-write": "0"}),
        family(),
        service(),
        nodes(),
        setup(),
    ],
    ids=[
        "server",
        "replica",
        "cache",
        "users.acl",
        "node",
        "family",
        "service",
        "cluster",
        "settings",
    ],
)
def test_nothing_is_found_where_all_is_well(subject: Subject) -> None:
    assert findings(subject) == {}


@pytest.mark.parametrize(
    ("name", "severity", "subject", "evidence"),
    FAULTS,
    ids=[f"{name}-{severity}-{number}" for number, (name, severity, *_) in enumerate(FAULTS)],
)
def test_a_fault_is_found_with_its_value_and_its_fix(
    name: str, severity: str, subject: Subject, evidence: str
) -> None:
    finding = findings(subject)[name]
    assert finding.severity == severity
    assert finding.severity in CHECKS[name].severities
    assert evidence in finding.evidence
    for text in (finding.title, finding.why, finding.fix, finding.server):
        assert text
        assert "{" not in text.replace("{executions", "").replace("{alerts", ""), text
    assert "s3cret" not in str(finding)


def test_a_secret_that_others_can_read_is_found(tmp_path: Path) -> None:
    open_file, closed = tmp_path / "open", tmp_path / "closed"
    for path, mode in ((open_file, 0o644), (closed, 0o640)):
        path.write_text("s3cret")
        path.chmod(mode)
    tmp_path.chmod(0o755)
    found = findings(setup(login={"password_file": str(open_file)}))["secret-readable"]
    assert found.evidence.endswith("has mode 644")
    assert found.fix == f"chmod 600 {open_file}"
    assert not findings(setup(login={"password_file": str(closed)}))
    tmp_path.chmod(0o700)  # nobody gets to the file
    assert not findings(setup(login={"password_file": str(open_file)}))


def test_every_check_has_a_planted_fault_and_there_are_many() -> None:
    assert {name for name, *_ in FAULTS} | {"secret-readable"} == set(CHECKS)
    assert len(CHECKS) >= 25


def test_the_title_of_every_check_fits_a_line() -> None:
    assert [name for name, words in CHECKS.items() if len(f"CRITICAL  {words.title}") > 80] == []


def test_a_server_that_told_nothing_is_judged_only_for_that() -> None:
    silent = Server(str(STANDALONE), STANDALONE, frozenset(Role), error="away")
    assert set(findings(silent)) == {"unreachable"}


@pytest.mark.parametrize("source", ["CONFIG GET", "ACL LIST", "INFO", "TIME", "the machine"])
def test_no_check_is_made_without_what_it_needs(source: str) -> None:
    left_out = {name for name, words in CHECKS.items() if source in words.needs}
    assert left_out
    blind = [
        subject if not isinstance(subject, Server) else replace(subject, unseen={source: "NOPERM"})
        for _, _, subject, _ in FAULTS
    ]
    found = {name for one in blind if isinstance(one, Server) for name in findings(one)}
    assert found
    assert not found & left_out


def test_nodes_are_known_by_the_names_that_they_announce_where_certificates_have_those() -> None:
    lines = (
        b"aa 10.0.0.1:6379@16379,node-1,shard-id=1 myself,master - 0 0 1 connected 0-99 [5->-bb]\n"
        b"bb 10.0.0.2:6379@16379 slave,fail aa 0 0 1 connected\n"
        b"cc :0@0 master,noaddr - 0 0 1 disconnected 100 200-201\n"
    )
    asked = Address("10.0.0.1", 6379)
    first, second, third = nodes_of(lines, asked, by_name=True)
    assert [str(one.address) for one in (first, second)] == ["node-1:6379", "10.0.0.2:6379"]
    assert (first.slots, first.moving, first.primary) == (100, 1, "")
    assert (second.failing, second.primary, second.here) == (True, "aa", True)
    assert (third.slots, third.here) == (3, False)
    assert nodes_of(lines, asked)[0].address == asked


def test_a_busy_server_s_lag_and_small_skew_are_no_findings() -> None:
    lagging = {"slave1": "ip=10.0.0.3,port=6379,state=online,offset=900,lag=2"}
    assert findings(server(lagging, skew=0.2, slow=(Slow("GET", 99.0, 1.0),))) == {}
    assert findings(server(events=(Slow("fork", 900.0, 7200.0),))) == {}  # two hours ago


@pytest.mark.parametrize(
    ("version", "holes"),
    [
        ("Redis 7.0.15", {"CVE-2025-49844", "CVE-2024-46981", "CVE-2025-21605", "CVE-2025-32023"}),
        ("Redis 7.2.10", {"CVE-2025-49844"}),
        ("Redis 7.2.15", set()),
        ("Redis 8.2.1", {"CVE-2025-49844", "CVE-2026-23479"}),
        ("Redis 8.8.1", set()),
        ("Redis 9.0.0", set()),
        (
            "Valkey 8.1.3",
            {
                "CVE-2025-49844",
                "CVE-2025-67733",
                "CVE-2026-21863",
                "CVE-2026-23479",
                "CVE-2026-56684",
                "CVE-2026-63639",
            },
        ),
        (
            "Valkey 9.0.2",
            {
                "CVE-2025-67733",
                "CVE-2026-21863",
                "CVE-2026-23479",
                "CVE-2026-27623",
                "CVE-2026-56684",
                "CVE-2026-63639",
            },
        ),
        ("Valkey 9.0.5", set()),
        ("Valkey 9.1.0", {"CVE-2026-56684", "CVE-2026-63639"}),
        ("Valkey 9.1.1", set()),
    ],
)
def test_known_holes_by_version(version: str, holes: set[str]) -> None:
    product, _, number = version.partition(" ")
    info = {f"{product.lower()}_version": number}
    if product == "Redis":
        info["role"] = "master"
    seen = replace(server(), info=info)
    assert seen.version == version
    found = findings(seen).get("known-hole")
    told = found.evidence if found else ""
    assert {hole.name for hole in HOLES if hole.name in told and "CVE" in hole.name} == holes
    july = product == "Redis" and version not in ("Redis 7.2.15", "Redis 8.8.1", "Redis 9.0.0")
    assert ("release of July 2026" in told) == july


def test_the_machine_is_read_for_a_server_of_ours_and_for_no_other(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("7/comm", "valkey-server\n")
    write("7/status", "Name:\tvalkey\nVmSwap:\t   2048 kB\nTHP_enabled:\t1\n")
    write("7/limits", "Limit  Soft  Hard\nMax open files            1024   4096   files\n")
    write("sys/vm/overcommit_memory", "2\n")
    write("sys/net/core/somaxconn", "128\n")
    write("kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
    write("8/comm", "bash\n")
    host = read_host(7, tmp_path, tmp_path)
    assert host is not None
    assert (host.huge_pages, host.overcommit, host.backlog) == ("always", 2, 128)
    assert (host.open_files, host.swapped) == (1024, 2048 * 1024)
    write("7/status", "THP_enabled:\t0\n")  # the server switched them off for itself
    again = read_host(7, tmp_path, tmp_path)
    assert again is not None
    assert again.huge_pages == "never"
    assert read_host(8, tmp_path, tmp_path) is None
    assert read_host(9, tmp_path, tmp_path) is None
