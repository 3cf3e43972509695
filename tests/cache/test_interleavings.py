"""When a write has returned, no read that begins later gives an older value, in any order of steps.

The seed of an interleaving that goes wrong is printed; RTXTEST_SEED has a run begin with it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from rtx.cache import Breaker, base, remote, trip
from rtx.cache.contract import Found
from rtx.wire import Pool, Script
from tests.cache.interleaving import Stale, chosen, interleave
from tests.cache.numbers import open_pool

IN_THE_SUITE = 2_000


@pytest.fixture
async def pool(shared_server: str) -> AsyncIterator[Pool]:
    async with open_pool(shared_server) as opened:
        yield opened


async def test_no_read_goes_back_behind_a_write_that_has_returned(
    pool: Pool, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    seeds = chosen(IN_THE_SUITE)
    steps = await interleave(pool, namespace, seeds, monkeypatch)
    print(f"{len(seeds)} interleavings, {steps} steps, {time.monotonic() - began:.1f} s")


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_no_read_goes_back_in_10_000_interleavings(
    pool: Pool, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await interleave(pool, namespace, chosen(10_000), monkeypatch)


async def test_nor_where_connections_break_on_the_way(
    pool: Pool, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process could not tell the server counts for its own readers only."""
    await interleave(pool, namespace, chosen(500), monkeypatch, faults=0.05)


def without_a_lease_in_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    check = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end\n"
    assert check in remote.FILL.text
    monkeypatch.setattr(remote, "FILL", Script(remote.FILL.text.replace(check, "")))


def with_invalidations_that_spare_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:

    drop = base.drop

    async def sparing(pool: Any, debts: dict[str, Any], timeout: float) -> None:
        await drop(pool, {key: replace(debt, companions=False) for key, debt in debts.items()}, 1.0)

    monkeypatch.setattr(base, "drop", sparing)


def with_joiners_that_take_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    landed = trip.Flight.land

    def land(flight: trip.Flight[int], outcome: Any) -> None:
        if isinstance(outcome, Found):
            outcome.moment = 10**9
        landed(flight, outcome)

    monkeypatch.setattr(trip.Flight, "land", land)


def with_nothing_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "owe", lambda *_: None)


@pytest.mark.parametrize(
    ("sabotage", "faults"),
    [
        (without_a_lease_in_fills, 0.0),
        (with_invalidations_that_spare_the_lease, 0.0),
        (with_joiners_that_take_anything, 0.0),
        (with_nothing_owed, 0.05),
    ],
)
async def test_the_schedule_finds_what_is_left_out(
    pool: Pool,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Any,
    faults: float,
) -> None:
    """What shows that these tests can fail; most is found within some dozens of seeds."""
    sabotage(monkeypatch)
    with pytest.raises(Stale):
        await interleave(pool, namespace, chosen(10_000), monkeypatch, faults=faults)
