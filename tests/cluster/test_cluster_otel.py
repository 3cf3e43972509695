"""OpenTelemetry in a cluster: a call is one span, however often it was sent on its way."""

from __future__ import annotations

import pytest

from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.slots import key_slot
from tests.monitoring.otel_memory import observed, recorded

pytestmark = pytest.mark.usefixtures("patient_drills")


async def test_a_redirected_call_is_one_span(
    cluster: LocalCluster, settings: Settings, namespace: str
) -> None:
    keys = [f"{{{namespace}}}:{n}" for n in range(4)]
    slot = key_slot(namespace.encode())
    lagging = Settings.load(**{**dict(settings), "reads": {"cache_from": "replica"}})
    async with observed(lagging) as layer:
        caller, reader = layer.pool(Role.CACHE), layer._roles.reader(Role.CACHE)
        await caller.batch([("SET", key, "1") for key in keys])
        owner = await cluster.owner(slot)
        to = next(each for each in await cluster.primaries() if each is not owner)
        source = await cluster.begin_migration(slot, to)
        await ask(source.port, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", keys[0])
        before = caller.stats.retries
        with recorded() as seen:
            assert await caller.call("GET", keys[0]) == b"1"
            assert caller.stats.retries > before, "the call was not redirected"
            assert await caller.call("MGET", *keys) == [b"1"] * 4
            assert await caller.batch([("GET", key) for key in keys]) == [b"1"] * 4
            await reader.call("GET", keys[1])  # a replica may not have it yet
        await cluster.move_keys(slot, source, to)
        await cluster.end_migration(slot, source, to)
    spans = seen.take()
    assert [span.name for span in spans] == ["GET", "MGET", "PIPELINE GET", "GET"]
    addresses = {str((span.attributes or {})["server.address"]) for span in spans}
    assert addresses == {cluster.url.rpartition("/")[2]}
    assert not any("error.type" in (span.attributes or {}) for span in spans)
