"""A cluster and sentinels that speak TLS only, and ask everybody for a certificate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

import rtx
from rtx.errors import ConnectFailed
from rtx.models import Price
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.slots import key_slot
from tests.conformance.deployments import Background
from tests.conformance.drill import Drill
from tests.conformance.samples import fill, quote, take
from tests.conformance.secure import PRIMARIES, SecureCluster, SecureSentinels, tls_server

pytestmark = pytest.mark.timeout(90)

SYMBOLS = [f"SYM{number:02d}" for number in range(30)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SecureCluster]:
    cluster = SecureCluster(tls_server())
    with Background(cluster):
        yield cluster


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SecureSentinels]:
    sentinels = SecureSentinels(tls_server())
    with Background(sentinels):
        yield sentinels


def with_tls(url: str, namespace: str, **tls: str) -> Settings:
    pool = {"min_idle": 1, "connect_timeout": 2}
    return Settings.load(url=url, namespace=namespace, tls=tls, pool=pool)


async def refused(settings: Settings, why: str) -> None:
    with pytest.raises(ConnectFailed, match=why):
        async with rtx.open(settings):
            pass


async def use(layer: rtx.DataLayer, other: rtx.DataLayer) -> None:
    """Caches, channels and limits over all nodes."""
    await layer.prices.put_many([Price(name, bid=1.0, ask=2.0) for name in SYMBOLS])
    async with (
        layer.market_data.subscribe(*SYMBOLS, snapshot=False) as ticks,
        layer.executions.subscribe(1) as fills,
    ):
        await ticks.ready()
        await fills.ready()
        await other.market_data.publish_many([quote(name, 1) for name in SYMBOLS])
        assert {tick.symbol for tick in await take(ticks, len(SYMBOLS))} == set(SYMBOLS)
        assert (await other.executions.publish(1, fill(1))).seq == 1
        assert (await take(fills, 1))[0].order_id == 1
    hits = await asyncio.gather(*(layer.limits.api.hit("ann") for _ in range(120)))
    assert sum(hit.allowed for hit in hits) == 100
    assert (await layer.health()).ready


async def test_who_proves_nothing_is_refused_by_a_cluster(
    cluster: SecureCluster, namespace: str
) -> None:
    papers = cluster.papers
    await refused(with_tls(cluster.url, namespace), "certificate")  # an authority unknown here
    await refused(with_tls(cluster.url, namespace, ca=str(papers.ca)), "no node")
    by_number = cluster.url.replace("localhost", "127.0.0.1")
    await refused(with_tls(by_number, namespace, **papers.settings), "127.0.0.1")
    plain = cluster.url.replace("rediss", "redis")
    await refused(with_tls(plain, namespace), "no node")


async def test_a_cluster_by_host_names_over_tls(cluster: SecureCluster, namespace: str) -> None:
    settings = with_tls(cluster.url, namespace, **cluster.papers.settings)
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        await use(layer, other)
        assert {address.host for address in layer._roles.topology(Role.CACHE).primaries} == {
            "localhost"
        }
        key = f"{namespace}:witness"
        await layer._roles.pool(Role.CACHE).call("SET", key, "seen")
        async with cluster.witness(await cluster.owner(key)) as witness:
            assert await witness.get(key) == b"seen"

        symbol = "MOVED"
        channel = layer.keys.market_data(symbol)
        source = await cluster.owner(channel)
        to = next(server for server in cluster.servers[:PRIMARIES] if server is not source)
        await cluster.migrate(key_slot(channel.encode()), source, to)
        await layer.market_data.publish(quote(symbol, 1))  # MOVED names host and TLS port
        assert await cluster.owner(channel) is to

        account = 1
        while await cluster.owner(layer.keys.executions(account)) is not to:
            account += 1
        key = layer.keys.companion(channel, "count")
        drill = Drill(layer, other, key=key, symbol=symbol, account=account)
        async with drill.running():
            struck = time.monotonic()
            to.kill()
            back = await drill.recovered(struck)
        print(f"TLS cluster, kill -9: writes after {back:.2f} s; {dict(drill.errors)}")
        drill.check_heard()


async def test_who_proves_nothing_is_refused_by_sentinels(
    sentinels: SecureSentinels, namespace: str
) -> None:
    papers = sentinels.papers
    await refused(with_tls(sentinels.url, namespace), "certificate")
    await refused(with_tls(sentinels.url, namespace, ca=str(papers.ca)), "no sentinel")
    plain = sentinels.url.replace("rediss", "redis")
    await refused(with_tls(plain, namespace), "no sentinel")


async def test_sentinels_over_tls_are_followed_through_a_failover(
    sentinels: SecureSentinels, namespace: str
) -> None:
    settings = with_tls(sentinels.url, namespace, **sentinels.papers.settings)
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        await use(layer, other)
        drill = Drill(layer, other, key=f"{namespace}:count", symbol="EURUSD", account=1)
        async with drill.running():
            struck = time.monotonic()
            sentinels.servers[0].kill()
            back = await drill.recovered(struck)
        print(f"TLS sentinels, kill -9: writes after {back:.2f} s; {dict(drill.errors)}")
        drill.check_heard()
