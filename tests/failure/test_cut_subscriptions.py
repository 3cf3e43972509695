"""A subscriber's connection cut at any byte: in the greeting, a confirmation or a message."""

from __future__ import annotations

import asyncio
import random

import pytest

import rtx
from rtx.settings import Settings
from rtx.topology import Role
from rtx.urls import Standalone, parse
from tests.failure.following import following
from tests.wire.faults import HEALTHY, Faults, Proxy

ALL = 1_500
"""Bytes that take in greeting, confirmations, and several messages of each channel."""

PATIENCE = 0.2
"""Seconds for each connection, of which it needs about ten milliseconds."""


async def cut_at(cuts: list[int], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each connection of a subscriber end at the next of these bytes, and then one live."""
    monkeypatch.setattr("rtx.wire.backoff._FIRST", 0.001)
    monkeypatch.setattr("rtx.wire.backoff._LAST", 0.001)
    location = parse(settings.url.get_secret_value())
    assert isinstance(location, Standalone)
    async with Proxy(location.address) as proxy:
        # One connection for each role, so that all that are dialed later are the subscriber's.
        pool = settings.pool.model_copy(update={"size": 1, "min_idle": 0})
        via_proxy = Settings.load(
            url=f"redis://{proxy.address}", namespace=settings.namespace, pool=pool
        )
        async with rtx.open(via_proxy) as layer, rtx.open(settings) as feed:
            async with following(layer, feed) as follower:
                left = iter(cuts)
                over = asyncio.Event()

                def next_cut() -> Faults:
                    cut = next(left, None)
                    if cut is None:
                        over.set()
                        return HEALTHY
                    return Faults(cut_replies_after=cut, slice=1 + cut % 50, reset=cut % 3 == 0)

                proxy.faults = next_cut
                await feed._roles.pool(Role.PUBSUB).call("CLIENT", "KILL", "TYPE", "pubsub")
                async with asyncio.timeout(PATIENCE * len(cuts)):
                    await over.wait()
                await follower.back()
            hub = layer.hub.stats
            print(f"{len(cuts)} cuts: {follower.report()}; {hub}")
            follower.check()
            assert hub.losses > len(cuts) // 4
            assert follower.told


async def test_a_cut_at_any_byte_is_told_before_what_follows_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seeded: random.Random
) -> None:
    await cut_at(list(range(seeded.randrange(8), ALL, 8)), settings, monkeypatch)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_cut_at_every_byte_is_told_before_what_follows_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cut_at(list(range(ALL)), settings, monkeypatch)
