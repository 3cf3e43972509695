"""users.acl: each user can do its work on a real server, and no more; nobody else gets in."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import closing
from pathlib import Path
from shutil import which

import pytest
import redis

import rtx
from rtx import codecs
from rtx.cache.near import NearCache
from rtx.errors import AccessDenied, ConnectFailed, NotReplicated, ServerError
from rtx.pubsub import Work, Workers
from rtx.settings import Settings
from rtx.topology import Role
from tests.conftest import ROOT, eventually, wait_sync

DEPLOY = ROOT / "deploy"
USERS = [line.split()[1] for line in (DEPLOY / "users.acl").read_text("utf-8").splitlines()]


@pytest.fixture
def server(boot, secrets: Path):
    password = (secrets / "health-password").read_text()
    users = str(secrets / "users.acl")
    conf = DEPLOY / "redis.conf"
    return boot(conf, "--aclfile", users, user="health", password=password)


@pytest.fixture
def login(server, secrets: Path):
    def settings(user: str) -> Settings:
        password = (secrets / f"{user}-password").read_text()
        return Settings.load(
            url=f"redis://{user}:{password}@127.0.0.1:{server.port}",
            concurrency={"reports": {"limit": 2}},
        )

    return settings


def test_as_the_file_is_nobody_gets_in(boot) -> None:
    server = boot(DEPLOY / "redis.conf", "--aclfile", str(DEPLOY / "users.acl"))
    for user in (None, *USERS):
        with closing(server.client(user, "")) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


async def test_nobody_gets_in_without_a_password(server) -> None:
    with pytest.raises((AccessDenied, ConnectFailed), match=r"NOAUTH|password"):
        async with rtx.open(Settings.load(url=f"redis://127.0.0.1:{server.port}")):
            pass


async def test_the_engine_can_do_all_that_the_layer_does(login) -> None:
    async with rtx.open(login("engine")) as layer:
        async with (
            layer.market_data.subscribe("*") as ticks,
            layer.executions.subscribe(1) as fills,
        ):
            await ticks.ready()
            await fills.ready()
            await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.2))
            fill = rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.2)
            await layer.executions.publish(1, fill, key="1")
            with pytest.raises(NotReplicated):
                await layer.executions.publish(1, fill, durable=True)
            assert isinstance(await anext(ticks), rtx.Tick)
            assert isinstance(await anext(fills), rtx.Execution)
        await layer.alerts.publish("system", rtx.Alert("notice", "info", "hello"))
        assert len((await layer.alerts.history("system")).messages) == 1
        rule = rtx.AlertRule(
            id="high", account_id=1, kind="price_above", symbol="EURUSD", threshold=1.1
        )
        await layer.alert_rules.put(rule)
        async with layer.alert_rules.engine() as engine:
            await engine.ready()
            await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.2))
            await eventually(lambda: layer.alert_rules.stats.fired)
        assert await layer.alert_rules.rearm(1, "high")
        assert await layer.prices.get("EURUSD")
        await layer.positions.put(1, ())
        await layer.positions.invalidate(1)
        token, _ = await layer.sessions.create("ann", [1])
        assert await layer.sessions.revoke(token)
        assert await layer.sessions.revoke_all("ann") == 0
        assert (await layer.limits.orders.hit(1)).allowed
        await layer.limits.orders.reset(1)
        assert (await layer.health()).ready
        async with layer.executions.work([1], "backoffice", idle=0.05, deliveries=1) as workers:
            await anext(workers)  # and never done
            more = asyncio.create_task(_drain(workers))
            await eventually(lambda: layer.executions.stats.dead_letters)
            await workers.close()
            await more
        assert len(await layer.executions.dead_letters(1, "backoffice")) >= 1


async def _drain(workers: Workers[rtx.Execution]) -> None:
    async for item in workers:
        assert isinstance(item, Work)
        await item.done()


async def test_the_gateway_reads_and_limits_but_publishes_nothing(login) -> None:
    async with rtx.open(login("publisher")) as feed:
        await feed.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.2))
    async with rtx.open(login("gateway")) as layer:
        assert await layer.prices.get("EURUSD")
        async with layer.market_data.subscribe("*") as ticks:
            await ticks.ready()
        assert (await layer.executions.history(1)).messages == []
        rule = rtx.AlertRule(id="call", account_id=1, kind="margin_below", threshold=100)
        assert await layer.alert_rules.put(rule)
        assert await layer.alert_rules.rearm(1, "call")
        assert [state.rule for state in await layer.alert_rules.list(1)] == [rule]
        assert await layer.alert_rules.remove(1, "call")
        token, _ = await layer.sessions.create("ann", [1])
        assert await layer.sessions.get(token)
        assert len(await layer.sessions.of_user("ann")) == 1
        assert await layer.sessions.revoke_all("ann") == 1
        assert (await layer.limits.api.hit("ann")).allowed
        with pytest.raises(AccessDenied):
            await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.2))
        with pytest.raises(ServerError, match=r"permission|can't run"):
            await layer.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.2))


@pytest.mark.parametrize("user", ["engine", "gateway", "subscriber"])
async def test_whoever_subscribes_may_prove_that_messages_arrive(login, user: str) -> None:
    async with rtx.open(login(user)) as layer, layer.alerts.subscribe("system"):
        await eventually(lambda: layer.hub.stats.probe_ms or layer.hub.stats.probe_refusals)
        assert layer.hub.stats.probe_refusals == 0
        if user != "engine":
            with pytest.raises(AccessDenied):
                await layer._roles.pool(Role.PUBSUB).call("PUBLISH", "alerts:system", "forged")


@pytest.mark.parametrize("user", ["engine", "gateway"])
async def test_whoever_counts_may_hold_places(login, user: str) -> None:
    async with rtx.open(login(user)) as layer:
        reports = layer.limits.concurrency["reports"]
        async with reports.hold("ann", wait=1.0), reports.hold("ann"):
            with pytest.raises(rtx.RateLimited):
                await reports.hold("ann").__aenter__()
            assert await reports.taken("ann") == 2
        assert await reports.taken("ann") == 0
        assert reports.stats.errors == 0


@pytest.mark.parametrize("user", ["engine", "gateway"])
async def test_whoever_reads_caches_may_fill_them(login, user: str) -> None:
    async def load(_id: int) -> tuple[rtx.Position, ...]:
        return ()

    async with rtx.open(login(user)) as layer:
        assert await layer.positions.get_or_load(1, load) == ()
        assert await layer.positions.invalidate(1, version=5)
        assert await layer.positions.lookup(1) is None
        await layer.positions.put(1, (), version=6)
        found = await layer.positions.lookup(1)
        assert found is not None
        assert (found.version, found.source) == (6, "redis")
        assert layer.positions.stats.fill_failures == 0
        assert layer.breaker.stats.opened == 0


@pytest.mark.parametrize("user", ["engine", "gateway"])
async def test_whoever_reads_caches_may_keep_them_near(login, user: str) -> None:
    async with rtx.open(login(user)) as layer:
        key = layer.keys.positions(1)
        await layer.positions.put(1, ())
        near = NearCache(layer._roles.homes(Role.CACHE))
        await near.open()
        assert await near.fetch(key, codecs.decode_positions) == ()
        assert near.get(key) == (), near.trouble
        await near.close()


async def test_the_publisher_brings_prices_and_reads_nothing(login) -> None:
    async with rtx.open(login("publisher")) as layer:
        result = await layer.market_data.publish_many([rtx.Tick("EURUSD", bid=1.1, ask=1.2)])
        assert result.count == 1
        with pytest.raises(AccessDenied):
            await layer.accounts.get(1)
        with pytest.raises(ServerError, match=r"permission|can't run"):
            await layer.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.2))


async def test_the_subscriber_follows_and_catches_up_but_writes_nothing(login) -> None:
    async with rtx.open(login("engine")) as engine:
        first = await engine.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.2))
        await engine.executions.publish(1, rtx.Execution(2, 1, "EURUSD", "SELL", 1.0, 1.1))
    async with rtx.open(login("subscriber")) as layer:
        async with layer.executions.subscribe(1, after=first) as fills:
            fill = await anext(fills)
            assert isinstance(fill, rtx.Execution)
            assert fill.order_id == 2
        async with layer.market_data.subscribe("EURUSD") as ticks:
            await ticks.ready()
        with pytest.raises(ServerError, match=r"permission|can't run"):
            await layer.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.2))
        with pytest.raises(AccessDenied):
            await layer.prices.put(rtx.Price("EURUSD", bid=1.1, ask=1.2))


@pytest.mark.parametrize(
    ("user", "allowed", "denied"),
    [
        ("exporter", ["INFO", "SLOWLOG GET", "LATENCY LATEST"], ["CONFIG GET *", "GET account:1"]),
        ("health", ["PING"], ["INFO", "GET account:1"]),
        ("replica", ["PING", "REPLCONF capa psync2"], ["GET account:1", "CONFIG GET *"]),
        ("sentinel", ["INFO", "ROLE"], ["GET account:1", "CONFIG GET *", "FLUSHALL"]),
        ("admin", ["CONFIG GET maxmemory", "INFO", "GET account:1"], []),
    ],
)
def test_a_user_may_do_its_own_work_only(user, allowed, denied, server, secrets: Path) -> None:
    password = (secrets / f"{user}-password").read_text()
    with closing(server.client(user, password)) as client:
        for command in allowed:
            client.execute_command(*command.split())
        for command in denied:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())


def test_a_replica_follows_with_its_own_user(server, boot, secrets: Path) -> None:
    password = (secrets / "replica-password").read_text()
    arguments = ("--masteruser", "replica", "--masterauth", password)
    follower = boot(
        DEPLOY / "redis-state.conf", *arguments, "--replicaof", f"127.0.0.1 {server.port}"
    )
    with closing(follower.client()) as client:
        wait_sync(lambda: client.info("replication")["master_link_status"] == "up")


def test_secrets_are_kept_when_they_are_made_again(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run(["sh", str(DEPLOY / "make-secrets.sh"), str(secrets)], check=True, timeout=20)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700


def test_the_healthcheck_fails_without_the_right_password(server, secrets, tmp_path: Path) -> None:
    if which("redis-cli") is None and which("valkey-cli") is None:
        pytest.skip("neither valkey-cli nor redis-cli is installed")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")

    def check(password: Path) -> int:
        environment = {
            "PATH": "/usr/bin:/bin:/usr/local/bin",
            "HEALTH_PASSWORD_FILE": str(password),
            "HEALTH_PORT": str(server.port),
        }
        script = ["sh", str(DEPLOY / "check-server.sh")]
        return subprocess.run(script, env=environment, capture_output=True, timeout=20).returncode

    assert check(secrets / "health-password") == 0
    assert check(wrong) != 0
    assert check(tmp_path / "missing") != 0
    server.process.kill()
    server.process.wait()
    assert check(secrets / "health-password") != 0
