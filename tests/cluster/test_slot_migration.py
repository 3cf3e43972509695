"""A slot moves to another node under load: no reply is wrong, lost or doubled."""

from __future__ import annotations

import asyncio

import pytest

import rtx
from rtx.models import Execution, Tick
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from rtx.topology.slots import key_slot
from rtx.wire import Caller
from tests.cluster.load import check_nothing_lost, incrementing
from tests.conftest import eventually

pytestmark = pytest.mark.usefixtures("patient_drills")


def fill(number: int) -> Execution:
    return Execution(order_id=number, position_id=1, symbol="X", side="BUY", volume=1.0, price=1.0)


async def another(cluster: LocalCluster, slot: int) -> ServerProcess:
    """A primary that does not have the slot."""
    owner = await cluster.owner(slot)
    return next(server for server in await cluster.primaries() if server is not owner)


@pytest.mark.parametrize("batched", [False, True], ids=["calls", "batches"])
async def test_counters_count_on_through_migrations(
    cluster: LocalCluster, caller: Caller, namespace: str, batched: bool
) -> None:
    keys = [f"{{{namespace}}}:{n}" for n in range(30)] + [f"{namespace}:{n}" for n in range(10)]
    slot = key_slot(namespace.encode())
    async with incrementing(caller, keys, batched=batched) as ledgers:
        for _ in range(4):
            seen = [ledger.acknowledged for ledger in ledgers]
            await cluster.migrate(slot, await another(cluster, slot))
            await eventually(
                lambda seen=seen: all(
                    ledger.acknowledged > before
                    for ledger, before in zip(ledgers, seen, strict=True)
                )
            )
    assert not any(ledger.errors for ledger in ledgers)
    await check_nothing_lost(caller, ledgers)
    print(f"{sum(each.acknowledged for each in ledgers)} increments, {caller.stats.retries} resent")
    assert caller.stats.retries > 0


async def test_keys_are_found_on_both_sides_of_a_half_moved_slot(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    keys = [f"{{{namespace}}}:{n}" for n in range(20)]
    slot = key_slot(namespace.encode())
    await caller.batch([("SET", key, n) for n, key in enumerate(keys)])
    to = await another(cluster, slot)
    source = await cluster.begin_migration(slot, to)
    await ask(source.port, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys[:10])
    assert await caller.call("MGET", *keys) == [b"%d" % n for n in range(20)]
    assert await caller.call("DEL", *keys[5:15], f"{{{namespace}}}:none") == 10
    assert await caller.call("EXISTS", *keys) == 10
    assert await caller.call("SET", f"{{{namespace}}}:new", "1") is not None
    assert await ask(to.port, "CLUSTER", "COUNTKEYSINSLOT", slot) == 6
    await cluster.move_keys(slot, source, to)
    await cluster.end_migration(slot, source, to)
    assert await caller.call("EXISTS", *keys, f"{{{namespace}}}:new") == 11


async def test_a_log_torn_by_a_migration_is_waited_for(
    cluster: LocalCluster, layer: rtx.DataLayer
) -> None:
    first = await layer.executions.publish(1, fill(1))
    channel = layer.keys.executions(1)
    slot = key_slot(channel.encode())
    to = await another(cluster, slot)
    source = await cluster.begin_migration(slot, to)
    meta = layer.keys.companion(channel, "meta")
    await ask(source.port, "MIGRATE", "127.0.0.1", to.port, meta, 0, 5000)
    before = layer.stats()["wire.pubsub"]["retries"]
    publishing = asyncio.create_task(layer.executions.publish(1, fill(2)))
    await eventually(lambda: layer.stats()["wire.pubsub"]["retries"] > before)  # type: ignore[operator]
    await cluster.move_keys(slot, source, to)
    await cluster.end_migration(slot, source, to)
    second = await publishing
    # The node that has it now begins an epoch of its own, in which the former position is good.
    assert second.seq == 2
    after = await layer.executions.history(1, after=first)
    assert after.recovered
    assert [execution.order_id for execution in after.messages] == [2]


async def test_a_torn_log_that_stays_torn_ends_in_a_typed_error(
    cluster: LocalCluster, settings: rtx.Settings
) -> None:
    quick = settings.model_copy(
        update={"pool": settings.pool.model_copy(update={"pool_timeout": 0.3})}
    )
    async with rtx.open(quick) as layer:
        await layer.executions.publish(1, fill(1))
        channel = layer.keys.executions(1)
        slot = key_slot(channel.encode())
        to = await another(cluster, slot)
        source = await cluster.begin_migration(slot, to)
        meta = layer.keys.companion(channel, "meta")
        await ask(source.port, "MIGRATE", "127.0.0.1", to.port, meta, 0, 5000)
        with pytest.raises(rtx.errors.ServerBusy, match="TRYAGAIN"):
            await layer.executions.publish(1, fill(2))
        await cluster.move_keys(slot, source, to)
        await cluster.end_migration(slot, source, to)
        assert (await layer.executions.publish(1, fill(2))).seq == 2


async def test_a_log_subscription_follows_its_slot_and_misses_nothing(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    slot = key_slot(layer.keys.executions(1).encode())
    received: list[int] = []
    gaps: list[rtx.Gap] = []
    published = 0

    async def consume() -> None:
        async for item in fills:
            if isinstance(item, rtx.Gap):
                gaps.append(item)
            else:
                received.append(item.seq)

    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        consumer = asyncio.create_task(consume())
        for move in range(1, 4):
            moving = asyncio.create_task(cluster.migrate(slot, await another(cluster, slot)))
            while not moving.done() or len(gaps) < move:
                published = (await other.executions.publish(1, fill(published + 1))).seq
            await moving
        await eventually(lambda: len(received) == published)
    await consumer
    assert received == list(range(1, published + 1))
    assert all(gap.recovered for gap in gaps)
    print(f"{published} executions over 3 moves, gaps {[round(g.duration, 4) for g in gaps]} s")


async def test_ticks_follow_their_slot_after_a_gap_and_others_go_on(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    slot = key_slot(layer.keys.market_data("MOVED").encode())
    symbols = ["MOVED", "STAYS", "STAYS2"]
    async with layer.market_data.subscribe(*symbols) as ticks:
        await ticks.ready()
        await cluster.migrate(slot, await another(cluster, slot))
        number = 0
        seen: list[rtx.Tick | rtx.Gap] = []
        async with asyncio.timeout(10):
            while not any(isinstance(item, rtx.Gap) for item in seen):
                number += 1
                await other.market_data.publish_many(
                    [Tick(symbol, bid=float(number), ask=number + 1.0) for symbol in symbols]
                )
                async with asyncio.timeout(1):
                    seen.append(await anext(ticks))
            await layer.market_data.publish(Tick("MOVED", bid=1e6, ask=1e6))
            async for item in ticks:
                seen.append(item)
                if isinstance(item, Tick) and item.bid == 1e6:
                    break
    gap = next(place for place, item in enumerate(seen) if isinstance(item, rtx.Gap))
    moved = [item.bid for item in seen[gap:] if isinstance(item, Tick) and item.symbol == "MOVED"]
    assert moved == sorted(moved)
    for symbol in ("STAYS", "STAYS2"):
        bids = [item.bid for item in seen if isinstance(item, Tick) and item.symbol == symbol]
        assert bids == [float(n) for n in range(1, len(bids) + 1)]
