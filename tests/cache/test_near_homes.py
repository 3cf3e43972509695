"""A key that moves to another server is read there, though the old one never says a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

import pytest
import redis.asyncio as redis_py

from rtx.cache.near import NearCache
from rtx.errors import ServerError, Unavailable
from rtx.topology.process import ServerProcess
from rtx.wire import Connection
from rtx.wire.connection import OnPush
from tests.cache.nearby import homes, number
from tests.conftest import eventually


class TwoServers:
    """`Homes` of two servers that are no cluster: a test says which key is where."""

    sharded = True

    def __init__(self, first: str, second: str) -> None:
        self._servers = {"first": homes(first), "second": homes(second)}
        self.moved_keys: set[bytes] = set()
        self._told: list[Callable[[], None]] = []

    def home(self, channel: bytes) -> Hashable:
        return "second" if channel in self.moved_keys else "first"

    async def dial(
        self, home: Hashable, on_push: OnPush, on_close: Callable[[Connection], None]
    ) -> Connection:
        return await self._servers[str(home)].dial("here", on_push, on_close)

    def moved(self, channel: bytes, error: ServerError) -> None:
        raise AssertionError("no server here redirects")

    def on_change(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def move(self, key: str) -> None:
        self.moved_keys ^= {key.encode()}
        for told in self._told:
            told()


@pytest.fixture
def two(shared_server: str, own_server: ServerProcess) -> TwoServers:
    return TwoServers(shared_server, own_server.url)


async def fetched(near: NearCache, key: str) -> int | None:
    await eventually(lambda: near.serves(key))
    return await near.fetch(key, number)


async def test_a_moved_key_is_not_believed_and_the_others_are(
    two: TwoServers, own_server: ServerProcess, witness: redis_py.Redis, namespace: str
) -> None:
    moving, staying = f"{namespace}:moving", f"{namespace}:staying"
    await witness.mset({moving: "1", staying: "1"})
    near = NearCache(two)
    await near.open()
    assert [await fetched(near, moving), await fetched(near, staying)] == [1, 1]
    async with redis_py.Redis(port=own_server.port) as second:
        await second.set(moving, "2")
    two.move(moving)
    assert near.get(moving) is None
    assert near.get(staying) == 1
    assert near.stats.entries == 1
    assert await fetched(near, moving) == 2
    assert near.get(moving) == 2
    two.move("another key")
    assert [near.get(moving), near.get(staying)] == [2, 1]
    await near.close()


async def test_a_key_that_went_and_came_back_unseen_is_not_believed(
    two: TwoServers, witness: redis_py.Redis, namespace: str
) -> None:
    key = f"{namespace}:k"
    await witness.set(key, "1")
    near = NearCache(two)
    await near.open()
    assert await fetched(near, key) == 1
    two.move(key)
    two.move(key)
    assert two.home(key.encode()) == "first"
    assert near.get(key) is None
    assert await fetched(near, key) == 1
    assert near.get(key) == 1
    await near.close()


async def test_a_fetch_under_way_while_its_key_moves_is_not_believed(
    two: TwoServers, witness: redis_py.Redis, namespace: str
) -> None:
    key = f"{namespace}:k"
    await witness.set(key, "1")
    near = NearCache(two)
    await near.open()
    await eventually(lambda: near.serves(key))
    reader = asyncio.create_task(near.fetch(key, number))
    await asyncio.sleep(0)
    two.move(key)
    assert await reader == 1
    assert near.get(key) is None
    assert await fetched(near, key) is None  # the second server has none
    await near.close()


async def test_a_home_without_keys_is_given_up_when_it_is_gone_and_dialed_when_it_is_needed(
    two: TwoServers, own_server: ServerProcess, namespace: str
) -> None:
    key = f"{namespace}:k"
    near = NearCache(two)
    await near.open()
    two.move(key)
    assert await fetched(near, key) is None
    await own_server.stop()
    await eventually(lambda: not near._links)
    assert not near.serves(key)
    with pytest.raises(Unavailable):
        await near.fetch(key, number)
    await own_server.start()
    assert await fetched(near, key) is None
    assert near.ready
    await near.close()
    assert not near._links
