"""users.acl on a cluster: every user does its work there too, and the servers deny it nothing."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import AccessDenied, ServerError
from rtx.models import Account, Alert, Execution, Price, SymbolSpec, Tick
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.slots import key_slot
from tests.conformance.deployments import NODE_TIMEOUT, Background
from tests.conformance.servers import SERVERS, Server
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SYMBOLS = [f"SYM{number:02d}" for number in range(20)]


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make-secrets.sh makes."""
    out = tmp_path_factory.mktemp("cluster") / "secrets"
    subprocess.run(["sh", str(DEPLOY / "make-secrets.sh"), str(out)], check=True, timeout=20)
    return out


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.label)
def cluster(request: pytest.FixtureRequest, passwords: Path) -> Iterator[LocalCluster]:
    """A cluster with these users, and the default user for what sets it up."""
    server: Server = request.param
    binary = server.needed()
    users = passwords / "users-and-default.acl"
    lines = (passwords / "users.acl").read_text().splitlines()
    assert lines[0].startswith("user default off")
    users.write_text("\n".join(["user default on nopass ~* &* +@all", *lines[1:]]) + "\n")
    config = {
        "aclfile": str(users),
        "masteruser": "replica",
        "masterauth": (passwords / "replica-password").read_text(),
    }
    started = LocalCluster(node_timeout=NODE_TIMEOUT, config=config, binary=binary)
    with Background(started):
        yield started


@pytest.fixture
def login(cluster: LocalCluster, passwords: Path) -> Any:
    def settings(user: str) -> Settings:
        password = (passwords / f"{user}-password").read_text()
        url = cluster.url.replace("://", f"://{user}:{password}@", 1)
        return Settings.load(url=url, pool={"min_idle": 1})

    return settings


@pytest.fixture(autouse=True)
async def clean(cluster: LocalCluster) -> None:
    """Neither keys nor denials of the test before."""
    for server in cluster.servers:
        async with redis_py.Redis(port=server.port) as admin:
            await admin.acl_log_reset()
            if (await admin.role())[0] == b"master":
                await admin.flushall()


async def denied(cluster: LocalCluster) -> list[str]:
    """What the nodes denied to whom."""
    found = []
    for server in cluster.servers:
        async with redis_py.Redis(port=server.port, decode_responses=True) as admin:
            entries = await admin.acl_log()
            found += [f"{e['username']}: {e['reason']} {e['object']}" for e in entries]
    return found


def fill(number: int) -> Execution:
    return Execution(number, 1, "EURUSD", "BUY", 1.0, 1.2)


async def test_nothing_is_denied_to_those_who_do_their_work(
    cluster: LocalCluster, login: Any
) -> None:
    async with (
        rtx.open(login("engine")) as engine,
        rtx.open(login("publisher")) as feed,
        rtx.open(login("gateway")) as gateway,
        rtx.open(login("subscriber")) as reader,
    ):
        async with (
            engine.market_data.subscribe(*SYMBOLS) as ticks,
            gateway.market_data.subscribe(*SYMBOLS) as shown,
            reader.market_data.subscribe(*SYMBOLS) as read,
            reader.executions.subscribe(1) as fills,
            gateway.alerts.subscribe("system") as alerts,
        ):
            for each in (ticks, shown, read, fills, alerts):
                await each.ready()
            await feed.market_data.publish_many([Tick(s, bid=1.1, ask=1.2) for s in SYMBOLS])
            await engine.market_data.publish_many([Tick(s, bid=1.2, ask=1.3) for s in SYMBOLS])
            async with asyncio.timeout(10):
                for each in (ticks, shown, read):
                    heard = [await anext(each) for _ in range(2 * len(SYMBOLS))]
                    assert {item.bid for item in heard} == {1.1, 1.2}
                first = await engine.executions.publish(1, fill(1))
                assert (await anext(fills)).order_id == 1
                await engine.alerts.publish("system", Alert("notice", "info", "hello"))
                assert (await anext(alerts)).message == "hello"
        await engine.executions.publish(1, fill(2))
        async with reader.executions.subscribe(1, after=first) as missed:
            assert (await anext(missed)).order_id == 2
        assert len((await gateway.executions.history(1)).messages) == 2
        for layer in (engine, gateway):
            await use_caches_and_limits(layer)
        await engine.prices.put_many([Price(s, bid=1.0, ask=2.0) for s in SYMBOLS])
        for layer in (engine, gateway, reader):
            assert set(await layer.prices.get_many(SYMBOLS)) <= set(SYMBOLS)
        for layer in (engine, feed, gateway, reader):
            assert (await layer.health()).ready
    assert await denied(cluster) == []


async def use_caches_and_limits(layer: rtx.DataLayer) -> None:
    zero = Decimal(0)
    accounts = [Account(n, "RTX", zero, zero, zero, zero, zero, 0) for n in range(20)]
    await layer.accounts.put_many(accounts)
    assert len(await layer.accounts.get_many(range(20))) == 20
    await layer.positions.put(1, ())
    await layer.symbols.put(SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000.0, 0.01))
    token, _ = await layer.sessions.create("ann", [1])
    assert await layer.sessions.get(token)
    assert await layer.sessions.revoke(token)
    await layer.accounts.invalidate(*range(20))
    await layer.positions.invalidate(1)
    for subject in range(5):
        assert (await layer.limits.api.hit(subject)).allowed
        await layer.limits.api.reset(subject)


async def test_redirections_are_followed_by_everyone(cluster: LocalCluster, login: Any) -> None:
    channel = "executions:1"
    slot = key_slot(channel.encode())
    async with rtx.open(login("engine")) as engine, rtx.open(login("subscriber")) as reader:
        await engine.executions.publish(1, fill(1))
        async with reader.executions.subscribe(1) as fills:
            await fills.ready()
            owner = await cluster.owner(slot)
            to = next(each for each in await cluster.primaries() if each is not owner)
            source = await cluster.begin_migration(slot, to)
            keys = [f"{{{channel}}}:meta", f"{{{channel}}}:log"]
            await ask(source.port, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            before = engine._roles.pool(Role.PUBSUB).stats.retries
            assert (await engine.executions.publish(1, fill(2))).seq == 2  # ASK, then ASKING
            assert len((await reader.executions.history(1)).messages) == 2
            assert engine._roles.pool(Role.PUBSUB).stats.retries > before
            await cluster.end_migration(slot, source, to)
            await engine.executions.publish(1, fill(3))
            seen: list[int] = []
            async with asyncio.timeout(10):
                while seen[-1:] != [3]:
                    item = await anext(fills)
                    if isinstance(item, Execution):
                        seen.append(item.seq)
        assert seen == [2, 3]
        for account in range(30):
            await engine.executions.publish(account, fill(1))
    assert await denied(cluster) == []


async def test_what_a_user_has_no_right_to_is_denied(cluster: LocalCluster, login: Any) -> None:
    async with rtx.open(login("publisher")) as layer:
        with pytest.raises(AccessDenied):
            await layer.accounts.get(1)
        with pytest.raises(ServerError, match=r"permission|can't run"):
            await layer.executions.publish(1, fill(1))
    tick = Tick("EURUSD", bid=1.1, ask=1.2)
    for user in ("gateway", "subscriber"):
        async with rtx.open(login(user)) as layer:
            with pytest.raises(AccessDenied):
                await layer.market_data.publish(tick)
            with pytest.raises(ServerError, match=r"permission|can't run"):
                await layer.executions.publish(1, fill(1))
    reasons = await denied(cluster)
    assert {reason.partition(":")[0] for reason in reasons} == {
        "publisher",
        "gateway",
        "subscriber",
    }
