"""Looking at every server once, and putting what was found in order."""

from __future__ import annotations

import msgspec

from rtx.errors import SettingsError
from rtx.monitoring.doctor import (
    access,
    clients,
    clusters,
    contents,
    durability,
    machine,
    memory,
    replication,
    sentinels,
    setups,
    versions,
    visibility,
)
from rtx.monitoring.doctor.checks import CHECKS
from rtx.monitoring.doctor.findings import SEVERITIES, Finding, Report, ServerSummary, Unseen
from rtx.monitoring.doctor.gathering import Gathering, Sight
from rtx.monitoring.doctor.groups import Setup, families_of, family, nodes, service, setup
from rtx.monitoring.doctor.host import read_host
from rtx.monitoring.doctor.looking import HostOf
from rtx.monitoring.doctor.server import check, names_of
from rtx.settings import Settings
from rtx.topology import Role

_MODULES = (
    *(access, memory, durability, replication, clients, visibility, contents, machine, versions),
    *(sentinels, clusters, setups),
)
"""Imported for their checks, which register themselves."""


async def examine(
    settings: Settings, *, only: tuple[str, ...] = (), host_of: HostOf = read_host
) -> Report:
    """Look at every server and sentinel that the settings lead to, and judge them.

    Changes nothing, and takes about `looking.DEADLINE` seconds at the most for each round: nodes
    are asked all at once, those that only others name in a second one. A server that cannot be
    reached is a finding, not an error. With `only` the report has the findings of these checks
    alone. `host_of` reads the machine of a server that runs on this one, by its process id.

    Raises `SettingsError` for settings that no server can be reached with, and for a check in
    `only` that there is not.
    """
    unknown = sorted(set(only) - set(CHECKS))
    if unknown:
        raise SettingsError(
            f"there is no check {unknown[0]!r}; they are {', '.join(sorted(CHECKS))}"
        )
    sight = await Gathering(settings, host_of).look()
    return _picked(_judged(settings, sight), only)


def _judged(settings: Settings, sight: Sight) -> Report:
    findings: list[Finding] = []
    unseen: list[Unseen] = []
    for server in sight.servers:
        findings += check.findings(server)
        unseen += () if server.error else check.unseen(server)
    groups = [*(one.servers for one in sight.services), *(one.servers for one in sight.clusters)]
    for servers in groups:
        for one in families_of(servers):
            findings += family.findings(one)
            unseen += family.unseen(one)
    for group in sight.services:
        findings += service.findings(group)
        unseen += service.unseen(group)
    for cluster in sight.clusters:
        findings += nodes.findings(cluster)
        unseen += nodes.unseen(cluster)
    findings += setup.findings(Setup(settings, sight.servers))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        servers=_summaries(sight),
        findings=tuple(findings),
        unseen=tuple(unseen),
        checks=len(CHECKS),
    )


def _summaries(sight: Sight) -> tuple[ServerSummary, ...]:
    found = [
        ServerSummary(url=one.url, roles=one.role_names, part=one.part, version=one.version)
        for one in sight.servers
    ]
    sentinels: dict[str, ServerSummary] = {}
    for group in sight.services:
        for one in group.sentinels:
            known = sentinels.get(str(one.address))
            roles = names_of(group.roles | frozenset(map(Role, known.roles if known else ())))
            number = one.info.get("valkey_version")
            version = f"Valkey {number}" if number else f"Redis {one.info.get('redis_version', '')}"
            sentinels[str(one.address)] = ServerSummary(
                url=str(one.address),
                roles=roles,
                part="sentinel",
                version="" if one.error or not one.info else version,
            )
    return (*found, *sentinels.values())


def _picked(report: Report, only: tuple[str, ...]) -> Report:
    if not only:
        return report
    unseen = (
        msgspec.structs.replace(one, checks=tuple(name for name in one.checks if name in only))
        for one in report.unseen
    )
    return Report(
        servers=report.servers,
        findings=tuple(finding for finding in report.findings if finding.check in only),
        unseen=tuple(one for one in unseen if one.checks),
        checks=len(set(only)),
    )
