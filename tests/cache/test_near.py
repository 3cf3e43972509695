"""The near cache reads, keeps, shares and forgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

from rtx.cache import near as near_module
from rtx.cache.near import NearCache
from rtx.codecs import DecodeError
from rtx.errors import ConnectFailed, ConnectionLost, PoolExhausted, ServerError, Unavailable
from rtx.topology.process import free_port
from tests.cache.nearby import homes, near_cache, number
from tests.conftest import eventually
from tests.wire.faults import Peer, scripted


@pytest.fixture
async def near(shared_server: str) -> AsyncIterator[NearCache]:
    async with near_cache(shared_server) as opened:
        yield opened


@pytest.fixture
def key(namespace: str) -> str:
    return f"{namespace}:near"


class Clock:
    """`time.monotonic` plus what a test adds to it."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(near_module, "monotonic", clock)
    return clock


async def get_calls(witness: redis_py.Redis) -> int:
    stats = await witness.info("commandstats")
    return int(stats.get("cmdstat_get", {}).get("calls", 0))


async def test_a_fetched_value_is_got_without_a_call(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "7", px=60_000)
    assert near.get(key) is None
    assert await near.fetch(key, number) == 7
    before = await get_calls(witness)
    assert [near.get(key) for _ in range(100)] == [7] * 100
    assert await get_calls(witness) == before
    assert near.stats.entries == 1


async def test_a_key_that_does_not_exist_is_none_and_is_not_kept(near: NearCache, key: str) -> None:
    assert await near.fetch(key, number) is None
    assert near.get(key) is None
    assert near.stats.entries == 0


async def test_a_value_that_cannot_be_decoded_raises_and_is_not_kept(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "{", px=60_000)
    outcomes = await asyncio.gather(
        *(near.fetch(key, number) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(outcome, DecodeError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert near.stats.entries == 0


async def test_an_error_of_the_server_is_raised_to_each_reader(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.rpush(key, "x")
    outcomes = await asyncio.gather(
        *(near.fetch(key, number) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(each, ServerError) and each.prefix == "WRONGTYPE" for each in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert near.stats.entries == 0


async def test_readers_of_one_key_share_a_call(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "7", px=60_000)
    before = await get_calls(witness)
    assert await asyncio.gather(*(near.fetch(key, number) for _ in range(1000))) == [7] * 1000
    assert await get_calls(witness) == before + 1


async def test_a_cancelled_reader_leaves_the_others_alone(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "7", px=60_000)
    readers = [asyncio.create_task(near.fetch(key, number)) for _ in range(4)]
    await asyncio.sleep(0)
    readers[0].cancel()
    readers[2].cancel()
    outcomes = await asyncio.gather(*readers, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in outcomes] == [1, 0, 1, 0]
    assert [outcomes[1], outcomes[3], near.get(key)] == [7, 7, 7]


async def test_a_dropped_value_is_read_again(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "7", px=60_000)
    await near.fetch(key, number)
    near.drop(key, "another")
    assert near.get(key) is None
    assert near.stats.entries == near.stats.bytes == 0
    assert await near.fetch(key, number) == 7


async def test_a_fetch_that_was_under_way_at_a_drop_is_not_kept_nor_joined(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "7", px=60_000)
    first = asyncio.create_task(near.fetch(key, number))
    await asyncio.sleep(0)
    near.drop(key)
    before = await get_calls(witness)
    assert await first == 7
    assert near.get(key) is None
    assert near.stats.races == 1
    second = asyncio.create_task(near.fetch(key, number))
    await asyncio.sleep(0)
    near.drop(key)
    third = asyncio.create_task(near.fetch(key, number))
    assert [await second, await third] == [7, 7]
    assert await get_calls(witness) - before in (2, 3)  # the first may have been counted before
    assert near.get(key) == 7


# --- deadlines -----------------------------------------------------------------------------


async def test_a_value_is_gone_when_its_ttl_is_over(
    near: NearCache, witness: redis_py.Redis, key: str, clock: Clock
) -> None:
    await witness.set(key, "7", px=10_000)
    stored_at = clock()
    await near.fetch(key, number)
    clock.ahead = 8.0
    assert near.get(key) == 7 or clock() > stored_at + 9.9
    clock.ahead = 10.0
    assert near.get(key) is None
    assert near.stats.entries == 0


async def test_a_value_with_a_long_ttl_or_none_is_gone_after_max_age(
    shared_server: str, witness: redis_py.Redis, key: str, clock: Clock
) -> None:
    await witness.set(key, "7")
    await witness.set(f"{key}:long", "8", px=60_000)
    async with near_cache(shared_server, max_age=5.0) as near:
        await near.fetch(key, number)
        await near.fetch(f"{key}:long", number)
        fetched_at = clock()
        clock.ahead = 4.0
        got = near.get(key), near.get(f"{key}:long")
        assert got == (7, 8) or clock() > fetched_at + 5.0
        clock.ahead = 5.0
        assert near.get(key) is None
        assert near.get(f"{key}:long") is None


async def test_a_key_that_expires_on_the_server_is_forgotten(
    near: NearCache, witness: redis_py.Redis, key: str
) -> None:
    await witness.set(key, "7", px=500)
    assert await near.fetch(key, number) == 7
    assert near.stats.entries == 1

    async def forgotten() -> bool:
        await witness.exists(key)  # by itself the server may come to it late among many keys
        return near.stats.entries == 0

    await eventually(forgotten)  # nobody reads it here: the server has told
    assert near.stats.invalidated == 1
    assert await near.fetch(key, number) is None


# --- what cannot be served -----------------------------------------------------------------


async def test_without_a_server_it_opens_and_serves_nothing() -> None:
    async with near_cache(f"redis://127.0.0.1:{free_port()}") as near:
        assert not near.ready
        assert not near.serves("key")
        assert "refused" in near.trouble
        assert near.get("key") is None
        with pytest.raises(ConnectFailed, match="refused"):
            await near.fetch("key", number)


async def test_before_open_and_after_close_it_serves_nothing(shared_server: str) -> None:
    near = NearCache(homes(shared_server))
    assert not near.serves("key")
    assert not near.ready
    with pytest.raises(Unavailable):
        await near.fetch("key", number)
    await near.open()
    assert near.ready
    assert near.serves("key")
    await near.close()
    assert not near.serves("key")
    assert near.get("key") is None
    with pytest.raises(Unavailable):
        await near.fetch("key", number)


async def test_a_full_connection_says_so_at_once(near: NearCache, key: str) -> None:
    link = near._link(key)
    assert link is not None
    assert link.connection is not None
    most = link.connection.options.max_in_flight
    readers = [asyncio.create_task(near.fetch(f"{key}:{n}", number)) for n in range(most)]
    await asyncio.sleep(0)
    assert not near.serves(key)
    with pytest.raises(PoolExhausted):
        await near.fetch(key, number)
    assert set(await asyncio.gather(*readers)) == {None}


async def test_close_leaves_nothing(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    async def connections() -> int:
        return sum(client["name"] == namespace for client in await witness.client_list())

    async def none_left() -> bool:
        return await connections() == 0

    before = asyncio.all_tasks()
    near = NearCache(homes(shared_server, name=namespace))
    await near.open()
    await witness.set(f"{namespace}:1", "7")
    await near.fetch(f"{namespace}:1", number)
    assert await connections() == 1
    await near.close()
    assert near.stats.entries == near.stats.bytes == 0
    assert asyncio.all_tasks() == before
    await eventually(none_left)


async def test_close_ends_fetches_under_way() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.command()
        peer.send(b"+OK\r\n")
        await peer.until_hung_up()

    async with scripted(script) as address:
        near = NearCache(homes(f"redis://{address}"))
        await near.open()
        reader = asyncio.create_task(near.fetch("key", number))
        await asyncio.sleep(0)
        await near.close()
        with pytest.raises(ConnectionLost):
            await reader
