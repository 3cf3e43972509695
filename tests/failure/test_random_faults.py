"""Random faults of the network, seeded, between a whole layer and its server.

Calls, scripts, publishers and subscriptions of every kind go through a proxy that cuts, resets,
slices, delays, freezes and black-holes. Afterwards every reply and every message is accounted for,
and every subscription is live again and was told of each gap. RTXTEST_SEED=n repeats schedule n.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets

import pytest

from rtx.setting_groups import ChannelSettings, PoolSettings
from rtx.settings import Settings
from rtx.urls import Standalone, parse
from tests.failure.trial import under_load
from tests.wire.faults import Proxy
from tests.wire.storms import calm, raging, random_faults

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

READ_TIMEOUT = 0.3
CONNECT_TIMEOUT = 1.0
STORM = 0.5
SCHEDULES = 4


def seeds(count: int) -> list[int]:
    repeated = os.environ.get("RTXTEST_SEED")
    return [int(repeated)] if repeated else [secrets.randbits(32) for _ in range(count)]


@pytest.mark.parametrize("number", range(SCHEDULES))
async def test_a_layer_under_random_faults_loses_and_doubles_nothing(
    settings: Settings, number: int
) -> None:
    for seed in seeds(1):
        await run_schedule(seed, settings)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_layer_under_hundreds_of_schedules_loses_and_doubles_nothing(
    settings: Settings,
) -> None:
    for seed in seeds(250):
        await run_schedule(seed, settings)


async def run_schedule(seed: int, settings: Settings) -> None:
    print(f"schedule: RTXTEST_SEED={seed}")
    chance = random.Random(seed)
    location = parse(settings.url.get_secret_value())
    assert isinstance(location, Standalone)
    async with Proxy(location.address) as proxy:
        hurt = Settings.load(
            url=f"redis://{proxy.address}",
            namespace=f"{settings.namespace}:{seed}",
            pool=PoolSettings(
                size=chance.choice([1, 4]),
                min_idle=chance.choice([0, 1, 3]),
                max_in_flight=chance.choice([3, 10_000]),
                max_age=chance.choice([0.2, 300.0]),
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                write_timeout=READ_TIMEOUT,
            ),
            channels=ChannelSettings(
                probe_interval=READ_TIMEOUT, queue_size=chance.choice([50, 10_000])
            ),
        )
        async with under_load(hurt, chance, what=f"schedule {seed}"):
            proxy.faults = lambda: random_faults(chance)
            proxy.cut_all()
            async with raging(proxy, chance, pause=0.1, freeze=READ_TIMEOUT * 1.2):
                await asyncio.sleep(STORM)
            await calm(proxy)
        print(f"{proxy.accepted} connections")
