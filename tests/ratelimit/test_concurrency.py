"""At most so many at once: over processes, over deaths, over cancellations."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import SettingsError
from rtx.monitoring.metrics import render
from rtx.ratelimit import RateLimited
from rtx.setting_groups import ConcurrencySettings, LimiterSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.ratelimit.conftest import with_limits

CONTENDER = Path(__file__).with_name("contender.py")


def with_places(
    settings: Settings, limiter: LimiterSettings | None = None, **named: ConcurrencySettings
) -> Settings:
    return with_limits(settings, limiter).model_copy(update={"concurrency": named})


@pytest.fixture
async def layer(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """`reports`: 2 at once, leases that outlast the test; `brief`: 1, for 0.3 s."""
    named = with_places(
        settings,
        reports=ConcurrencySettings(limit=2, lease=60.0),
        brief=ConcurrencySettings(limit=1, lease=0.3),
    )
    async with rtx.open(named) as opened:
        yield opened


async def start(settings: Settings, contenders: str, seconds: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(CONTENDER),
        settings.url.get_secret_value(),
        settings.namespace,
        contenders,
        str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )


# --- places ----------------------------------------------------------------------------------


async def test_a_place_is_taken_until_its_block_ends(layer: rtx.DataLayer) -> None:
    reports = layer.limits.concurrency["reports"]
    async with reports.hold("ann") as first, reports.hold("ann") as second:
        assert (first.remaining, second.remaining) == (1, 0)
        assert first.held
        assert not first.degraded
        with pytest.raises(RateLimited, match="'reports' is reached: 2") as refused:
            async with reports.hold("ann"):
                pytest.fail("there was no place")
        decision = refused.value.decision
        assert (decision.allowed, decision.limit, decision.policy) == (False, 2, "reports")
        assert 0 < decision.reset_after <= 60
        assert decision.retry_after == 1.0
        async with reports.hold("bob"):
            assert await reports.taken("bob") == 1
        assert (reports.stats.held, await reports.taken("ann")) == (2, 2)
    assert (reports.stats.held, await reports.taken("ann")) == (0, 0)
    assert (reports.stats.taken, reports.stats.refused, reports.stats.expired) == (3, 1, 0)
    text = render(layer)[0].decode()
    assert 'rtx_concurrency_held{limit="reports"} 0' in text
    for name, count in (("taken", 3), ("refused", 1), ("expired", 0)):
        assert f'rtx_concurrency_{name}_total{{limit="reports"}} {count}' in text


async def test_a_place_is_free_again_after_an_error(layer: rtx.DataLayer) -> None:
    reports = layer.limits.concurrency["reports"]
    with pytest.raises(ZeroDivisionError):
        async with reports.hold("ann"):
            raise ZeroDivisionError
    assert await reports.taken("ann") == 0


async def test_every_key_has_a_ttl_of_at_most_a_lease(
    layer: rtx.DataLayer, limit_witness: redis_py.Redis
) -> None:
    reports = layer.limits.concurrency["reports"]
    key = layer.keys.concurrency("reports", "ann")
    async with reports.hold("ann"):
        assert 0 < await limit_witness.pttl(key) <= 60_000
        async with reports.hold("ann"):
            pass
        assert 0 < await limit_witness.pttl(key) <= 60_000
    assert not await limit_witness.exists(key)


async def test_a_name_must_exist_and_mean_one_thing(layer: rtx.DataLayer) -> None:
    concurrency = layer.limits.concurrency
    with pytest.raises(SettingsError, match=r"\[concurrency.exports\]"):
        concurrency["exports"]
    exports = concurrency.named("exports", ConcurrencySettings(limit=3))
    assert concurrency["exports"] is exports
    assert set(concurrency) == {"reports", "brief", "exports"}
    with pytest.raises(SettingsError, match="other settings"):
        concurrency.named("exports", ConcurrencySettings(limit=4))


async def test_a_key_of_somebody_elses_is_left_alone(
    layer: rtx.DataLayer, limit_witness: redis_py.Redis
) -> None:
    key = layer.keys.concurrency("reports", "ann")
    await limit_witness.set(key, "mine", px=60_000)
    with pytest.raises(RateLimited) as refused:
        async with layer.limits.concurrency["reports"].hold("ann"):
            pytest.fail("it was not counted")
    assert refused.value.decision.reason == "wrong_type"
    assert await limit_witness.get(key) == b"mine"


# --- waiting ---------------------------------------------------------------------------------


async def test_those_who_wait_get_their_places_in_turn(layer: rtx.DataLayer) -> None:
    reports, order = layer.limits.concurrency["reports"], []
    entered = asyncio.Event()

    async def one(number: int) -> None:
        async with reports.hold("ann", wait=30.0):
            order.append(number)
            entered.set()

    async with reports.hold("ann"), reports.hold("ann"):
        waiters = []
        for number in range(8):
            waiters.append(asyncio.create_task(one(number)))
            await eventually(lambda n=number: _waiting(reports) == n + 1)
        assert not entered.is_set()
    await asyncio.gather(*waiters)
    assert order == list(range(8))
    assert not reports._lines


def _waiting(limit: rtx.ratelimit.NamedConcurrency) -> int:
    return sum(line.waiting for line in limit._lines.values())


async def test_a_wait_is_bounded(layer: rtx.DataLayer) -> None:
    reports = layer.limits.concurrency["reports"]
    async with reports.hold("ann"), reports.hold("ann"):
        for _ in range(2):
            started = time.monotonic()
            results = await asyncio.gather(
                *(reports.hold("ann", wait=0.1).__aenter__() for _ in range(5)),
                return_exceptions=True,
            )
            assert all(isinstance(result, RateLimited) for result in results)
            assert time.monotonic() - started >= 0.1
    assert await reports.taken("ann") == 0
    assert not reports._lines


async def test_cancelled_at_any_moment_it_leaves_no_place_behind(layer: rtx.DataLayer) -> None:
    reports = layer.limits.concurrency["reports"]

    async def use() -> None:
        async with reports.hold("ann", wait=5.0):
            await asyncio.sleep(0)

    for turns in range(60):
        tasks = [asyncio.create_task(use()) for _ in range(3)]
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        if turns % 3 == 0:
            await asyncio.sleep(0.0005)
        for task in tasks:
            task.cancel()
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()  # while it gives its place back
        await asyncio.gather(*tasks, return_exceptions=True)

    async def free() -> bool:
        return await reports.taken("ann") == 0

    await eventually(free)
    assert reports.stats.held == 0
    assert not reports._lines
    assert not reports._here


async def test_a_layer_that_closes_gives_all_places_back(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    reports = ConcurrencySettings(limit=2, lease=60.0)
    async with rtx.open(with_places(settings, reports=reports)) as other:
        held = [other.limits.concurrency["reports"].hold("ann") for _ in range(2)]
        for one in held:
            await one.__aenter__()
        assert await layer.limits.concurrency["reports"].taken("ann") == 2
    assert await layer.limits.concurrency["reports"].taken("ann") == 0
    for one in held:
        await one.__aexit__(None, None, None)


# --- leases ----------------------------------------------------------------------------------


async def test_a_lease_is_renewed_while_it_is_held(
    layer: rtx.DataLayer, limit_witness: redis_py.Redis
) -> None:
    brief, key = layer.limits.concurrency["brief"], layer.keys.concurrency("brief", "ann")
    async with brief.hold("ann") as lease:
        [(_, first)] = await limit_witness.zrange(key, 0, -1, withscores=True)

        async def renewed() -> bool:
            ends = await limit_witness.zrange(key, 0, -1, withscores=True)
            return lease.lost.is_set() or ends[0][1] > first + 600  # two leases later

        await eventually(renewed)
        if not lease.lost.is_set():  # a machine that stood still for a lease loses it, rightly
            assert lease.held
    assert not await limit_witness.exists(key)


async def test_who_lost_the_place_is_told(
    layer: rtx.DataLayer, limit_witness: redis_py.Redis
) -> None:
    named = ConcurrencySettings(limit=1, lease=6.0)
    limit = layer.limits.concurrency.named("slow", named)
    async with limit.hold("ann") as lease:
        await limit_witness.delete(layer.keys.concurrency("slow", "ann"))
        await asyncio.wait_for(lease.lost.wait(), 20)
        assert not lease.held
        assert lease.cause in ("forgotten", "expired")
        async with limit.hold("ann"):  # somebody else has it now
            assert await limit.taken("ann") == 1
    assert limit.stats.expired == 1
    assert await limit.taken("ann") == 0


async def test_who_cannot_renew_is_told_when_the_lease_has_ended(own_server: ServerProcess) -> None:
    places = ConcurrencySettings(limit=1, lease=0.6)
    settings = with_places(
        Settings.load(url=own_server.url), LimiterSettings(deadline=0.2), slow=places
    )
    async with rtx.open(settings) as layer:
        slow = layer.limits.concurrency["slow"]
        async with slow.hold("ann") as lease:
            own_server.kill(signal.SIGSTOP)
            try:
                await asyncio.wait_for(lease.lost.wait(), 10)
            finally:
                own_server.kill(signal.SIGCONT)
            assert (lease.held, lease.cause) == (False, "expired")
        assert slow.stats.expired == 1


async def test_who_stood_still_knows_before_it_is_told(layer: rtx.DataLayer) -> None:
    brief = layer.limits.concurrency["brief"]
    async with brief.hold("ann") as lease:
        time.sleep(0.4)  # noqa: ASYNC251 - the loop stands still, longer than a lease
        assert not lease.held
        await asyncio.wait_for(lease.lost.wait(), 5)
        assert lease.cause == "expired"
    assert brief.stats.expired == 1


async def test_a_holder_that_is_killed_keeps_its_place_for_a_lease_at_most(
    layer: rtx.DataLayer, settings: Settings, limit_witness: redis_py.Redis
) -> None:
    process = await start(settings, "hold", 60.0)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    brief = layer.limits.concurrency["brief"]
    with pytest.raises(RateLimited):
        async with brief.hold("ann"):
            pytest.fail("it is held by another process")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    left = await limit_witness.pttl(layer.keys.concurrency("brief", "ann"))
    assert left <= 1_000
    started = time.monotonic()
    async with brief.hold("ann", wait=20.0):
        print(f"free {time.monotonic() - started:.2f} s after the kill, of a lease of 1 s")


async def test_never_more_than_the_places_under_contenders_of_four_processes(
    settings: Settings, limit_witness: redis_py.Redis
) -> None:
    processes = [await start(settings, "50", 0.002) for _ in range(4)]
    outputs = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    most = [int(output) for output, _ in outputs]
    print(f"at most {most} of 5 places, for 200 contenders with 3 turns each")
    assert max(most) <= 5
    assert max(most) >= 2  # they did contend
    assert int(await limit_witness.hget(f"{settings.namespace}:concurrency:inside", "all")) == 0


# --- without the server ------------------------------------------------------------------------


@pytest.mark.parametrize("when_down", ["closed", "open", "local"])
async def test_without_the_server_when_down_decides(
    own_server: ServerProcess, when_down: str
) -> None:
    places = ConcurrencySettings.model_validate({"limit": 4, "when_down": when_down})
    limiter = LimiterSettings(deadline=0.2, processes=2)
    settings = with_places(Settings.load(url=own_server.url), limiter, reports=places)
    async with rtx.open(settings) as layer:
        reports = layer.limits.concurrency["reports"]
        async with reports.hold("before"):
            own_server.kill()
            await own_server.wait()
            held: list[rtx.Lease] = []
            refused: list[RateLimited] = []

            async def nest(depth: int) -> None:
                try:
                    async with reports.hold("ann") as lease:
                        held.append(lease)
                        if depth:
                            await nest(depth - 1)
                except RateLimited as error:
                    refused.append(error)

            await nest(5)
        assert len(held) == {"closed": 0, "open": 6, "local": 2}[when_down]
        assert len(refused) == (when_down != "open")
        assert all(lease.degraded and lease.held and lease.reason for lease in held)
        assert all(error.decision.degraded for error in refused)
        assert reports.stats.errors == len(held) + len(refused)
        assert sum(reports.stats.degraded.values()) == reports.stats.errors
        assert reports.stats.held == 0


async def test_what_a_frozen_server_may_have_given_is_given_back_when_it_answers(
    own_server: ServerProcess,
) -> None:
    places = ConcurrencySettings(limit=1, lease=60.0)
    settings = with_places(
        Settings.load(url=own_server.url), LimiterSettings(deadline=0.2), reports=places
    )
    async with rtx.open(settings) as layer:
        reports = layer.limits.concurrency["reports"]
        async with reports.hold("left in vain"):
            own_server.kill(signal.SIGSTOP)
            with pytest.raises(RateLimited) as refused:
                async with reports.hold("ann"):
                    pytest.fail("nobody answered")
        waiting = asyncio.create_task(_enter_and_leave(reports, "bob"))
        assert refused.value.decision.reason == "timeout"
        assert refused.value.decision.maybe_taken
        own_server.kill(signal.SIGCONT)
        await waiting

        async def free() -> bool:
            return not any([await reports.taken(id) for id in ("left in vain", "ann", "bob")])

        await eventually(free)


async def _enter_and_leave(limit: rtx.ratelimit.NamedConcurrency, id: str) -> None:
    async with limit.hold(id, wait=20.0) as lease:
        assert not lease.degraded
