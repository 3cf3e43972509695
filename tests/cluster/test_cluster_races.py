"""Joins of a running feed where channels and prices are spread over nodes."""

from __future__ import annotations

import random

import pytest

import rtx
from tests.pubsub.races import Race


async def test_joins_of_a_running_feed_see_no_gap_no_duplicate_and_no_step_back(
    layer: rtx.DataLayer, other: rtx.DataLayer, seeded: random.Random
) -> None:
    await Race(layer, other, seeded).run(200, at_once=50)


@pytest.mark.soak
async def test_ten_thousand_joins_of_a_running_feed(
    layer: rtx.DataLayer, other: rtx.DataLayer, seeded: random.Random
) -> None:
    await Race(layer, other, seeded).run(10_000)
