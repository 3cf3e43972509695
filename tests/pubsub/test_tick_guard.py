"""What the guard refuses, by reason, and how a symbol finds its way out again."""

from __future__ import annotations

import math
import timeit
from collections import Counter

import pytest

import rtx
from rtx.feeds import ReplayFeed
from rtx.pubsub import guard as guards
from rtx.pubsub.guard import TickGuard
from rtx.setting_groups import MarketDataSettings
from rtx.settings import Settings
from tests.conftest import shared_data

NOON = 1_768_732_245_123


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(guards, "_time", clock)
    return clock


def tick(at: int = 0, mid: float = 1.0, symbol: str = "EURUSD", lp: str = "") -> rtx.Tick:
    return rtx.Tick(symbol, time=NOON + at, bid=mid - 0.0001, ask=mid + 0.0001, lp=lp)


def guard(**options: object) -> tuple[TickGuard, Counter[str]]:
    refused: Counter[str] = Counter()
    return TickGuard(MarketDataSettings.model_validate(options), refused), refused


def verdicts(guard: TickGuard, ticks: list[rtx.Tick]) -> list[str]:
    return ["" if (bad := guard.refusal(one)) is None else bad.reason for one in ticks]


# --- order -----------------------------------------------------------------------------------


def test_a_tick_older_than_the_newest_of_its_symbol_is_refused_and_one_of_its_time_is_not() -> None:
    one, refused = guard()
    steps = [tick(5), tick(5), tick(4), tick(4, symbol="GBPUSD"), tick(3), tick(6), tick(5)]
    expected = ["", "", "out_of_order", "", "out_of_order", "", "out_of_order"]
    assert verdicts(one, steps) == expected
    assert refused == {"out_of_order": 3}


def test_by_provider_each_has_a_clock_of_its_own_and_off_means_any_order() -> None:
    steps = [tick(5, lp="A"), tick(3, lp="B"), tick(2, lp="B"), tick(4, lp="A"), tick(4, lp="B")]
    by_provider, _ = guard(in_order="provider")
    assert verdicts(by_provider, steps) == ["", "", "out_of_order", "out_of_order", ""]
    off, _ = guard(in_order="off")
    assert verdicts(off, steps) == [""] * 5


def test_a_tick_from_the_future_silences_its_symbol_for_no_longer_than_settle(
    clock: Clock,
) -> None:
    one, _ = guard(settle=2.0)
    assert verdicts(one, [tick(50_000), tick(1), tick(2)]) == ["", "out_of_order", "out_of_order"]
    clock.now += 1.9
    assert verdicts(one, [tick(3)]) == ["out_of_order"]
    clock.now += 0.1
    assert verdicts(one, [tick(4), tick(5), tick(3)]) == ["", "", "out_of_order"]


def test_a_lagging_source_never_gets_in_while_a_good_one_goes_on(clock: Clock) -> None:
    one, _ = guard(settle=1.0)
    for step in range(50):
        clock.now += 0.3
        assert verdicts(one, [tick(step * 300), tick(step * 300 - 500)])[0] == ""
    assert verdicts(one, [tick(0)]) == ["out_of_order"]


def test_another_recording_begins_after_as_many_ticks_as_agree() -> None:
    one, _ = guard(agree=3)
    back = -10 * 60_000
    steps = [tick(), tick(back), tick(back + 5), tick(back + 4), tick(back + 5), tick(back + 6)]
    assert verdicts(one, steps) == ["", *["out_of_order"] * 4, ""]
    assert verdicts(one, [tick(back + 7), tick(back + 6)]) == ["", "out_of_order"]


def test_a_late_burst_of_the_same_recording_is_refused_whole() -> None:
    one, refused = guard(agree=3)
    verdicts(one, [tick()])
    assert set(verdicts(one, [tick(step - 5_000) for step in range(500)])) == {"out_of_order"}
    assert refused["out_of_order"] == 500


# --- jumps -----------------------------------------------------------------------------------


def test_a_jump_is_refused_in_both_directions_and_a_step_at_the_bound_is_not() -> None:
    one, refused = guard(max_jump=0.1)
    steps = [tick(1), tick(2, 1.2), tick(3, 1.0999), tick(4, 0.9), tick(5, 1.0)]
    assert verdicts(one, steps) == ["", "jump", "", "jump", ""]
    assert refused == {"jump": 2}


def test_a_level_shift_is_accepted_when_enough_ticks_agree_with_each_other() -> None:
    one, _ = guard(max_jump=0.1, agree=3)
    steps = [tick(mid=1.0), tick(mid=2.0), tick(mid=2.05), tick(mid=2.1), tick(mid=2.0)]
    assert verdicts(one, steps) == ["", "jump", "jump", "", ""]
    assert verdicts(one, [tick(mid=1.0)]) == ["jump"]


def test_wild_ticks_that_disagree_do_not_add_up_and_a_good_one_starts_the_count_afresh(
    clock: Clock,
) -> None:
    one, _ = guard(max_jump=0.1, agree=2)
    wild = [tick(mid=mid) for mid in (1.0, 2.0, 4.0, 8.0, 0.2, 16.0)]
    assert verdicts(one, wild) == ["", *["jump"] * 5]
    between = [tick(mid=mid) for mid in (1.0, 2.0, 1.01, 2.0, 1.0, 2.0)]
    assert verdicts(one, between) == ["", "jump"] * 3


def test_a_symbol_of_which_nothing_good_comes_is_accepted_after_settle(clock: Clock) -> None:
    one, _ = guard(max_jump=0.1, agree=1_000, settle=1.0)
    assert verdicts(one, [tick(mid=1.0), tick(mid=2.0)]) == ["", "jump"]
    clock.now += 1.0
    assert verdicts(one, [tick(mid=2.0), tick(mid=2.1), tick(mid=1.0)]) == ["", "", "jump"]


def test_a_symbol_may_have_a_bound_of_its_own_beside_the_usual_or_without_one() -> None:
    wider, _ = guard(max_jump=0.1, max_jump_of={"BTCUSD": 0.5})
    steps = [tick(), tick(mid=1.3), tick(symbol="BTCUSD"), tick(mid=1.3, symbol="BTCUSD")]
    assert verdicts(wider, steps) == ["", "jump", "", ""]
    alone, _ = guard(max_jump_of={"BTCUSD": 0.01})
    assert verdicts(alone, steps) == ["", "", "", "jump"]


def test_jumps_are_not_looked_for_unless_they_are_bounded() -> None:
    one, _ = guard()
    assert verdicts(one, [tick(mid=1.0), tick(mid=1_000.0), tick(mid=0.5)]) == [""] * 3


# --- all of it -------------------------------------------------------------------------------


def test_a_bad_tick_is_no_measure_for_the_next() -> None:
    one, refused = guard(max_jump=0.1)
    bad = [
        rtx.Tick("EURUSD", time=NOON + 90_000, bid=math.nan, ask=9.0),
        rtx.Tick("EURUSD", time=NOON + 90_000, bid=9.0, ask=8.0),
        rtx.Tick("EURUSD", time=NOON + 90_000, bid=0.0, ask=9.0),
        rtx.Tick("EURUSD", time=10**18, bid=9.0, ask=9.0),
    ]
    expected = ["", "not_finite", "crossed", "not_positive", "bad_time", ""]
    assert verdicts(one, [tick(), *bad, tick(1)]) == expected
    assert refused == {"not_finite": 1, "crossed": 1, "not_positive": 1, "bad_time": 1}


def test_it_remembers_a_bounded_number_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_SYMBOLS_AT_MOST", 10)
    one, _ = guard(max_jump=0.1)
    for number in range(100):
        good = tick(symbol=f"S{number}")
        assert verdicts(one, [good, tick(-1, symbol=f"S{number}")]) == ["", "out_of_order"]
        kept = (one._newest, one._mids, one._late, one._levels)
        assert max(map(len, kept)) <= 10


async def test_a_morning_of_real_ticks_passes_whole() -> None:
    """Real EURUSD quotes; none steps back in time, and none moves by a per cent at once."""
    one, refused = guard(max_jump=0.01)
    feed = ReplayFeed(shared_data("eurusd-2020-01-01.histdata.csv"), "EURUSD", math.inf)
    passed = 0
    async for batch in feed.batches():
        good, _ = one.passed(batch)
        passed += len(good)
    assert feed.stats.steps_back == 0
    assert passed == feed.stats.ticks > 1_000
    assert not refused


async def test_everything_that_publishes_goes_by_one_guard(settings: Settings) -> None:
    guarded = MarketDataSettings(max_jump=0.1)
    async with rtx.open(settings.model_copy(update={"market_data": guarded})) as layer:
        market = layer.market_data
        await market.publish(tick(5))
        with pytest.raises(rtx.BadTick, match="EURUSD") as late:
            await market.publish(tick(4))
        assert late.value.reason == "out_of_order"
        with pytest.raises(rtx.BadTick, match="from 1 to 2") as jump:
            await market.publish(tick(6, 2.0))
        assert jump.value.reason == "jump"
        result = await market.publish_many([tick(3), tick(6), tick(7, 3.0), tick(6)])
        assert result == rtx.Published(2, {"out_of_order": 1, "jump": 1})
        async with market.publisher() as out:
            assert [out.offer(tick(5)), out.offer(tick(8))] == [False, True]
        assert market.stats.refused == {"out_of_order": 3, "jump": 2}
        price = await layer.prices.get("EURUSD")
        assert price is not None
        assert price.time == NOON + 8


def test_its_cost_for_a_tick() -> None:
    """Printed, and bounded by what only a mistake would reach."""
    ticks = [tick(step, symbol=f"S{step % 100}") for step in range(10_000)]
    for options in ({}, {"max_jump": 0.1}):
        best = min(timeit.repeat(lambda: guard(**options)[0].passed(ticks), number=1, repeat=5))  # noqa: B023
        print(f"the guard with {options or 'order alone'}: {best / len(ticks) * 1e9:.0f} ns a tick")
        assert best / len(ticks) < 20e-6
