"""The near cache stays within its budget, by its own count and by the interpreter's."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from decimal import Decimal

import pytest
import redis.asyncio as redis_py

from rtx import codecs
from rtx.models import Account, Position, Session
from tests.cache.nearby import near_cache, number

BUDGET = 2**20


def _account(n: int) -> Account:
    money = Decimal(f"{n}.25")
    return Account(n, f"RTX-{n:06d}", money, money, money, money, money, 3)


def _positions(n: int) -> tuple[Position, ...]:
    return tuple(
        Position(n * 100 + k, f"SYM{n}", "BUY", 1.0 + n, 1.1 + n, 1.2 + n, Decimal(f"{n}.50"))
        for k in range(20)
    )


KINDS: dict[str, tuple[Callable[[int], bytes], Callable[[bytes], object]]] = {
    "accounts": (lambda n: codecs.encode(_account(n)), codecs.decode_account),
    "positions": (lambda n: codecs.encode(_positions(n)), codecs.decode_positions),
    "no-positions": (lambda _: b"[]", codecs.decode_positions),
    "sessions": (
        lambda n: codecs.encode(Session(f"user-{n}", tuple(range(n, n + 30)), n, n)),
        codecs.decode_session,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_memory_stays_within_the_budget(
    shared_server: str, witness: redis_py.Redis, namespace: str, kind: str
) -> None:
    encode, decode = KINDS[kind]
    name, total, chunk = f"{namespace}:{kind}", 5_000, 500
    async with near_cache(shared_server, max_bytes=BUDGET) as near:
        gc.collect()
        tracemalloc.start()
        try:
            for first in range(0, total, chunk):
                numbers = range(first, first + chunk)
                await witness.mset({f"{name}:{n}": encode(n) for n in numbers})
                await asyncio.gather(*(near.fetch(f"{name}:{n}", decode) for n in numbers))
                assert near.stats.bytes <= BUDGET
                if near.stats.evictions > 1_000:
                    break
            await asyncio.sleep(0)  # the loop lets go of what it handed over last
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            stats = near.stats
            entries, counted = stats.entries, stats.bytes
            near._entries.clear()  # what they held is what they cost
            gc.collect()
            real = before - tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    print(f"{kind}: {entries} entries, counted {counted}, real {real}")
    assert stats.evictions > 1_000
    assert real < BUDGET * 1.2


async def test_the_oldest_go_first_but_what_is_read_is_spared(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    keys = [f"{namespace}:{n:03d}" for n in range(400)]
    await witness.mset(dict.fromkeys(keys, "1"))
    async with near_cache(shared_server, max_bytes=320 * 100) as near:
        await near.fetch(keys[0], number)
        entry = near.stats.bytes
        room = 320 * 100 // entry
        for key in keys[1:room]:
            await near.fetch(key, number)
        assert near.stats.entries == room
        assert near.stats.evictions == 0
        assert near.get(keys[0]) == near.get(keys[5]) == 1
        await near.fetch(keys[room], number)
        left = [key for key in keys[: room + 1] if key in near._entries]
        evicted = near.stats.evictions
        assert evicted >= 1
        gone = [n for n in range(room + 1) if keys[n] not in left]
        assert gone == [n for n in range(room) if n not in (0, 5)][:evicted]
        for key in keys[room + 1 :]:  # not read again, they go too
            await near.fetch(key, number)
        assert keys[0] not in near._entries
        assert near.stats.bytes <= 320 * 100
        assert near.stats.bytes == entry * near.stats.entries


async def test_when_all_were_read_some_go_all_the_same(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    keys = [f"{namespace}:{n:03d}" for n in range(400)]
    await witness.mset(dict.fromkeys(keys, "1"))
    async with near_cache(shared_server, max_bytes=320 * 100) as near:
        for key in keys:
            await near.fetch(key, number)
            for each in list(near._entries):
                near.get(each)
            assert near.stats.bytes <= 320 * 100
        assert near.get(keys[-1]) == 1
        assert near.stats.entries > 90


async def test_a_value_over_the_whole_budget_is_read_but_not_kept(
    shared_server: str, witness: redis_py.Redis, namespace: str
) -> None:
    small, large = f"{namespace}:small", f"{namespace}:large"
    await witness.mset({small: "1", large: " " * 50_000 + "2"})
    async with near_cache(shared_server, max_bytes=32_000) as near:
        await near.fetch(small, number)
        assert await near.fetch(large, number) == 2
        assert near.get(large) is None
        assert near.get(small) == 1
