"""Every public operation at a server that is full, or takes no writes: what it does then."""

from __future__ import annotations

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.cache.memory import MemoryDatabase
from tests.failure.test_every_operation import (
    DATABASE,
    DEGRADED,
    OPERATIONS,
    OWED,
    UNAVAILABLE,
    WORKS,
    outcome,
)

STORES = {
    f"{cache}.{name}"
    for cache in ("accounts", "positions", "symbols", "prices")
    for name in ("put", "put_many")
}
PUBLISHES = {f"{channel}.publish" for channel in ("market_data", "executions", "alerts")} | {
    "market_data.publish_many"
}
# Values can be dropped from a full server, so that a session can be ended, but not marked as over.
FULL = STORES | PUBLISHES | {"sessions.create", "sessions.revoke_all"}
READ_ONLY = FULL | {"sessions.revoke", "limits.reset"}


def expected(refused: set[str], error: str, dropping: str) -> dict[str, str]:
    found = dict.fromkeys(OPERATIONS, WORKS) | dict.fromkeys(refused, error)
    found |= {name: dropping for name, (_, without) in OPERATIONS.items() if without == OWED}
    return found | {"limits.hit": DEGRADED}


@pytest.mark.parametrize(
    ("trouble", "table"),
    [
        ("full", expected(FULL, "OutOfMemory", WORKS)),
        ("read-only", expected(READ_ONLY, "NotWritable", OWED)),
    ],
)
async def test_what_needs_no_write_goes_on(
    own_server: ServerProcess,
    brief: Settings,
    records: MemoryDatabase,
    trouble: str,
    table: dict[str, str],
) -> None:
    async with (
        rtx.open(brief, database=records) as layer,
        redis_py.Redis.from_url(own_server.url) as admin,
    ):
        token, _ = await layer.sessions.create("user-7", [1])
        if trouble == "full":
            await admin.config_set("maxmemory", 1)
        else:
            await admin.replicaof("127.0.0.1", 1)
        # What is owed to the server stops reads there, so that comes last.
        names = sorted(OPERATIONS, key=lambda name: OPERATIONS[name][1] == OWED)
        found = {name: (await outcome(layer, name, token))[0] for name in names}
        assert found == table
        # What is owed is tried again now and then: a read of a price then gets the error of that.
        again, _ = await outcome(layer, "prices.get", token)
        assert again in ((WORKS,) if trouble == "full" else (UNAVAILABLE, "NotWritable"))
        again, _ = await outcome(layer, "accounts.get", token)
        assert again == (WORKS if trouble == "full" else DATABASE)


async def test_ticks_go_out_from_a_full_server_and_their_price_is_said_not_to_be_stored(
    own_server: ServerProcess, brief: Settings
) -> None:
    async with (
        rtx.open(brief) as layer,
        redis_py.Redis.from_url(own_server.url) as admin,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await ticks.ready()
        await admin.config_set("maxmemory", 1)
        tick = rtx.Tick("EURUSD", time=1, bid=1.0, ask=2.0)
        with pytest.raises(rtx.errors.OutOfMemory):
            await layer.market_data.publish(tick)
        assert await anext(ticks) == tick
        assert await layer.prices.get("EURUSD") is None
