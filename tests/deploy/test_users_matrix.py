"""What each user of users.acl may do and may not, by the server's own judgement (ACL DRYRUN)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

import rtx
from rtx.errors import AccessDenied
from rtx.settings import Settings
from tests.conformance.servers import SERVERS
from tests.conftest import wait_sync
from tests.deploy.layouts import DEPLOY, Layout

PROGRAMS = ("engine", "gateway", "publisher", "subscriber", "cache", "limiter")
EVERYONE = (*PROGRAMS, "exporter", "health", "replica", "sentinel")

# A command, and who may run it; everybody else but admin may not.
ALLOWED: dict[str, tuple[str, ...]] = {
    "GET account:1": ("engine", "gateway", "cache"),
    "SET account:1 x": ("engine", "gateway", "cache"),
    "GET price:EURUSD": ("engine", "gateway", "publisher", "subscriber", "cache"),
    "SET price:EURUSD x": ("engine", "publisher", "cache"),
    "SET symbol:EURUSD x": ("engine", "gateway", "cache"),
    "DEL positions:1": ("engine", "gateway", "cache"),
    "SET {account:1}:lease x": ("engine", "gateway", "cache"),
    "SET {price:EURUSD}:lease x": ("engine", "cache"),
    "GET session:abc": ("engine", "gateway", "cache"),
    "ZADD sessions:ann 1 abc": ("engine", "gateway", "cache"),
    "APPEND ratelimit:orders:1 x": ("engine", "gateway", "limiter"),
    "HSET ratelimit:config limit:orders x": ("engine", "gateway", "limiter"),
    "HGET ratelimit:config version": PROGRAMS,
    "ZADD concurrency:reports:ann 1 x": ("engine", "gateway", "limiter"),
    "XADD {executions:1}:log 1-0 m x": ("engine",),
    "XRANGE {executions:1}:log - +": ("engine", "gateway", "subscriber"),
    "XRANGE {alerts:system}:log - +": ("engine", "gateway", "subscriber"),
    "PUBLISH market_data:EURUSD x": ("engine", "publisher"),
    "SPUBLISH market_data:EURUSD x": ("engine", "publisher"),
    "PUBLISH executions:1 x": ("engine",),
    "PUBLISH alerts:system x": ("engine",),
    "SUBSCRIBE market_data:EURUSD": ("engine", "gateway", "subscriber"),
    "SSUBSCRIBE executions:1": ("engine", "gateway", "subscriber"),
    "PSUBSCRIBE market_data:*": ("engine", "gateway", "subscriber"),
    "PUBLISH __sentinel__:hello x": ("sentinel",),
    "SUBSCRIBE __sentinel__:hello": ("sentinel",),
    "REPLICAOF NO ONE": ("sentinel",),
    "CONFIG REWRITE": ("sentinel",),
    "CLIENT KILL TYPE normal": ("sentinel",),
    "PSYNC ? -1": ("replica",),
    "SLOWLOG GET": ("exporter",),
    "LATENCY LATEST": ("exporter",),
    "PING": EVERYONE,
}
FORBIDDEN = (
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "CONFIG GET requirepass",
    "CONFIG SET maxmemory 1",
    "DEBUG SLEEP 1",
    "SHUTDOWN NOSAVE",
    "MODULE LIST",
    "ACL LIST",
    "ACL SETUSER x on",
    "SCRIPT FLUSH",
    "FUNCTION LIST",
    "MONITOR",
    "BGSAVE",
    "SAVE",
    "CLUSTER RESET",
    "MIGRATE 127.0.0.1 1 k 0 1",
    "SWAPDB 0 1",
    "GET secret",
    "SET other:1 x",
    "SUBSCRIBE secret",
    "PSUBSCRIBE *",
    "PUBLISH secret x",
)


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.name)
def layout(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Layout]:
    """One server with the shipped users, which the tests only ask."""
    directory: Path = tmp_path_factory.mktemp("users")
    secrets = directory / "secrets"
    subprocess.run(["sh", str(DEPLOY / "make-secrets.sh"), str(secrets)], check=True, timeout=20)
    layout = Layout(request.param.needed(), directory, secrets)
    try:
        layout.add("state", "start-server.sh", [DEPLOY / "redis-state.conf"], MEMORY="100mb")
        wait_sync(lambda: layout.ask("state", "PING"))
        yield layout
    finally:
        layout.stop()


@pytest.fixture
def admin(layout: Layout) -> Iterator[redis.Redis]:
    with closing(layout.client("state")) as client:
        yield client


def may(admin: redis.Redis, user: str, command: str) -> bool:
    answer = admin.execute_command("ACL", "DRYRUN", user, *command.split())
    return answer in ("OK", True)


@pytest.mark.parametrize("command", ALLOWED)
def test_who_may(admin: redis.Redis, command: str) -> None:
    found = {user for user in EVERYONE if may(admin, user, command)}
    assert found == set(ALLOWED[command])
    assert may(admin, "admin", command)


@pytest.mark.parametrize("command", FORBIDDEN)
def test_what_nobody_but_the_admin_may(admin: redis.Redis, command: str) -> None:
    assert [user for user in EVERYONE if may(admin, user, command)] == []
    assert may(admin, "admin", command)


def test_every_user_is_in_the_matrix(layout: Layout) -> None:
    lines = (DEPLOY / "users.acl").read_text("utf-8").splitlines()
    assert {line.split()[1] for line in lines} == {*EVERYONE, "default", "admin"}
    assert all(line.split()[2] == "off" for line in lines)


def settings(layout: Layout, user: str) -> Settings:
    port, password = layout.ports["state"], layout.password(user)
    return Settings.load(url=f"redis://{user}:{password}@127.0.0.1:{port}")


async def test_the_cache_user_keeps_every_cache_and_nothing_else(layout: Layout) -> None:
    async with rtx.open(settings(layout, "cache")) as layer:
        await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
        await layer.positions.put(1, (), version=1)
        assert await layer.positions.get(1) == ()
        assert await layer.positions.invalidate(1, version=2)
        token, _ = await layer.sessions.create("ann", [1])
        assert await layer.sessions.get(token)
        assert await layer.sessions.revoke_all("ann") == 1
        assert (await layer.limits.orders.hit(1)).reason == "access_denied"
        with pytest.raises(AccessDenied):
            await layer.executions.history(1)


async def test_the_limiter_user_counts_and_nothing_else(layout: Layout) -> None:
    async with rtx.open(settings(layout, "limiter")) as layer:
        assert (await layer.limits.orders.hit(1)).allowed
        assert not (await layer.limits.orders.hit(1)).degraded
        await layer.limits.orders.reset(1)
        await layer.limits.override("orders", 7, limit=3)
        with pytest.raises(AccessDenied):
            await layer.prices.get("EURUSD")
