"""A primary dies, freezes or hands over under load."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections import Counter

import rtx
from rtx.models import Execution, Tick
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from rtx.wire import Caller
from tests.cluster.load import Ledger, check_nothing_lost, incrementing
from tests.conftest import eventually


async def placed(cluster: LocalCluster, victim: ServerProcess, names: list[str]) -> list[bool]:
    """Which of these names the victim has."""
    return [await cluster.primary_of(name) is victim for name in names]


def fill(number: int) -> Execution:
    return Execution(order_id=number, position_id=1, symbol="X", side="BUY", volume=1.0, price=1.0)


async def promotion(replica: ServerProcess) -> float:
    """The moment at which a replica says that it is a primary."""
    while True:
        role = await ask(replica.port, "ROLE")
        if isinstance(role, list) and role[0] == b"master":
            return time.monotonic()
        await asyncio.sleep(0.01)


def pause_around(ledger: Ledger, moment: float) -> float:
    """Seconds from the moment to the next success."""
    return next(at for at in ledger.succeeded_at if at > moment) - moment


async def _fails_over(
    cluster: LocalCluster, caller: Caller, namespace: str, signum: signal.Signals
) -> None:
    keys = [f"{namespace}:{n}" for n in range(30)]
    victim = await cluster.primary_of(keys[0])
    replica = await cluster.replica_of(victim)
    theirs = await placed(cluster, victim, keys)
    async with incrementing(caller, keys) as ledgers:
        await eventually(lambda: all(ledger.acknowledged > 20 for ledger in ledgers))
        victim.kill(signum)
        killed = time.monotonic()
        promoted = await promotion(replica)
        away = [ledger for ledger, here in zip(ledgers, theirs, strict=True) if here]
        await eventually(lambda: all(each.succeeded_at[-1] > promoted for each in away), within=5)
    back = max(pause_around(each, promoted) for each in away)
    errors = sum((each.errors for each in ledgers), Counter())
    print(
        f"{signum.name}: promoted after {promoted - killed:.2f} s, writes {back * 1000:.0f} ms "
        f"later; errors {dict(errors)}"
    )
    assert back < 0.5, "300 ms on a machine that does nothing else"
    for ledger, here in zip(ledgers, theirs, strict=True):
        if not here:
            assert not ledger.errors, "a healthy node's writers notice nothing"
            assert not ledger.wrong
        else:
            assert sum(ledger.errors.values()) <= 2, "waits for the new primary, does not fail"


async def test_a_killed_primary_is_replaced(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    await _fails_over(cluster, caller, namespace, signal.SIGKILL)


async def test_a_frozen_primary_is_replaced(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    await _fails_over(cluster, caller, namespace, signal.SIGSTOP)


async def test_a_planned_failover_loses_nothing_acknowledged(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    keys = [f"{namespace}:{n}" for n in range(30)]
    async with incrementing(caller, keys) as ledgers:
        for _ in range(2):
            victim = await cluster.primary_of(keys[0])
            await cluster.failover(victim)
            moment = time.monotonic()
            await eventually(
                lambda moment=moment: all(each.succeeded_at[-1] > moment for each in ledgers)
            )
            await cluster.settled()
    times = [sorted(each.succeeded_at) for each in ledgers]
    longest = max(b - a for each in times for a, b in itertools.pairwise(each))
    print(f"longest pause {longest:.3f} s; errors {sum((e.errors for e in ledgers), Counter())}")
    assert longest < 1.5
    await check_nothing_lost(caller, ledgers)


async def test_subscribers_are_told_of_the_gap_and_live_again(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    symbols = [f"S{n}" for n in range(12)]
    victim = await cluster.primary_of(layer.keys.market_data("S0"))
    channels = [layer.keys.market_data(symbol) for symbol in symbols]
    here = await placed(cluster, victim, channels)
    on_victim = {symbol for symbol, is_here in zip(symbols, here, strict=True) if is_here}
    logs = [layer.keys.executions(n) for n in range(12)]
    account = (await placed(cluster, victim, logs)).index(True)
    seen: list[tuple[float, rtx.Tick | rtx.Gap]] = []
    fills: list[Execution | rtx.Gap] = []
    stop = False

    async def publish() -> None:
        number = 0
        while not stop:
            number += 1
            for symbol in symbols:
                try:
                    await other.market_data.publish(
                        Tick(symbol, bid=float(number), ask=number + 1.0)
                    )
                except rtx.errors.Unavailable:
                    continue
            await asyncio.sleep(0.02)

    async def consume() -> None:
        async for tick in ticks:
            seen.append((time.monotonic(), tick))  # noqa: PERF401 others look at it meanwhile

    async def consume_fills() -> None:
        async for item in executions:
            fills.append(item)  # noqa: PERF401

    async with (
        layer.market_data.subscribe(*symbols) as ticks,
        layer.executions.subscribe(account) as executions,
    ):
        await ticks.ready()
        await executions.ready()
        tasks = [asyncio.create_task(each) for each in (publish(), consume(), consume_fills())]
        await eventually(lambda: len(seen) > 100)
        first = await other.executions.publish(account, fill(1))
        await eventually(lambda: len(fills) == 1)
        victim.kill()
        killed = time.monotonic()
        await eventually(lambda: other.stats()["wire.pubsub"]["lost"])
        second = await other.executions.publish(account, fill(2))
        await eventually(lambda: any(isinstance(item, Execution) for item in fills[1:]))
        await eventually(lambda: any(isinstance(item, rtx.Gap) for _, item in seen))
        gap_at, gap = next((at, item) for at, item in seen if isinstance(item, rtx.Gap))
        await eventually(
            lambda: (
                {item.symbol for at, item in seen if isinstance(item, Tick) and at > gap_at}
                == set(symbols)
            )
        )
        stop = True
        await tasks[0]
    await asyncio.gather(*tasks)
    assert isinstance(gap, rtx.Gap)
    print(f"market data back after {gap_at - killed:.2f} s, of which told {gap.duration:.2f} s")
    lost = [
        item
        for at, item in seen
        if killed + 0.2 < at < gap_at and isinstance(item, Tick) and item.symbol in on_victim
    ]
    assert not lost, "nothing of a lost channel comes before its gap"
    others = [at for at, item in seen if isinstance(item, Tick) and item.symbol not in on_victim]
    quiet = max(b - a for a, b in itertools.pairwise(others))
    print(f"longest silence of the symbols on other nodes {quiet:.3f} s")
    assert quiet < 0.5
    notices = [item for item in fills if isinstance(item, rtx.Gap)]
    assert notices, "the log's subscriber is told as well"
    if second.epoch == first.epoch:
        assert [item.seq for item in fills if isinstance(item, Execution)] == [1, 2]


async def test_no_subscriber_stays_behind_on_a_demoted_primary(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    channel = layer.keys.executions(1)
    async with layer.executions.subscribe(1) as executions:
        await executions.ready()
        await other.executions.publish(1, fill(1))
        former = await cluster.primary_of(channel)
        await cluster.failover(former)

        async def left() -> bool:
            reply = await ask(former.port, "PUBSUB", "SHARDCHANNELS", channel)
            return reply == []

        await eventually(left)
        await other.executions.publish(1, fill(2))
        received: list[Execution | rtx.Gap] = []
        async with asyncio.timeout(5):
            async for item in executions:
                received.append(item)
                if isinstance(item, Execution) and item.seq == 2:
                    break
    assert [item.seq for item in received if isinstance(item, Execution)] == [1, 2]
    assert all(item.recovered for item in received if isinstance(item, rtx.Gap))


async def test_calls_fail_at_once_in_an_outage_that_lasts(
    cluster: LocalCluster, settings: rtx.Settings, namespace: str
) -> None:
    quick = settings.model_copy(
        update={"pool": settings.pool.model_copy(update={"pool_timeout": 0.5})}
    )
    key = f"{namespace}:key"
    async with rtx.open(quick) as layer:
        caller = layer._roles.pool(rtx.topology.Role.CACHE)
        primary = await cluster.primary_of(key)
        replica = await cluster.replica_of(primary)
        replica.kill()
        primary.kill()
        with contextlib.suppress(rtx.errors.ConnectionLost):
            await caller.call("SET", key, 1)  # may still be sent into the dying connection
        started = time.monotonic()
        first = await asyncio.gather(caller.call("SET", key, 1), return_exceptions=True)
        waited = time.monotonic() - started
        second = await asyncio.gather(caller.call("SET", key, 1), return_exceptions=True)
        again = time.monotonic() - started - waited
        assert isinstance(first[0], rtx.errors.Unavailable)
        assert isinstance(second[0], rtx.errors.Unavailable)
        assert not second[0].maybe_applied
        print(f"waited {waited:.2f} s, then failed within {again * 1000:.1f} ms: {second[0]}")
        assert waited < 1.5
        assert again < 0.2
        health = await layer.health()
        assert not health.ready
        assert health.degraded
