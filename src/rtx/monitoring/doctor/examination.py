"""Looking at every server once, and putting what was found in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from rtx.errors import RtxError
from rtx.monitoring.doctor import access, durability, memory, versions, visibility
from rtx.monitoring.doctor.findings import (
    CHECKS,
    SEVERITIES,
    Finding,
    Report,
    ServerSummary,
    findings_of,
)
from rtx.monitoring.doctor.server import Server, look_at
from rtx.security import LoginSettings
from rtx.settings import Settings
from rtx.topology import Role, Roles

_MODULES = (access, memory, durability, visibility, versions)
"""Imported for their checks, which register themselves."""


async def examine(settings: Settings) -> Report:
    """Look at the servers of all roles and judge them. Changes nothing.

    A server that cannot be reached is a finding, not an error. Raises `SettingsError` for settings
    that no server can be reached with.
    """
    Roles(settings)
    seen = await asyncio.gather(*(_look(settings, role) for role in Role))
    servers = _joined(seen)
    findings = [finding for server in servers for finding in findings_of(server)]
    findings.sort(key=_order)
    return Report(
        servers=tuple(
            ServerSummary(url=server.url, roles=server.role_names, version=server.version)
            for server in servers
        ),
        findings=tuple(findings),
        checks=len(CHECKS),
    )


def _order(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)


async def _look(settings: Settings, role: Role) -> tuple[str, Server]:
    login = getattr(settings, f"{role.value}_login")
    if login == LoginSettings():
        login = settings.login
    alone = settings.model_copy(
        update={
            "url": getattr(settings, f"{role.value}_url") or settings.url,
            "login": login,
            **{f"{each.value}_url": None for each in Role},
            **{f"{each.value}_login": LoginSettings() for each in Role},
            # Few connections: the server may be ill, and this is a look.
            "pool": settings.pool.model_copy(update={"size": 1, "min_idle": 0}),
        }
    )
    location = settings.location(role.value)
    roles = Roles(alone)
    try:
        await roles.open()
    except RtxError as error:
        return "", Server(str(location), location, frozenset({role}), error=str(error))
    try:
        return await look_at(roles.pool(role), str(location), location, {role})
    finally:
        await roles.close()


def _joined(seen: list[tuple[str, Server]]) -> list[Server]:
    """One entry per server: two URLs may lead to the same one, which its run id tells."""
    servers: dict[str, Server] = {}
    for run_id, server in seen:
        key = run_id or server.url
        known = servers.get(key)
        roles = server.roles if known is None else known.roles | server.roles
        servers[key] = replace(known or server, roles=roles)
    return list(servers.values())
