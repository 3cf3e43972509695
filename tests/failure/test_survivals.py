"""What a server may do to its clients, under load: replies stay right, subscriptions come back.

Each test runs calls, scripts, publishers and subscriptions of every kind, hurts them, and then
checks every reply and every message: none wrong, none doubled, none lost without a word.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.failure.conftest import PATIENCE
from tests.failure.trial import under_load
from tests.wire.callers import errors_of

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest.fixture
async def admin(own_server: ServerProcess) -> AsyncIterator[redis_py.Redis]:
    async with redis_py.Redis.from_url(own_server.url, decode_responses=True) as client:
        yield client


async def ours(admin: redis_py.Redis) -> list[dict[str, str]]:
    """RTX's connections that the server has."""
    return [client for client in await admin.client_list() if client["name"] == "rtx"]


async def test_scripts_are_forgotten_all_the_time(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    settings = Settings.load(url=own_server.url)
    async with under_load(settings, seeded, what="SCRIPT FLUSH, 100 times") as trial:
        for _ in range(100):
            await admin.script_flush()
            await asyncio.sleep(0.003)
        misses = (await admin.info("errorstats")).get("errorstat_NOSCRIPT", {})
        print(f"NOSCRIPT: {misses}")
        assert misses["count"] >= 100
    assert not errors_of(trial.clients)
    assert not trial.follower.gaps, "nothing was lost, so nothing is to be told"
    assert trial.hits.uncertain == 0


async def test_clients_killed_one_by_one(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    settings = Settings.load(url=own_server.url, pool={"min_idle": 2})
    async with under_load(settings, seeded, what="CLIENT KILL ID") as trial:
        killed = 0
        for _ in range(5):
            for client in await ours(admin):
                killed += await admin.client_kill_filter(_id=client["id"])
            await trial.back()
        print(f"{killed} connections killed")
        assert trial.losses == 5
    assert trial.follower.told


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_clients_of_a_kind_are_killed(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random, kind: str
) -> None:
    async with under_load(
        Settings.load(url=own_server.url), seeded, what=f"CLIENT KILL TYPE {kind}"
    ) as trial:
        for _ in range(5):
            await admin.client_kill_filter(_type=kind, skipme=True)
            await trial.back()
        assert trial.losses == (5 if kind == "pubsub" else 0)
    if kind == "normal":
        assert not trial.follower.gaps, "the subscribers' connection was not touched"
    else:
        assert trial.follower.told
        assert not errors_of(trial.clients), "the calls' connections were not touched"
        assert min(len(each.gaps) for each in trial.follower.ticks) == 5


async def test_a_server_without_room_serves_those_it_has_and_then_the_others(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    settings = Settings.load(url=own_server.url, pool={"min_idle": 1})
    async with under_load(settings, seeded, what="CONFIG SET maxclients") as trial:
        await admin.config_set("maxclients", 1)  # the connections there are stay
        with pytest.raises(rtx.errors.ConnectFailed, match="max number of clients"):
            async with rtx.open(settings):
                pass
        await trial.back()
        assert not errors_of(trial.clients), "those that are connected notice nothing"
        assert not trial.follower.gaps
        await admin.client_kill_filter(_type="pubsub", skipme=True)
        await eventually(lambda: trial.layer.hub.stats.connect_failures > 0)
        assert trial.layer.hub.down is not None
        assert "max number of clients" in trial.layer.hub.down[1]
        await admin.config_set("maxclients", 10_000)
        await trial.back()
        async with rtx.open(settings) as another:
            assert (await another.health()).ready
    assert not errors_of(trial.clients)
    assert trial.follower.told


async def test_a_server_restarted_without_its_data(
    own_server: ServerProcess, seeded: random.Random
) -> None:
    settings = Settings.load(url=own_server.url)
    async with under_load(settings, seeded, what="restart without data", kept=False) as trial:
        await own_server.stop()
        await own_server.start()
        took = await trial.back()
        print(f"all is back {took * 1000:.0f} ms after the server answers again")
    assert trial.follower.told
    for log in trial.follower.logs:
        assert [gap.cause for gap in log.gaps if not gap.recovered] == ["epoch changed"]


@pytest.fixture
async def keeping_server() -> AsyncIterator[ServerProcess]:
    """A server that writes what it acknowledges to its append-only file first."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-keeping-"))
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = ServerProcess(directory, config=config)
    await server.start()
    yield server
    await server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("how", ["SHUTDOWN", "kill -9"])
async def test_a_server_restarted_with_its_data(
    keeping_server: ServerProcess, seeded: random.Random, how: str
) -> None:
    settings = Settings.load(url=keeping_server.url)
    what = f"{how} and restart with data"
    async with under_load(settings, seeded, what=what, scripts_kept=False) as trial:
        for _ in range(2):
            if how == "kill -9":
                keeping_server.kill()
                await keeping_server.wait()
            else:
                await keeping_server.stop()
            await keeping_server.start()
            took = await trial.back()
            print(f"all is back {took * 1000:.0f} ms after the server answers again")
    assert trial.follower.told
    assert all(gap.recovered for log in trial.follower.logs for gap in log.gaps)


async def test_a_server_asleep_for_less_than_the_timeouts(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    settings = Settings.load(url=own_server.url)
    async with under_load(settings, seeded, what="DEBUG SLEEP 0.5") as trial:
        await admin.execute_command("DEBUG", "SLEEP", "0.5")
        await trial.back()
        assert trial.losses == 0
    assert not trial.follower.gaps
    assert set(errors_of(trial.clients)) <= {"CallTimeout, maybe_applied=True"}


async def test_a_server_asleep_for_longer_than_the_timeouts(
    brief: Settings, admin: redis_py.Redis, seeded: random.Random
) -> None:
    async with under_load(brief, seeded, what=f"DEBUG SLEEP {5 * PATIENCE:g}") as trial:
        await admin.execute_command("DEBUG", "SLEEP", f"{5 * PATIENCE}")
        await trial.back()
        assert trial.losses > 0
    assert trial.follower.told
    assert errors_of(trial.clients)


async def test_a_server_frozen_for_longer_than_the_timeouts(
    own_server: ServerProcess, brief: Settings, seeded: random.Random
) -> None:
    async with under_load(brief, seeded, what="SIGSTOP and SIGCONT") as trial:
        own_server.kill(signal.SIGSTOP)
        await eventually(lambda: trial.layer.hub.down and errors_of(trial.clients))
        own_server.kill(signal.SIGCONT)
        await trial.back()
    assert trial.follower.told


async def test_subscribers_over_the_output_buffer_limit_are_cut_off(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    async with under_load(
        Settings.load(url=own_server.url), seeded, what="client-output-buffer-limit pubsub"
    ) as trial:
        await admin.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        for _ in range(3):
            lost = trial.losses
            # More than the limit in one turn of the server, which nobody can read in time.
            flood = admin.pipeline(transaction=True)
            for _ in range(100):
                flood.publish(trial.layer.keys.market_data("X"), "x" * 2_000)
            await flood.execute()
            await eventually(lambda lost=lost: trial.losses > lost)
            await trial.back()
    assert trial.follower.told
    assert not errors_of(trial.clients), "the calls' connections were not touched"


async def test_callers_over_the_output_buffer_limit_are_cut_off(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    async with under_load(
        Settings.load(url=own_server.url), seeded, what="client-output-buffer-limit normal"
    ) as trial:
        await admin.rpush("large", *["x" * 100] * 20_000)
        await admin.config_set("client-output-buffer-limit", "normal 1000000 0 0")
        for _ in range(3):
            with pytest.raises(rtx.errors.ConnectionLost, match="closed the connection") as lost:
                await trial.caller.call("LRANGE", "large", 0, -1)
            assert lost.value.maybe_applied
            await trial.back()
        await admin.config_set("client-output-buffer-limit", "normal 0 0 0")
        assert await trial.caller.call("LRANGE", "large", 0, -1) == [b"x" * 100] * 20_000
    assert not trial.follower.gaps, "the subscribers' connection was not touched"


async def test_a_reply_over_the_bound_is_refused_and_all_goes_on(
    own_server: ServerProcess, admin: redis_py.Redis, seeded: random.Random
) -> None:
    settings = Settings.load(url=own_server.url, pool={"max_reply": 2**20})
    async with under_load(settings, seeded, what="replies over max_reply") as trial:
        await admin.set(trial.layer.keys.price("LARGE"), "x" * 2**22)
        for _ in range(3):
            with pytest.raises(rtx.errors.ProtocolViolation, match=r"raise pool\.max_reply"):
                await trial.layer.prices.get("LARGE")
            await trial.back()
    assert not trial.follower.gaps, "the subscribers' connection was not touched"
