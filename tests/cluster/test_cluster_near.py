"""The near cache over a cluster: each key is tracked at its own node, wherever that is."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

import rtx
from rtx.cache.near import NearCache
from rtx.errors import Unavailable
from rtx.topology import Role
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from rtx.topology.slots import key_slot
from rtx.wire import Caller
from tests.cache.nearby import number
from tests.conftest import eventually


@pytest.fixture
async def near(layer: rtx.DataLayer) -> AsyncIterator[NearCache]:
    near = NearCache(layer._roles.homes(Role.CACHE))
    await near.open()
    yield near
    await near.close()


async def fetched(near: NearCache, key: str) -> int | None:
    """The value over the tracked connection, as soon as there is one that has the key."""
    async with asyncio.timeout(20):
        while True:
            if near.serves(key):
                try:
                    return await near.fetch(key, number)
                except Unavailable:
                    pass
            await asyncio.sleep(0.01)


async def another(cluster: LocalCluster, slot: int) -> ServerProcess:
    """A primary that does not have the slot."""
    owner = await cluster.owner(slot)
    return next(server for server in await cluster.primaries() if server is not owner)


async def kept(near: NearCache, caller: Caller, keys: list[str]) -> None:
    """Store 1 under every key and have it in the near cache."""
    await caller.batch([("SET", key, "1") for key in keys])
    for key in keys:
        assert await fetched(near, key) == 1
    await eventually(lambda: all(near.get(key) == 1 for key in keys))


async def test_keys_of_all_nodes_are_kept_and_invalidated(
    near: NearCache, caller: Caller, namespace: str
) -> None:
    keys = [f"{namespace}:{n}" for n in range(60)]
    assert not near.ready  # no home is in use yet
    await kept(near, caller, keys)
    assert near.ready
    assert len(near._links) == 3
    await caller.batch([("SET", key, "2") for key in keys[:30]])
    await eventually(lambda: not any(near.get(key) for key in keys[:30]))
    assert [near.get(key) for key in keys[30:]] == [1] * 30
    assert [await fetched(near, key) for key in keys[:30]] == [2] * 30


@pytest.mark.parametrize("empty", [False, True], ids=["with-keys", "without-migrate"])
async def test_a_moved_slot_is_tracked_at_its_new_node(
    cluster: LocalCluster, near: NearCache, caller: Caller, namespace: str, empty: bool
) -> None:
    moving, staying = f"{{{namespace}}}:k", f"{namespace}:other"
    slot = key_slot(moving.encode())
    await kept(near, caller, [moving, staying])
    to = await another(cluster, slot)
    if empty:  # the old node drops the key without a word to those who track it
        await ask(to.port, "CLUSTER", "SETSLOT", slot, "NODE", await cluster.node_id(to.port))
        await ask(to.port, "CLUSTER", "BUMPEPOCH")
        await eventually(lambda: _owns(cluster, slot, to))
    else:
        await cluster.migrate(slot, to)
    await ask(to.port, "SET", moving, "2")
    await eventually(lambda: near.get(moving) is None)
    assert await fetched(near, moving) == 2
    link = near._link(moving)
    assert link is not None
    assert link.connection is not None
    assert link.connection.address.port == to.port
    await eventually(lambda: near.get(moving) == 2)
    await ask(to.port, "SET", moving, "3")
    await eventually(lambda: near.get(moving) is None)
    assert await fetched(near, moving) == 3
    if (await cluster.owner(key_slot(staying.encode()))).port != to.port:
        assert await fetched(near, staying) == 1


async def _owns(cluster: LocalCluster, slot: int, server: ServerProcess) -> bool:
    return (await cluster.owner(slot)) is server


async def test_a_fetch_that_is_redirected_moves_on(
    cluster: LocalCluster, near: NearCache, caller: Caller, namespace: str
) -> None:
    keys = [f"{{{namespace}}}:{n}" for n in range(2)]
    slot = key_slot(namespace.encode())
    await kept(near, caller, keys)
    to = await another(cluster, slot)
    await cluster.migrate(slot, to)
    with suppress(Unavailable):  # never MOVED as an error of the server's: the pool can read it
        assert await near.fetch(keys[1], number) == 1
    link = near._link(keys[1])
    assert link is not None
    assert str(link.home) == f"127.0.0.1:{to.port}"
    assert await fetched(near, keys[1]) == 1


async def test_a_half_moved_slot_is_no_error_of_the_value(
    cluster: LocalCluster, near: NearCache, caller: Caller, namespace: str
) -> None:
    key = f"{{{namespace}}}:k"
    slot = key_slot(namespace.encode())
    await kept(near, caller, [key])
    to = await another(cluster, slot)
    source = await cluster.begin_migration(slot, to)
    await cluster.move_keys(slot, source, to)  # ASK for what the source has no more
    await eventually(lambda: near.get(key) is None)
    with pytest.raises(Unavailable, match="another node"):
        await near.fetch(key, number)
    await cluster.end_migration(slot, source, to)
    assert await fetched(near, key) == 1


async def test_a_killed_node_takes_its_keys_with_it_and_no_others(
    cluster: LocalCluster, near: NearCache, caller: Caller, namespace: str
) -> None:
    keys = [f"{namespace}:{n}" for n in range(30)]
    await kept(near, caller, keys)
    victim = await cluster.primary_of(keys[0])
    theirs = [key for key in keys if await cluster.primary_of(key) is victim]
    others = [key for key in keys if key not in theirs]
    victim.kill(signal.SIGKILL)
    await eventually(lambda: not any(near.get(key) for key in theirs))
    await eventually(lambda: all(near.get(key) == 1 for key in others))
    await eventually(lambda: near.serves(keys[0]), within=20)  # at the replica that took over
    await caller.call("SET", keys[0], "2")
    assert await fetched(near, keys[0]) == 2
    await eventually(lambda: len(near._links) == 3, within=20)  # none is left for the dead node


async def test_a_frozen_nodes_values_are_believed_for_two_probes_at_most(
    cluster: LocalCluster, near: NearCache, caller: Caller, namespace: str
) -> None:
    key = f"{namespace}:k"
    await kept(near, caller, [key])
    frozen = await cluster.primary_of(key)
    frozen.kill(signal.SIGSTOP)
    frozen_at = time.monotonic()
    while True:
        now = time.monotonic()
        if near.get(key) is None:
            break
        assert now < frozen_at + 2.0
        await asyncio.sleep(0.01)
    frozen.kill(signal.SIGCONT)
    assert await fetched(near, key) == 1
