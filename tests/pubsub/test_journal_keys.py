"""Publishing with a key: once, however often and from wherever it is tried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import ConnectionLost, NotReplicated, Unavailable
from rtx.keys import Keys
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.wire import Pool, Reply
from rtx.wire.options import Argument
from tests.conftest import eventually
from tests.pubsub.journals import fill, log_of, meta_of, orders


def keys_of(layer: rtx.DataLayer) -> str:
    return Keys.companion(layer.keys.executions(1), "keys")


async def test_fifty_publishes_of_one_key_are_one_message(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    async with rtx.open(settings) as other, layer.executions.subscribe(1) as fills:
        await fills.ready()
        given = await asyncio.gather(
            *((layer, other)[n % 2].executions.publish(1, fill(7), key="fill-7") for n in range(50))
        )
        assert len(set(given)) == 1
        last = await layer.executions.publish(1, fill(8), key="fill-8")
        assert last.seq == 2
        assert await orders(fills, 2) == [7, 8]
        both = [each.stats()["channel.executions"] for each in (layer, other)]
        assert sum(int(one["repeated"]) for one in both) == 49
        assert sum(int(one["published"]) for one in both) == 2


async def test_a_key_is_of_one_account_and_kind(layer: rtx.DataLayer) -> None:
    first = await layer.executions.publish(1, fill(1), key="k")
    other = await layer.executions.publish(2, fill(1), key="k")
    alert = await layer.alerts.publish(1, rtx.Alert("margin_call", "info", "m"), key=b"k")
    assert (first.seq, other.seq, alert.seq) == (1, 1, 1)
    assert await layer.executions.publish(1, fill(2), key="k") == first


async def test_a_publish_whose_answer_was_lost_is_repeated_and_not_doubled(
    layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks between the server's work and its reply, twice."""
    answered, lost = Pool.call, 0

    def call(pool: Pool, *args: Argument, timeout: float | None = None) -> Awaitable[Reply]:
        outcome = answered(pool, *args, timeout=timeout)
        nonlocal lost
        if args[0] != "EVALSHA" or lost == 2:
            return outcome
        lost += 1

        async def lose() -> Reply:
            await outcome
            raise ConnectionLost("cut between the work and the reply", maybe_applied=True)

        return lose()

    await layer.executions.publish(2, fill(1))  # the server knows the script
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        with monkeypatch.context() as patch:
            patch.setattr(Pool, "call", call)
            offset = await layer.executions.publish(1, fill(1), key="a")
        assert (offset.seq, lost) == (1, 2)
        await layer.executions.publish(1, fill(2), key="b")
        assert await orders(fills, 2) == [1, 2]
    assert layer.stats()["channel.executions"]["retries"] == 2

    lost = 0
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "call", call)
        with pytest.raises(ConnectionLost) as caught:
            await layer.executions.publish(1, fill(3))  # without a key it is not for us to repeat
    assert caught.value.maybe_applied
    assert lost == 1


async def test_a_publish_with_a_key_waits_for_a_server_that_comes_back(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        own_server.kill()
        await own_server.wait()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await layer.executions.publish(1, fill(1), key="a", deadline=0)
        with pytest.raises(Unavailable):
            await layer.executions.publish(1, fill(1), key="a", deadline=0.2)
        assert time.monotonic() - began >= 0.2
        waiting = asyncio.ensure_future(layer.executions.publish(1, fill(1), key="a", deadline=30))
        await eventually(lambda: layer.executions.stats.retries > 2)
        await own_server.start()
        assert (await waiting).seq == 1


async def test_keys_are_remembered_as_long_as_their_messages_and_no_longer(
    settings: Settings, journal_witness: redis_py.Redis
) -> None:
    channels = settings.channels.model_copy(update={"log_size": 200})
    async with rtx.open(settings.model_copy(update={"channels": channels})) as layer:
        for number in range(500):
            await layer.executions.publish(1, fill(number), key=f"fill-{number}")
        kept = await journal_witness.zcard(keys_of(layer))
        assert 200 <= kept <= 203  # a 64th more
        assert 200 <= await journal_witness.xlen(log_of(layer)) <= 203
        assert (await layer.executions.publish(1, fill(301), key="fill-301")).seq == 302
        assert (await layer.executions.publish(1, fill(1), key="fill-1")).seq == 501
        names = (log_of(layer), meta_of(layer), keys_of(layer))
        assert all([0 < await journal_witness.ttl(name) <= 700_000 for name in names])


async def test_memory_of_a_key(layer: rtx.DataLayer, journal_witness: redis_py.Redis) -> None:
    count = 2_000
    await asyncio.gather(
        *(layer.executions.publish(1, fill(n), key=f"desk-7/order-{n}") for n in range(count))
    )
    used = int(await journal_witness.memory_usage(keys_of(layer), samples=0))
    print(f"{used / count:.0f} bytes for each key")
    assert used / count < 200


async def test_a_server_without_replicas_refuses_what_is_to_be_durable(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    for key in (None, "k"):
        with pytest.raises(NotReplicated, match="0 replicas in touch") as caught:
            await layer.executions.publish(1, fill(1), durable=True, key=key)
        assert not caught.value.maybe_applied
        assert (caught.value.acknowledged, caught.value.wanted) == (0, 1)
    assert await journal_witness.exists(log_of(layer), meta_of(layer), keys_of(layer)) == 0


async def test_all_executions_and_alerts_are_durable_where_the_settings_say_so(
    settings: Settings, journal_witness: redis_py.Redis
) -> None:
    channels = settings.channels.model_copy(update={"durable": True})
    alert = rtx.Alert("halt", "critical", "now")
    async with rtx.open(settings.model_copy(update={"channels": channels})) as layer:
        with pytest.raises(NotReplicated, match="nothing was published"):
            await layer.executions.publish(1, fill(1))
        with pytest.raises(NotReplicated, match="nothing was published"):
            await layer.alerts.publish("system", alert)
        assert await journal_witness.exists(log_of(layer)) == 0
        assert (await layer.executions.publish(1, fill(1), durable=False)).seq == 1
        assert (await layer.alerts.publish("system", alert, durable=False)).seq == 1
