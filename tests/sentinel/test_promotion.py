"""A failover followed before its end: at the promotion, and back where nothing comes of it."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.local import SERVICE, LocalSentinels
from rtx.topology.process import ServerProcess
from rtx.topology.sentinel_words import Word, word_of
from rtx.urls import Address
from rtx.wire import Connection
from rtx.wire.options import ConnectOptions
from tests.conftest import eventually
from tests.sentinel.load import client_of, pool_of, topology_of
from tests.sentinel.watching import Lateness

pytestmark = pytest.mark.timeout(60)


def address_of(server: ServerProcess) -> Address:
    return Address("127.0.0.1", server.port)


async def freeze_before_it_sees_the_promotion(group: LocalSentinels) -> None:
    """Begin a failover without coordination, and freeze the sentinel when it has promoted."""
    [sentinel] = group.sentinels
    async with redis_py.Redis(port=sentinel.port) as witness, witness.pubsub() as channels:
        await channels.subscribe("+failover-state-wait-promotion")
        await anext(channels.listen())  # the confirmation
        await witness.execute_command("SENTINEL", "FAILOVER", SERVICE)
        await anext(channels.listen())
        sentinel.kill(signal.SIGSTOP)


async def test_a_promotion_that_no_sentinel_confirms_is_left_again_and_followed_when_one_does(
    small_group: LocalSentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtx.topology.sentinel._CONFIRMED_WITHIN", 0.5)
    primary, replica = small_group.servers
    [sentinel] = small_group.sentinels
    async with (
        rtx.open(Settings.load(url=small_group.url)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await ticks.ready()
        topology = topology_of(layer)
        seen: list[Address | None] = []
        topology.on_change(lambda: seen.append(topology.primary))
        await freeze_before_it_sees_the_promotion(small_group)
        await eventually(lambda: seen == [address_of(replica)])
        assert await pool_of(layer).execute("SET", "early", "1", idempotent=True) == b"OK"
        await eventually(lambda: seen == [address_of(replica), address_of(primary)])
        assert await pool_of(layer).execute("SET", "back", "1", idempotent=True) == b"OK"
        async with client_of(primary) as witness:
            assert (await witness.role())[0] == "master"
            assert await witness.mget("early", "back") == [None, "1"]
        sentinel.kill(signal.SIGCONT)
        await eventually(lambda: seen[2:] == [address_of(replica)])
        await eventually(lambda: not topology._council.early)
        assert await pool_of(layer).execute("SET", "late", "1", idempotent=True) == b"OK"
        await asyncio.sleep(0.6)  # it is confirmed, so that nothing leads back
        assert topology.primary == address_of(replica)
        assert topology.switches == 3


async def test_a_choice_is_followed_when_it_says_itself_that_it_is_the_primary_and_not_before(
    small_group: LocalSentinels,
) -> None:
    late = Lateness()
    primary, replica = small_group.servers
    async with rtx.open(Settings.load(url=small_group.url)) as layer, late.measured():
        small_group.sentinels[0].kill(signal.SIGSTOP)  # it would set right what this test does
        topology = topology_of(layer)
        topology._promotion.hear(Word(7, address_of(replica)))
        await asyncio.sleep(0.3)
        assert topology.primary == address_of(primary)
        async with client_of(replica) as witness:
            await witness.replicaof("NO", "ONE")
        promoted = time.monotonic()
        await eventually(lambda: topology.primary == address_of(replica), every=0.001)
        took = time.monotonic() - promoted
        print(f"followed {took * 1000:.0f} ms after the promotion")
        assert took < 0.1 + late.seconds


async def test_a_choice_of_a_past_failover_is_not_followed(small_group: LocalSentinels) -> None:
    primary, replica = small_group.servers
    async with rtx.open(Settings.load(url=small_group.url)) as layer:
        topology = topology_of(layer)
        known = topology._council.known
        assert known is not None
        async with client_of(replica) as witness:
            await witness.replicaof("NO", "ONE")
        topology._promotion.hear(Word(known.epoch, address_of(replica)))
        await asyncio.sleep(0.3)
        assert topology.primary == address_of(primary)


async def test_a_sentinel_never_names_the_former_primary_by_the_new_epoch(
    small_group: LocalSentinels,
) -> None:
    """SENTINEL MASTER does, between promotion and end; the address that is asked for does not."""
    primary, _ = small_group.servers
    [sentinel] = small_group.sentinels
    connection = await Connection.dial(address_of(sentinel), ConnectOptions())
    questions = [("SENTINEL", each, SERVICE) for each in ("MASTER", "GET-MASTER-ADDR-BY-NAME")]
    words: list[Word | None] = []
    misleading = 0
    await small_group.failover()

    async def ended() -> bool:
        nonlocal misleading
        state, address = await connection.batch(questions)
        words.append(word_of(state, address))
        misleading += word_of(state, None) == Word(1, address_of(primary))
        return isinstance(state, dict) and int(state[b"port"]) != primary.port

    await eventually(ended)
    await connection.close()
    print(f"{misleading} of {len(words)} answers to SENTINEL MASTER name the former primary")
    new = words[-1]
    assert new is not None
    assert set(words) == {Word(0, address_of(primary)), new}
    assert new.epoch == 1
    assert misleading
