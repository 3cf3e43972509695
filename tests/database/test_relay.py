"""The relay of the outbox: what a dead process left is handed on, by whoever is alive."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from rtx.database import Owed, Relay, SqlDatabase
from rtx.errors import DatabaseUnavailable, ServerError, Unavailable
from tests.conftest import eventually


class Debts:
    """An outbox in memory that lets a test go through the relay's rounds one by one.

    A round begins when the relay asks what is owed; it gets its answer at the next `round`.
    """

    def __init__(self, *debts: Owed) -> None:
        self.rows = {one.id: one for one in debts}
        self.fails: Exception | None = None
        self.settlements: list[list[int]] = []
        self.stuck = False
        self.rounds = 0
        self._asked = asyncio.Semaphore(0)
        self._answer = asyncio.Semaphore(0)

    async def owed(self, limit: int) -> list[Owed]:
        self._asked.release()
        await self._answer.acquire()
        self.rounds += 1
        if self.fails is not None:
            raise self.fails
        return [self.rows[id] for id in sorted(self.rows)][:limit]

    async def settled(self, ids: Sequence[int]) -> None:
        if self.fails is not None:
            raise self.fails
        self.settlements.append(list(ids))
        if not self.stuck:
            for id in ids:
                self.rows.pop(id, None)

    async def round(self) -> None:
        """Let the relay go through a round, up to its asking in the next."""
        if not self.rounds:
            await self._asked.acquire()
        self._answer.release()
        await self._asked.acquire()


class Caches:
    """What is told to invalidate, and what keeps it from it."""

    def __init__(self) -> None:
        self.told: list[list[int]] = []
        self.fails: Exception | None = None

    async def invalidate(self, owed: Sequence[Owed]) -> None:
        if self.fails is not None:
            raise self.fails
        self.told.append([one.id for one in owed])


def debt(id: int) -> Owed:
    return Owed(id, "account", id + 100, 1)


@asynccontextmanager
async def relaying(
    debts: Debts, caches: Caches, interval: float = 0.001, batch: int = 500
) -> AsyncIterator[Relay]:
    async with Relay(debts, caches.invalidate, interval=interval, batch=batch) as relay:
        yield relay


async def test_a_debt_that_is_there_for_two_rounds_is_handed_on_and_settled() -> None:
    debts, caches = Debts(debt(1)), Caches()
    async with relaying(debts, caches) as relay:
        await debts.round()
        assert caches.told == []
        debts.rows[2] = debt(2)
        await debts.round()
        assert caches.told == [[1]]
        assert list(debts.rows) == [2]
        await debts.round()
        assert caches.told == [[1], [2]]
        assert not debts.rows
        assert (relay.stats.relayed, relay.stats.settled, relay.stats.failures) == (2, 2, 0)


async def test_what_the_writer_has_done_itself_is_settled_and_not_handed_on() -> None:
    debts, caches = Debts(debt(1), debt(2)), Caches()
    async with relaying(debts, caches) as relay:
        relay.done(1)
        relay.done(0)
        await debts.round()
        assert debts.settlements == [[1]]
        await debts.round()
        assert caches.told == [[2]]
        assert not debts.rows


async def test_a_full_batch_is_handed_on_at_once_and_the_rest_without_a_pause() -> None:
    debts, caches = Debts(*map(debt, range(1, 8))), Caches()
    started = time.monotonic()
    async with relaying(debts, caches, interval=0.05, batch=3):
        for _ in range(3):
            await debts.round()
        assert caches.told == [[1, 2, 3], [4, 5, 6]]
        await debts.round()
        assert caches.told == [[1, 2, 3], [4, 5, 6], [7]]
    print(f"seven debts in batches of three: {time.monotonic() - started:.3f} s")


async def test_a_batch_that_cannot_be_settled_does_not_keep_the_relay_busy() -> None:
    debts, caches = Debts(*map(debt, range(1, 4))), Caches()
    debts.stuck = True
    async with relaying(debts, caches, interval=60.0, batch=3) as relay:
        assert relay._task is not None
        relay._task.cancel()  # not to wait a minute for the first round
        await asyncio.wait([relay._task])
        for _ in range(8):
            debts._answer.release()
        assert await relay._round()
        assert not await relay._round()


@pytest.mark.parametrize(
    "error",
    [Unavailable("Redis is away"), ServerError("LOADING"), ArithmeticError("a defect")],
    ids=lambda error: type(error).__name__,
)
async def test_what_cannot_be_handed_on_stays_and_is_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    debts, caches = Debts(debt(1)), Caches()
    caches.fails = error
    with caplog.at_level(logging.WARNING, "rtx.database.relay"):
        async with relaying(debts, caches) as relay:
            for _ in range(4):
                await debts.round()
            assert relay.stats.failures == 3
            assert list(debts.rows) == [1]
            assert debts.settlements == []
            caches.fails = None
            await debts.round()
            assert caches.told == [[1]]
            assert not debts.rows
    assert [str(error) in record.getMessage() for record in caplog.records] == [True]


async def test_a_database_that_is_away_is_asked_again() -> None:
    debts, caches = Debts(debt(1)), Caches()
    debts.fails = DatabaseUnavailable("the database is away")
    async with relaying(debts, caches) as relay:
        for _ in range(3):
            await debts.round()
        assert relay.stats.failures == 3
        debts.fails = None
        await debts.round()
        await debts.round()
        assert caches.told == [[1]]


async def test_pauses_grow_to_a_second_and_shrink_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("rtx.database.relay.asyncio.sleep", noted)
    debts, caches = Debts(), Caches()
    debts.fails = DatabaseUnavailable("the database is away")
    async with relaying(debts, caches, interval=0.25):
        for _ in range(5):
            await debts.round()
        debts.fails = None
        await debts.round()
        await debts.round()
    bounds = [0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 0.25]
    for pause, bound in zip(pauses[:7], bounds, strict=True):
        assert 0.8 * bound <= pause <= bound


async def test_its_end_settles_what_is_done_and_leaves_no_task() -> None:
    debts, caches = Debts(debt(1), debt(2)), Caches()
    before = asyncio.all_tasks()
    async with relaying(debts, caches) as relay:
        relay.done(1)
    assert list(debts.rows) == [2]
    assert asyncio.all_tasks() == before


async def test_its_end_waits_for_no_database_that_is_away() -> None:
    debts, caches = Debts(debt(1)), Caches()
    async with relaying(debts, caches) as relay:
        relay.done(1)
        debts.fails = DatabaseUnavailable("the database is away")
    assert list(debts.rows) == [1]


async def test_what_is_done_is_bounded() -> None:
    debts, caches = Debts(), Caches()
    async with relaying(debts, caches, interval=60.0) as relay:
        for id in range(1, 20_001):
            relay.done(id)
    (settled,) = debts.settlements
    assert len(settled) == 10_000


# --- on a real database ----------------------------------------------------------------------


def recorder(told: list[Owed]) -> Callable[[Sequence[Owed]], Awaitable[None]]:
    async def invalidate(owed: Sequence[Owed]) -> None:
        told.extend(owed)

    return invalidate


async def test_what_a_writer_left_is_handed_on_by_another_process(kept_url: str) -> None:
    told: list[Owed] = []
    async with SqlDatabase(kept_url) as alive, Relay(alive, recorder(told)):
        (account_id,) = await alive.add_accounts([("A", Decimal(0))])
        async with SqlDatabase(kept_url) as dying, dying.update_account(account_id) as account:
            account.balance += 1
        committed = time.monotonic()
        await eventually(lambda: told)
        print(f"handed on {time.monotonic() - committed:.3f} s after the commit")
        assert told == [Owed(account.outbox_id, "account", account_id, account.version)]

        async def settled() -> bool:
            return await alive.owed(10) == []

        await eventually(settled)


async def test_relays_of_several_processes_hand_on_every_change(kept_url: str) -> None:
    told: list[Owed] = []
    async with SqlDatabase(kept_url) as one, SqlDatabase(kept_url) as two:
        ids = await one.add_accounts((f"A{n}", Decimal(0)) for n in range(30))
        for account_id in ids:
            async with one.update_account(account_id) as account:
                account.balance += 1
        relays = [
            Relay(database, recorder(told), interval=0.02, batch=7) for database in (one, two)
        ]
        async with relays[0], relays[1]:

            async def settled() -> bool:
                return await one.owed(10) == []

            await eventually(settled)
            assert {owed.key for owed in told} == set(ids)
            assert all(relay.stats.failures == 0 for relay in relays)


async def test_a_writer_that_tells_the_caches_itself_is_not_relayed(url: str) -> None:
    told: list[Owed] = []
    async with SqlDatabase(url) as database:
        ids = await database.add_accounts((f"A{n}", Decimal(0)) for n in range(3))
        async with Relay(database, recorder(told), interval=60.0) as relay:
            for account_id in ids * 2:
                async with database.update_account(account_id) as account:
                    account.balance += 1
                relay.done(account.outbox_id)
        assert told == []
        assert await database.owed(10) == []
