"""Several real processes evaluate the same rules: every alert comes once, whoever dies."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

import rtx
from rtx.alerts import AlertRule
from rtx.models import Tick
from rtx.settings import Settings
from tests.alerts.evaluator import evaluators
from tests.alerts.oracle import expected
from tests.alerts.test_rules_against_oracle import random_rules, random_ticks
from tests.conftest import eventually


async def fired(layer: rtx.DataLayer, accounts: int) -> Counter[str]:
    """How often each rule has fired, as the logs have it."""
    found: Counter[str] = Counter()
    for account in range(accounts):
        history = await layer.alerts.history(account, limit=1_000)
        found.update(alert.rule for alert in history.messages)
    return found


async def prepared(layer: rtx.DataLayer, rng: random.Random) -> tuple[list[AlertRule], list[Tick]]:
    ticks = random_ticks(rng, 300)
    rules = random_rules(rng, ticks, 60)
    await asyncio.gather(*map(layer.alert_rules.put, rules))
    return rules, ticks


def expected_of_all(rules: list[AlertRule], ticks: list[Tick]) -> Counter[str]:
    return Counter({rule.id: n for rule in rules if (n := len(expected(rule, ticks)))})


async def publish(layer: rtx.DataLayer, ticks: list[Tick]) -> None:
    for start in range(0, len(ticks), 10):
        await layer.market_data.publish_many(ticks[start : start + 10])


async def test_four_processes_fire_each_alert_once(
    settings: Settings, layer: rtx.DataLayer, shared_server: str, namespace: str,
    seeded: random.Random,
) -> None:  # fmt: skip
    rules, ticks = await prepared(layer, seeded)
    async with evaluators(shared_server, namespace, 4) as processes:
        await publish(layer, ticks)
        wanted = expected_of_all(rules, ticks)
        await eventually(lambda: _all_there(layer, wanted), within=20)
        counted = await asyncio.gather(*(one.stop() for one in processes))
    assert await fired(layer, 5) == wanted
    assert sum(one["fired"] for one in counted) == wanted.total()
    assert all(one["owed"] == one["dropped"] == 0 for one in counted)
    print("fired by process:", [one["fired"] for one in counted])


async def test_a_process_that_is_killed_takes_no_alert_with_it_and_doubles_none(
    layer: rtx.DataLayer, shared_server: str, namespace: str, seeded: random.Random
) -> None:
    rules, ticks = await prepared(layer, seeded)
    async with evaluators(shared_server, namespace, 3) as processes:
        publishing = asyncio.create_task(publish(layer, ticks))
        await eventually(lambda: _some_there(layer))
        await processes[0].kill()
        await publishing
        wanted = expected_of_all(rules, ticks)
        await eventually(lambda: _all_there(layer, wanted), within=20)
        await asyncio.gather(*(one.stop() for one in processes[1:]))
    assert await fired(layer, 5) == wanted


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("round", range(30))
async def test_a_process_is_killed_at_any_moment(
    round: int, settings: Settings, layer: rtx.DataLayer, shared_server: str, seeded: random.Random
) -> None:
    rules, ticks = await prepared(layer, seeded)
    async with evaluators(shared_server, settings.namespace, 4) as processes:
        publishing = asyncio.create_task(publish(layer, ticks))
        await asyncio.sleep(seeded.random() * 0.2)
        await processes[0].kill()
        await publishing
        wanted = expected_of_all(rules, ticks)
        await eventually(lambda: _all_there(layer, wanted), within=20)
        await asyncio.gather(*(one.stop() for one in processes[1:]))
    assert await fired(layer, 5) == wanted


async def _some_there(layer: rtx.DataLayer) -> bool:
    return bool(await fired(layer, 5))


async def _all_there(layer: rtx.DataLayer, wanted: Counter[str]) -> bool:
    return (await fired(layer, 5)).total() >= wanted.total()
