"""Market data, executions and alerts on every server."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

import rtx
from rtx.errors import NotReplicated
from rtx.models import Alert, Tick
from rtx.pubsub import Offset, Work
from tests.conformance.deployments import Deployment, client_of
from tests.conformance.samples import fill, quote, take
from tests.conformance.servers import everywhere
from tests.conftest import eventually

pytestmark = everywhere

SYMBOLS = [f"SYM{number:02d}" for number in range(20)]


async def test_market_data_begins_with_the_price_and_misses_nothing(
    deployment: Deployment, namespace: str
) -> None:
    settings = deployment.settings(namespace, ttl={"price": 60})
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        await other.market_data.publish_many([quote(symbol, 1) for symbol in SYMBOLS])
        async with layer.market_data.subscribe(*SYMBOLS) as ticks:
            await ticks.ready()
            first = await take(ticks, len(SYMBOLS))
            assert {tick.symbol: (tick.bid, tick.lp) for tick in first} == dict.fromkeys(
                SYMBOLS, (1.0, "")
            )
            for number in range(2, 12):
                published = await other.market_data.publish_many(
                    [quote(symbol, number) for symbol in SYMBOLS]
                )
                assert published.count == len(SYMBOLS)
            live = await take(ticks, 10 * len(SYMBOLS))
            for symbol in SYMBOLS:
                bids = [tick.bid for tick in live if tick.symbol == symbol]
                assert bids == [float(number) for number in range(2, 12)]


async def test_another_program_is_heard_on_the_channel(
    deployment: Deployment, layer: rtx.DataLayer, namespace: str
) -> None:
    channel = f"{namespace}:market_data:BTCUSD"
    message = {"type": "tick", "symbol": "BTCUSD", "time": 1705575045123, "bid": 1.5, "ask": 2.5}
    verb = "SPUBLISH" if deployment.case.kind == "cluster" else "PUBLISH"
    async with layer.market_data.subscribe("BTCUSD", snapshot=False) as ticks:
        await ticks.ready()
        async with client_of(await deployment.holder(channel)) as witness:
            assert await witness.execute_command(verb, channel, json.dumps(message)) == 1
        assert await take(ticks, 1) == [Tick("BTCUSD", time=1705575045123, bid=1.5, ask=2.5)]


async def test_executions_are_kept_and_recovered_from_the_log(
    deployment: Deployment, layer: rtx.DataLayer, other: rtx.DataLayer, namespace: str
) -> None:
    for number in range(1, 6):
        position = await other.executions.publish(1, fill(number))
        assert position.seq == number
    epoch = position.epoch
    history = await layer.executions.history(1, after=Offset(epoch, 3))
    assert history.recovered
    assert [(item.order_id, item.seq, item.epoch) for item in history.messages] == [
        (4, 4, epoch),
        (5, 5, epoch),
    ]
    async with layer.executions.subscribe(1, after=Offset(epoch, 2)) as fills:
        await fills.ready()
        assert fills.recovered
        await other.executions.publish(1, fill(6))
        assert [item.seq for item in await take(fills, 4)] == [3, 4, 5, 6]
    async with client_of(
        await deployment.holder(f"{namespace}:executions:1"),
        0 if deployment.case.kind == "cluster" else 1,
    ) as witness:
        entries = await witness.xrange(f"{{{namespace}:executions:1}}:log")
        assert [entry for entry, _ in entries] == [f"{number}-0" for number in range(1, 7)]
        assert json.loads(entries[0][1]["m"])["type"] == "execution"


async def test_a_key_makes_one_message_of_many_publishes(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    given = await asyncio.gather(
        *((layer, other)[n % 2].executions.publish(1, fill(1), key="k") for n in range(10))
    )
    assert set(given) == {given[0]}
    assert (await layer.executions.publish(1, fill(2), key="l")).seq == 2


async def test_durable_messages_have_a_replica_or_are_refused(
    deployment: Deployment, layer: rtx.DataLayer
) -> None:
    if deployment.case.kind == "standalone":
        with pytest.raises(NotReplicated, match="0 replicas"):
            await layer.executions.publish(1, fill(1), durable=True)
        with pytest.raises(NotReplicated, match="0 replicas"):
            await layer.alerts.publish(1, Alert("halt", "info", "now"), durable=True)
        return
    accounts = range(10)  # in a cluster on several nodes
    offsets = await asyncio.gather(
        *(layer.executions.publish(a, fill(n), durable=True) for a in accounts for n in range(5))
    )
    assert sorted(offset.seq for offset in offsets) == sorted([1, 2, 3, 4, 5] * len(accounts))
    assert (await layer.alerts.publish(1, Alert("halt", "info", "now"), durable=True)).seq == 1
    again = await layer.executions.publish(1, fill(9), durable=True, key="k")
    assert await layer.executions.publish(1, fill(9), durable=True, key="k") == again


async def test_a_lost_wake_up_is_found_in_the_log(
    deployment: Deployment, layer: rtx.DataLayer, other: rtx.DataLayer, namespace: str
) -> None:
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        epoch = (await other.executions.publish(1, fill(1))).epoch
        assert (await take(fills, 1))[0].seq == 1
        db = 0 if deployment.case.kind == "cluster" else 1
        holder = await deployment.holder(f"{namespace}:executions:1")
        async with client_of(holder, db) as witness:
            await witness.hincrby(f"{{{namespace}:executions:1}}:meta", "seq", 1)
            message = {**msgspec.to_builtins(fill(2)), "seq": 2, "epoch": epoch}
            await witness.xadd(
                f"{{{namespace}:executions:1}}:log", {"m": json.dumps(message)}, id="2-0"
            )
        gap, second = await take(fills, 2)
        assert isinstance(gap, rtx.Gap)
        assert gap.recovered
        assert second.seq == 2


async def test_workers_of_a_group_share_what_is_to_be_done(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    accounts = range(6)
    for account in accounts:
        await other.executions.publish(account, fill(account))
    did: list[int] = []
    async with layer.executions.work(accounts, "g", idle=0.1, batch=3, deliveries=2) as workers:
        while len(did) < len(accounts):
            item = await anext(workers)
            assert isinstance(item, Work)
            if item.message.order_id == 5:
                if item.deliveries == 2:
                    did.append(5)
                continue
            async with item as execution:
                did.append(execution.order_id)
        last = asyncio.ensure_future(anext(workers))
        await eventually(lambda: layer.executions.stats.dead_letters)
        await other.executions.publish(0, fill(10))
        item = await last
        assert isinstance(item, Work)
        assert await item.done()
    assert sorted(did) == [*accounts]
    assert [one.order_id for one in await layer.executions.dead_letters(5, "g")] == [5]


async def test_alerts_go_to_an_account_and_to_everyone(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    async with layer.alerts.subscribe(1) as own, layer.alerts.subscribe("system") as system:
        await own.ready()
        await system.ready()
        await other.alerts.publish(1, Alert("margin_call", "critical", "m"))
        await other.alerts.publish("system", Alert("halt", "info", "s"))
        assert (await take(own, 1))[0].message == "m"
        assert (await take(system, 1))[0].message == "s"
    assert [item.message for item in (await layer.alerts.history(1)).messages] == ["m"]


async def test_a_cut_connection_is_told_before_the_next_message(
    deployment: Deployment, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    async with (
        layer.market_data.subscribe("EURUSD", snapshot=False) as ticks,
        layer.executions.subscribe(1) as fills,
    ):
        await ticks.ready()
        await fills.ready()
        await other.market_data.publish(quote("EURUSD", 1))
        await other.executions.publish(1, fill(1))
        assert (await take(ticks, 1))[0].bid == 1.0
        assert (await take(fills, 1))[0].seq == 1
        cut = sum([await cut_subscribers(server) for server in await deployment.primaries()])
        assert cut >= 1
        await other.executions.publish(1, fill(2))
        assert await eventually(lambda: layer.hub.stats.losses >= cut)
        await eventually(lambda: layer.hub.down is None)
        heard: list[Tick | rtx.Gap] = []

        async def until_a_tick() -> None:
            async for item in ticks:
                heard.append(item)
                if isinstance(item, Tick) and item.bid == 2.0:
                    return

        listening = asyncio.create_task(until_a_tick())
        await eventually(lambda: heard)
        await other.market_data.publish(quote("EURUSD", 2))
        async with asyncio.timeout(10):
            await listening
        gap, second = await take(fills, 2)
    assert isinstance(heard[0], rtx.Gap)
    assert isinstance(gap, rtx.Gap)
    assert gap.recovered
    assert second.seq == 2


async def cut_subscribers(server: object) -> int:
    """Kill the connections on which this process listens; how many they were."""
    async with client_of(server) as admin:  # type: ignore[arg-type]
        found = [client for client in await admin.client_list() if client["name"] == "rtx"]
        ours = [each for each in found if int(each["sub"]) + int(each.get("ssub", 0))]
        for each in ours:
            await admin.execute_command("CLIENT", "KILL", "ID", each["id"])
    return len(ours)
