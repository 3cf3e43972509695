"""The near cache is silent about what it cannot know: cut off, frozen, stalled, refused."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import closing

import pytest
import redis as redis_sync
import redis.asyncio as redis_py

from rtx.cache.near import NearCache
from rtx.errors import Unavailable
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from tests.cache.nearby import heard, near_cache, number
from tests.conftest import eventually
from tests.wire.faults import Proxy

PROBED = 1.0
"""The default of `channels.probe_interval`, seconds."""


def through(proxy: Proxy, url: str) -> str:
    """The server's URL, login included, with the proxy's address."""
    login, at, _ = url.removeprefix("redis://").rpartition("@")
    return f"redis://{login}{at}{proxy.address}"


async def fetched(near: NearCache, key: str) -> int | None:
    """The value over the tracked connection, as soon as there is one."""
    await eventually(lambda: near.serves(key))
    return await near.fetch(key, number)


async def test_a_killed_connection_takes_all_values_with_it_before_the_next_read(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    keys = [f"{namespace}:{n}" for n in range(50)]
    await witness.mset(dict.fromkeys(keys, "1"))
    async with near_cache(shared_server, name=namespace) as near:
        for key in keys:
            await near.fetch(key, number)
        clients = await witness.client_list()
        mine = next(client["id"] for client in clients if client["name"] == namespace)
        link = near._link(keys[0])
        assert link is not None
        seen: list[tuple[int, int | None]] = []
        forget = link._on_lost

        def lost(gone: object) -> None:
            forget(link)
            seen.append((near.stats.entries, near.get(keys[0])))  # type: ignore[arg-type]

        link._on_lost = lost
        await witness.client_kill_filter(_id=mine)
        await witness.mset(dict.fromkeys(keys, "2"))  # nobody is told of this
        await eventually(lambda: seen)
        assert seen == [(0, None)]
        assert near.stats.bytes == 0
        assert [await fetched(near, key) for key in keys] == [2] * 50
        assert [near.get(key) for key in keys] == [2] * 50
        assert near.stats.reconnects == 1
        assert not near.trouble


async def test_a_fetch_that_loses_its_connection_ends_and_is_not_kept(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    location = Address("127.0.0.1", witness.connection_pool.connection_kwargs["port"])
    key = f"{namespace}:k"
    await witness.set(key, "1")
    async with Proxy(location) as proxy, near_cache(through(proxy, shared_server)) as near:
        proxy.freeze()
        readers = [asyncio.create_task(near.fetch(key, number)) for _ in range(3)]
        await asyncio.sleep(0)
        proxy.cut_all(reset=True)
        outcomes = await asyncio.gather(*readers, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert near.stats.entries == 0
        proxy.thaw()
        assert await fetched(near, key) == 1


async def test_a_fetch_has_a_deadline_of_its_own(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    location = Address("127.0.0.1", witness.connection_pool.connection_kwargs["port"])
    key = f"{namespace}:k"
    await witness.set(key, "1")
    async with Proxy(location) as proxy, near_cache(through(proxy, shared_server)) as near:
        proxy.freeze()
        with pytest.raises(Unavailable, match="deadline"):
            await near.fetch(key, number, timeout=0.05)
        proxy.thaw()
        assert await near.fetch(key, number) == 1
        assert near.get(key) == 1


async def test_a_restarted_server_is_read_anew(own_server: ServerProcess) -> None:
    async with near_cache(own_server.url) as near:
        async with redis_py.Redis(port=own_server.port) as witness:
            await witness.set("k", "1")
            assert await near.fetch("k", number) == 1
        await own_server.stop()
        await eventually(lambda: near.get("k") is None)
        assert near.stats.entries == 0
        assert not near.ready
        assert near.trouble
        await own_server.start()
        async with redis_py.Redis(port=own_server.port) as witness:
            await witness.set("k", "2")
            assert await fetched(near, "k") == 2
            await witness.set("k", "3")
            await heard(near)
            assert near.get("k") is None


async def test_nothing_is_believed_for_longer_than_two_probes_of_a_frozen_server(
    own_server: ServerProcess,
) -> None:
    async with (
        near_cache(own_server.url, liveness=PROBED) as near,
        redis_py.Redis(port=own_server.port) as witness,
    ):
        await witness.set("k", "1")
        assert await fetched(near, "k") == 1
        own_server.kill(signal.SIGSTOP)
        frozen_at = time.monotonic()
        last = frozen_at
        while True:
            now = time.monotonic()
            if near.get("k") is None:
                break
            last = now
            assert now < frozen_at + 2 * PROBED
            await asyncio.sleep(0.01)
        print(f"believed for {last - frozen_at:.2f} s")
        assert not near.serves("k")
        await eventually(lambda: near.stats.entries == 0)
        assert "PING" in near.trouble or "silent" in near.trouble
        own_server.kill(signal.SIGCONT)
        assert await fetched(near, "k") == 1


async def test_nothing_is_believed_after_the_loop_stood_still(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    key = f"{namespace}:k"
    await witness.set(key, "1")
    async with near_cache(shared_server, liveness=0.2) as near:
        with closing(redis_sync.Redis.from_url(shared_server)) as writer:
            assert await fetched(near, key) == 1
            writer.set(key, "2")
            time.sleep(0.4)  # noqa: ASYNC251 - a callback of the application that takes too long
            assert near.get(key) is None
            assert not near.serves(key)
        assert await fetched(near, key) == 2


async def test_values_are_believed_again_when_the_server_has_answered(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    key = f"{namespace}:k"
    await witness.set(key, "1")
    async with near_cache(shared_server, liveness=0.25) as near:
        assert await fetched(near, key) == 1
        time.sleep(0.5)  # noqa: ASYNC251
        assert near.get(key) is None
        await eventually(lambda: near.get(key) == 1 or near.stats.reconnects)


@pytest.mark.parametrize("lacking", ["client|tracking", "pttl"])
async def test_a_permission_that_lacks_is_told_and_nothing_is_kept(
    own_server: ServerProcess, lacking: str
) -> None:
    needed = ["+hello", "+client|setname", "+ping", "+get", "+pttl", "+client|tracking"]
    async with redis_py.Redis(port=own_server.port) as witness:
        await witness.set("k", "1")

        async def grant(*rules: str) -> None:
            await witness.execute_command("ACL", "SETUSER", "near", *rules)

        await grant("on", ">secret", "~*", *(rule for rule in needed if rule != f"+{lacking}"))
        url = f"redis://near:secret@127.0.0.1:{own_server.port}"
        async with near_cache(url) as near:
            if lacking == "pttl":
                assert await near.fetch("k", number) == 1
            else:
                assert not near.serves("k")
            assert f"'{lacking}'" in near.trouble
            assert near.get("k") is None
            await grant(f"+{lacking}")
            assert await fetched(near, "k") == 1
            assert near.get("k") == 1
            assert not near.trouble
