"""Failovers of a primary under load: killed, frozen, and planned."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

import rtx
from rtx.errors import ServerError
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import LocalSentinels
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.sentinel.load import (
    AFTER_THE_PROMOTION,
    PLANNED_OUTAGE,
    SLACK,
    WHOLE_OUTAGE,
    Load,
    client_of,
    clients_on,
    primary_by_all,
    topology_of,
)
from tests.sentinel.watching import Failover, Lateness

pytestmark = pytest.mark.timeout(120)


def report(what: str, load: Load, struck: float, failover: Failover, late: Lateness) -> None:
    promoted = failover.promoted
    print(
        f"{what}: promoted after {promoted - struck:.2f} s, own switch "
        f"{(load.switched[0] - promoted) * 1000:+.0f} ms from it, first write "
        f"{load.first_after(promoted) * 1000:.0f} ms after it, +switch-master "
        f"{(min(failover.announcements) - promoted) * 1000:.0f} ms after it; writes out for "
        f"{load.outage:.2f} s, subscriber silent for {load.silence(struck - 1):.2f} s, slowest "
        f"call {load.slowest:.2f} s; the machine {late.seconds:.2f} s late; "
        f"{len(load.sets.acked)} of {len(load.sets.sent)} SETs acknowledged, errors "
        f"{dict(load.errors)}, gaps {[gap.cause for gap in load.gaps]}"
    )


async def recovered(load: Load, failover: Failover, within: float) -> None:
    """Return when both writers and subscriber have gone on, and the sentinels have told it."""
    await eventually(lambda: load.switched, within=within)
    moment = load.switched[0]
    await eventually(lambda: load.acked_since(moment) > 50 and load.heard_since(moment) > 5)
    await eventually(lambda: failover.announcements)


DOWN_AFTER = [1.0, pytest.param(5.0, marks=pytest.mark.soak)]


@pytest.mark.parametrize("down_after", DOWN_AFTER)
async def test_a_killed_primary_is_replaced_under_load(down_after: float) -> None:
    failover, late = Failover(), Lateness()
    async with (
        LocalSentinels(down_after=down_after) as group,
        rtx.open(Settings.load(url=group.url)) as layer,
        failover.watched(group),
    ):
        load = Load(layer)
        async with load.running(), late.measured():
            old = await group.primary()
            struck = time.monotonic()
            old.kill()
            await recovered(load, failover, WHOLE_OUTAGE[down_after] * SLACK)
        report(f"kill -9, down-after {down_after:g} s", load, struck, failover, late)
        lost = await load.check(await primary_by_all(group, but=old))
        print(f"acknowledged but lost with the primary: {lost[0]} SETs, {lost[1]} INCRs")
        check_times(load, struck, failover, WHOLE_OUTAGE[down_after], late)
        assert load.gaps
        assert topology_of(layer).switches >= 1


@pytest.mark.parametrize("down_after", DOWN_AFTER)
async def test_a_frozen_primary_is_left_and_never_written_to_again(down_after: float) -> None:
    failover, late = Failover(), Lateness()
    async with (
        LocalSentinels(down_after=down_after) as group,
        rtx.open(Settings.load(url=group.url)) as layer,
        failover.watched(group),
    ):
        load = Load(layer)
        async with load.running():
            old = await group.primary()
            async with late.measured():
                struck = time.monotonic()
                old.kill(signal.SIGSTOP)
                await recovered(load, failover, WHOLE_OUTAGE[down_after] * SLACK)
            new = await primary_by_all(group, but=old)
            old.kill(signal.SIGCONT)
            # For about ten seconds it takes itself for the primary, until a sentinel corrects it.
            thawed = time.monotonic()
            stray: set[str] = set()
            while not stray and load.acked_since(thawed) < 300:
                stray = await written_since(old, load, load.switched[0])
            await eventually(lambda: none_on(old))
        report(f"SIGSTOP, down-after {down_after:g} s", load, struck, failover, late)
        lost = await load.check(new)
        print(f"acknowledged but lost with the primary: {lost[0]} SETs, {lost[1]} INCRs")
        assert not stray
        check_times(load, struck, failover, WHOLE_OUTAGE[down_after], late)
        assert load.gaps
        assert topology_of(layer).switches >= 1


def check_times(
    load: Load, struck: float, failover: Failover, whole: float, late: Lateness
) -> None:
    assert load.first_after(failover.promoted) < AFTER_THE_PROMOTION + late.seconds
    assert load.outage < whole + late.seconds
    assert load.silence(struck - 1) < whole + late.seconds


async def written_since(server: ServerProcess, load: Load, moment: float) -> set[str]:
    """Keys that were first sent after a moment, of those that a server has as a primary."""
    recent = [key for key, when in load.sets.sent.items() if when > moment]
    async with client_of(server) as witness:
        role, values = await witness.pipeline().role().mget(recent).execute()
    if role[0] != "master":  # it has them from the new primary
        return set()
    return {key for key, value in zip(recent, values, strict=True) if value is not None}


async def test_a_planned_failover_loses_nothing_that_was_acknowledged(
    group: LocalSentinels,
) -> None:
    failover, late = Failover(), Lateness()
    async with rtx.open(Settings.load(url=group.url)) as layer, failover.watched(group):
        load = Load(layer)
        async with load.running(), late.measured():
            old = await group.primary()
            struck = time.monotonic()
            await group.failover()
            await recovered(load, failover, PLANNED_OUTAGE * SLACK)
            await eventually(lambda: none_on(old))
        report("planned", load, struck, failover, late)
        assert await load.check(await primary_by_all(group, but=old)) == (0, 0)
        check_times(load, struck, failover, PLANNED_OUTAGE, late)
        assert load.gaps


async def none_on(server: ServerProcess) -> bool:
    return not await clients_on(server)


async def test_five_failovers_in_a_row_leak_nothing(group: LocalSentinels) -> None:
    async with (
        rtx.open(Settings.load(url=group.url)) as layer,
        layer.market_data.subscribe("*") as ticks,
    ):
        await ticks.ready()
        primary = await group.primary()
        want = await full(layer, primary)
        tasks = len(asyncio.all_tasks())
        files = len(os.listdir("/proc/self/fd"))
        started = time.monotonic()
        for turn in range(1, 6):
            await eventually(lambda: accepted(group, primary), within=30)  # noqa: B023
            primary = await primary_by_all(group, but=primary)
            await eventually(lambda: topology_of(layer).switches == turn)  # noqa: B023
        print(f"five planned failovers: {time.monotonic() - started:.1f} s")
        expected = {server.port: want if server is primary else 0 for server in group.servers}
        assert await held(group, expected) == expected
        assert len(asyncio.all_tasks()) == tasks
        assert len(os.listdir("/proc/self/fd")) == files
        heard = asyncio.create_task(first_tick(ticks))
        await layer.market_data.publish(rtx.Tick("EURUSD", time=1, bid=1.0, ask=1.1))
        assert (await heard).bid == 1.0
        assert (await layer.health()).ready


async def accepted(group: LocalSentinels, primary: ServerProcess) -> bool:
    """Ask for a failover as soon as both replicas are in sync and the sentinels take it on."""
    async with client_of(primary) as witness:
        if len((await witness.role())[2]) < 2:
            return False
    try:
        await group.failover()
    except ServerError as error:
        if error.prefix not in ("INPROG", "NOGOODSLAVE"):
            raise
        return False
    return True


async def full(layer: rtx.DataLayer, primary: ServerProcess) -> int:
    """Wait for the warm spares of every pool; how many connections the primary then has."""
    spares = layer.settings.pool.min_idle * len(Role)
    count = spares + 2  # the subscriber, and the one that asks for the role

    async def there() -> bool:
        return len(await clients_on(primary)) == count

    await eventually(there)
    return count


async def held(group: LocalSentinels, expected: dict[int, int]) -> dict[int, int]:
    """How many connections each server has, by port, once that is as expected or 10 s later."""
    deadline = time.monotonic() + 10
    while True:
        counted = {server.port: len(await clients_on(server)) for server in group.servers}
        if counted == expected or time.monotonic() > deadline:
            return counted
        await asyncio.sleep(0.05)


async def first_tick(ticks: rtx.Subscription[rtx.Tick]) -> rtx.Tick:
    async for item in ticks:
        if isinstance(item, rtx.Tick):
            return item
    raise AssertionError("the subscription ended")
