"""When the server is not asked, what it is told first, and when it is trusted again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis.asyncio as redis_py

from rtx.cache import Breaker, Cache, breaker
from rtx.cache.remote import Debt
from rtx.errors import CallTimeout, ServerBusy, ServerError, Unavailable
from rtx.topology.process import ServerProcess
from rtx.wire import Pool, PoolStats
from tests.cache.numbers import CALM, Rows, numbers, open_pool
from tests.conftest import eventually

GONE = CallTimeout("no reply", maybe_applied=True)
PLAIN = Debt(0, False)


class Line:
    """A caller that answers as told: `answer` is a reply, or an error to raise."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.sent: list[tuple[Any, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._told: list[Callable[[], None]] = []

    async def call(self, *args: Any, timeout: float | None = None) -> Any:
        self.sent.append(args)
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def batch(self, commands: Sequence[Any], timeout: float | None = None) -> list[Any]:
        return [await self.call(*command) for command in commands]

    def on_loss(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def lose(self) -> None:
        for told in self._told:
            told()

    def dropped(self) -> list[str]:
        return [key for name, *keys in self.sent if name == "DEL" for key in keys]

    stats = PoolStats()


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
async def made(line: Line) -> AsyncIterator[Breaker]:
    made = Breaker(line)  # type: ignore[arg-type]
    yield made
    line.answer = None
    line.gate.set()
    await made.close()


async def closed_again(made: Breaker) -> None:
    await eventually(lambda: made.allows)


# --- open and closed -----------------------------------------------------------------------


async def test_it_opens_after_five_failures_in_a_row_and_closes_when_the_server_answers(
    made: Breaker, line: Line
) -> None:
    line.answer = GONE
    for _ in range(4):
        made.failed("k", GONE)
    made.succeeded()
    for count in range(5):
        assert made.allows
        assert made.calm == (count == 0)
        made.failed("k", GONE)
    assert not made.allows
    assert not made.calm
    await eventually(lambda: made.stats.probes >= 2)
    assert not made.allows
    assert made.stats.open == 1
    line.answer = None
    await closed_again(made)
    assert made.calm
    assert (made.stats.open, made.stats.opened) == (0, 1)
    assert set(line.sent) == {("GET", "k")}


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (None, True),
        (b"a value", True),
        (ServerError("WRONGTYPE", "WRONGTYPE"), True),
        (ServerError("NOPERM", "NOPERM"), True),
        (ServerBusy("LOADING", "LOADING"), False),
        (Unavailable("away"), False),
        (ValueError("a fault of ours"), False),
    ],
)
async def test_any_answer_closes_it_but_that_of_a_server_that_is_busy(
    made: Breaker, line: Line, answer: Any, closes: bool
) -> None:
    line.answer = answer
    for _ in range(5):
        made.failed("k", GONE)
    await eventually(lambda: made.stats.probes >= 1)
    await eventually(lambda: made.allows or made.stats.probes >= 2)
    assert made.allows == closes


async def test_one_probe_at_a_time_however_many_ask(made: Breaker, line: Line) -> None:
    for _ in range(5):
        made.failed("k", GONE)
    line.gate.clear()
    asking = [asyncio.ensure_future(made.attempt()) for _ in range(50)]
    await eventually(lambda: line.sent)
    asking += [asyncio.ensure_future(made.admit()) for _ in range(50)]
    await asyncio.sleep(0.01)
    assert len(line.sent) == 1
    line.gate.set()
    await asyncio.gather(*asking)
    assert made.allows


async def test_while_it_waits_to_probe_who_needs_the_server_is_told_why_at_once(
    made: Breaker, line: Line
) -> None:
    line.answer = GONE
    for _ in range(5):
        made.failed("k", ServerBusy("LOADING", "LOADING"))
    with pytest.raises(ServerBusy) as first:
        await made.admit()
    with pytest.raises(ServerBusy) as second:
        await made.admit()
    assert first.value is not second.value
    with pytest.raises(CallTimeout):  # asks again, for it may be back
        await made.attempt()


async def test_news_of_the_server_end_the_pause(made: Breaker, line: Line) -> None:
    line.answer = GONE
    for _ in range(5):
        made.failed("k", GONE)
    await eventually(lambda: made.stats.probes >= 5)  # the pause is up to 1 s by now
    line.answer = None
    began = time.monotonic()
    made.hurry()
    await closed_again(made)
    assert time.monotonic() - began < 0.3


# --- what is owed --------------------------------------------------------------------------


async def test_what_is_owed_opens_it_at_once_and_is_sent_before_it_closes(
    made: Breaker, line: Line
) -> None:
    line.answer = GONE
    made.owe({"a": PLAIN}, 60.0, GONE)
    made.owe({"b": Debt(0, True)}, 60.0, GONE)
    assert not made.allows
    await eventually(lambda: made.stats.probes >= 2)
    assert made.stats.owed == 2
    line.sent.clear()
    line.answer = None
    await closed_again(made)
    assert line.sent == [("DEL", "a", "{b}:lease", "b"), ("GET", "b")]
    assert (made.stats.owed, made.stats.settled) == (0, 2)


async def test_what_becomes_owed_during_a_probe_is_sent_before_it_closes_too(
    made: Breaker, line: Line
) -> None:
    made.owe({"a": PLAIN}, 60.0, GONE)
    line.gate.clear()
    await eventually(lambda: line.sent)
    made.owe({"b": PLAIN}, 60.0, GONE)
    made.owe({"a": PLAIN}, 60.0, GONE)  # again: the one under way may be too early
    line.gate.set()
    await closed_again(made)
    assert line.dropped() == ["a", "b", "a"] or line.dropped() == ["a", "a", "b"]


async def test_a_value_that_has_run_out_is_owed_no_more(made: Breaker, line: Line) -> None:
    line.answer = GONE
    made.owe({"a": PLAIN}, 0.05, GONE)
    made.owe({"b": PLAIN}, 60.0, GONE)
    await asyncio.sleep(0.06)
    line.sent.clear()
    line.answer = None
    await closed_again(made)
    assert line.dropped() == ["b"]


async def test_more_than_can_be_kept_means_no_trust_until_all_of_it_has_run_out(
    made: Breaker, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "_OWED_AT_MOST", 100)
    line.answer = GONE
    began = time.monotonic()
    made.owe({f"k{n}": PLAIN for n in range(90)}, 0.5, GONE)
    made.owe({f"l{n}": PLAIN for n in range(90)}, 0.1, GONE)
    assert made.stats.owed == 0
    line.answer = None
    await eventually(lambda: made.stats.probes >= 2)
    assert not made.allows
    with pytest.raises(Unavailable, match="nothing cached is trusted until it has run out"):
        await made.attempt()
    await closed_again(made)
    assert time.monotonic() - began >= 0.5


async def test_what_is_owed_at_the_end_is_tried_once_more(line: Line) -> None:
    made = Breaker(line)  # type: ignore[arg-type]
    line.answer = GONE
    made.owe({"a": PLAIN}, 60.0, GONE)
    await eventually(lambda: made.stats.probes >= 1)
    line.sent.clear()
    line.answer = None
    await made.close()
    assert line.dropped() == ["a"]


# --- after a loss --------------------------------------------------------------------------


async def test_what_was_confirmed_is_repeated_when_a_connection_is_lost(
    made: Breaker, line: Line
) -> None:
    made.confirm({"a": PLAIN, "b": Debt(0, True)}, 60.0)
    made.confirm({"old": PLAIN}, 0.0)
    line.lose()
    assert not made.allows
    line.lose()
    await closed_again(made)
    assert line.dropped() == ["a", "{b}:lease", "b"]
    assert made.stats.repeated == 2
    line.sent.clear()
    line.lose()  # a second failover may have lost the repetition
    assert not made.allows
    await closed_again(made)
    assert line.dropped() == ["a", "{b}:lease", "b"]


async def test_a_loss_with_nothing_to_repeat_changes_nothing(made: Breaker, line: Line) -> None:
    line.lose()
    assert made.allows
    assert made.stats.opened == 0


async def test_of_what_was_confirmed_the_oldest_is_forgotten_and_counted(
    made: Breaker, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "_RECENT_AT_MOST", 10)
    for n in range(15):
        made.confirm({f"k{n}": PLAIN}, 60.0)
    made.confirm({"k5": PLAIN}, 60.0)
    assert made.stats.forgotten == 5
    line.lose()
    await closed_again(made)
    assert sorted(line.dropped()) == sorted(f"k{n}" for n in range(5, 15))


# --- with caches ---------------------------------------------------------------------------


@pytest.fixture
async def pool(shared_server: str) -> AsyncIterator[Pool]:
    async with open_pool(shared_server) as opened:
        yield opened


async def test_a_cancelled_invalidation_costs_one_round_trip_of_trust(
    pool: Pool, namespace: str, witness: redis_py.Redis
) -> None:
    rows = Rows(n1=10)
    async with numbers(pool, namespace, rows) as cache:
        await cache.get(1)
        rows.rows[1] = 11
        dropping = asyncio.ensure_future(cache.invalidate(1))
        await asyncio.sleep(0)
        dropping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropping
        assert await cache.get(1) == 11
        assert cache.stats.fallbacks == 1
        await eventually(lambda: cache._breaker.allows)
        assert await witness.exists(f"{namespace}:1") == 0
        assert await cache.get(1) == 11
        assert (cache.stats.fallbacks, cache.stats.invalidations_owed) == (1, 1)


async def test_a_put_that_was_cancelled_is_an_invalidation_that_is_owed(
    pool: Pool, namespace: str
) -> None:
    rows = Rows(n1=10)
    async with numbers(pool, namespace, rows) as cache:
        await cache.get(1)
        rows.rows[1] = 11
        putting = asyncio.ensure_future(cache._put([(1, 11, 0)]))
        await asyncio.sleep(0)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        assert await cache.get(1) == 11
        await eventually(lambda: cache._breaker.allows)
        assert await cache.get(1) == 11


async def test_prices_are_not_refused_for_an_invalidation_that_was_cancelled(
    pool: Pool, namespace: str
) -> None:
    """A cache without a loader waits for the probe that is under way, and goes on."""
    async with numbers(pool, namespace, None) as cache:
        await cache._put([(1, 10, 0), (2, 20, 0)])
        dropping = asyncio.ensure_future(cache.invalidate(1))
        await asyncio.sleep(0)
        dropping.cancel()
        await asyncio.gather(dropping, return_exceptions=True)
        await asyncio.sleep(0)
        assert await cache.get_many([1, 2]) == {2: 20}


async def test_values_of_a_server_that_came_back_with_older_data_are_not_read(
    own_server: ServerProcess,
) -> None:
    """Restarted from a snapshot that was made before the invalidation."""
    rows = Rows(n1=10, n2=20)
    async with (
        open_pool(own_server.url) as pool,
        numbers(pool, "n", rows, settings=CALM) as cache,
    ):
        assert await cache.get_many([1, 2]) == {1: 10, 2: 20}
        await pool.call("SAVE")
        rows.rows[1] = 11
        assert await cache.invalidate(1) is True
        own_server.kill()
        await own_server.wait()
        await own_server.start()

        async def told() -> bool:
            assert await cache.get(1) == 11
            return cache._breaker.allows

        await eventually(told)
        assert await cache.get_many([1, 2]) == {1: 11, 2: 20}
        assert [2] not in rows.asked[1:], "nothing was left of the snapshot"
        assert cache._breaker.stats.repeated == 1


async def all_reads(cache: Cache[int, int]) -> list[Awaitable[object]]:
    return [cache.get(1), cache.get_many([1]), cache.lookup(1)]


async def test_without_a_loader_every_read_says_that_the_server_is_away(
    own_server: ServerProcess,
) -> None:
    async with open_pool(own_server.url) as pool, numbers(pool, "n", None) as cache:
        own_server.kill()
        await own_server.wait()
        for _ in range(3):
            for read in await all_reads(cache):
                with pytest.raises(Unavailable):
                    await read
        assert not cache._breaker.allows
        await own_server.start()
        await eventually(lambda: cache._breaker.allows)
        assert await cache.get(1) is None


async def test_with_a_loader_every_read_goes_to_the_database(own_server: ServerProcess) -> None:
    rows = Rows(n1=10)

    async def load(_id: int) -> int | None:
        return 7

    async with open_pool(own_server.url) as pool, numbers(pool, "n", rows) as cache:
        own_server.kill()
        await own_server.wait()
        for _ in range(4):
            assert await cache.get(1) == 10
            assert await cache.get_many([1, 9]) == {1: 10}
            looked = await cache.lookup(1)
            assert looked is not None
            assert (looked.source, looked.age, looked.stale) == ("database", 0.0, False)
            assert await cache.get_or_load(5, load) == 7
