"""Checks of our own settings, against the servers that they lead to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from rtx import urls
from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.groups import Setup, setup
from rtx.monitoring.doctor.server import is_loopback
from rtx.security import LoginSettings

_URLS = ("url", "cache_url", "pubsub_url", "limits_url", "database_url")


@setup(
    "warning",
    title="a few programs use up all connections of a server",
    why="each program may open pool.size for each role: in a burst the next one is refused, and "
    "the sentinels with it",
    fix="lower pool.size (RTX_POOL__SIZE=20), or CONFIG SET maxclients to more",
)
def pool_too_large(group: Setup) -> Iterator[Seen]:
    for server in group.servers:
        most = server.number("maxclients") or server.size("maxclients")
        wanted = group.settings.pool.size * len(server.roles)
        if most and wanted * 2 > most:
            yield Seen(
                f"pool.size {group.settings.pool.size} for {len(server.roles)} roles is {wanted} "
                f"of maxclients {most}, for each program",
                server=server.name,
            )


@setup(
    "info",
    title="a password is in a URL",
    why="URLs end up in logs, in process lists and in bug reports",
    fix="take it out of {setting}, and put it into a file: [login] username = …, password_file = …",
)
def password_in_url(group: Setup) -> Iterator[Seen]:
    for name in _URLS:
        value: SecretStr | None = getattr(group.settings, name)
        if value is None:
            continue
        login, at, _ = value.get_secret_value().partition("://")[2].rpartition("@")
        if at and login.partition(":")[2]:
            yield Seen(f"{name} has one", facts={"setting": name})


@setup(
    "warning",
    title="other users of this machine can read a secret",
    why="who reads the password can trade as the engine does",
    fix="chmod 600 {file}",
)
def secret_readable(group: Setup) -> Iterator[Seen]:
    for path in _secret_files(group):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            closed = not path.parent.stat().st_mode & 0o007
        except OSError:
            continue
        if mode & 0o007 and not closed:
            yield Seen(f"{path} has mode {mode:03o}", facts={"file": str(path)})


@setup(
    "warning",
    title="certificates of servers are not verified",
    why="anybody on the way can be the server: they read passwords and send prices",
    fix="tls.verify = true, and tls.ca with the certificate of your authority",
)
def certificates_unverified(group: Setup) -> Iterator[Seen]:
    over_tls = [s.name for s in group.servers if getattr(s.location, "tls", False)]
    if over_tls and not group.settings.tls.verify:
        yield Seen(f"tls.verify is off, for {over_tls[0]}")


@setup(
    "critical",
    title="the gateway lets everybody in from other machines",
    why="without a login whoever reaches its port reads every account and places orders",
    fix='gateway.auth = "required", and gateway.users; or gateway.host = "127.0.0.1"',
)
def gateway_open(group: Setup) -> Iterator[Seen]:
    gateway = group.settings.gateway
    if gateway.auth == "open" and not is_loopback(gateway.host):
        yield Seen(f'gateway.auth "open", gateway.host {gateway.host}')


@setup(
    "warning",
    title="orders pass without a limit while its server is away",
    why="an outage is when programs repeat their orders; the limit is then what keeps them from "
    "doing so",
    fix='limits.orders.when_down = "closed", or "local"',
)
def orders_unlimited(group: Setup) -> Iterator[Seen]:
    if group.settings.named_limits["orders"].when_down == "open":
        yield Seen('limits.orders.when_down "open"')


@setup(
    "info",
    title="the URL names one node of the cluster",
    why="a program that starts while this node is away does not find the others",
    fix="name three or more: redis+cluster://node-1:6379,node-2:6379,node-3:6379",
)
def one_entry(group: Setup) -> Iterator[Seen]:
    locations = {server.location for server in group.servers}
    for location in locations:
        if isinstance(location, urls.Cluster) and len(location.nodes) == 1:
            yield Seen(str(location))


def _secret_files(group: Setup) -> Iterator[Path]:
    settings = group.settings
    for name in ("login", "cache_login", "pubsub_login", "limits_login", "sentinel_login"):
        login: LoginSettings = getattr(settings, name)
        if login.password_file is not None:
            yield login.password_file
    if settings.tls.key is not None:
        yield settings.tls.key
    path = Path(os.environ.get("RTX_CONFIG") or "rtx.toml")
    secret = any(
        getattr(settings, name).password is not None
        for name in ("login", "cache_login", "pubsub_login", "limits_login", "sentinel_login")
    ) or any(password_in_url(group))
    if secret and path.exists():
        yield path
