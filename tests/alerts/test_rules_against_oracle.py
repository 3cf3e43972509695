"""Every kind of rule fires at the very ticks at which a slow and obvious evaluation says so."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest

from rtx import codecs
from rtx.alerts import AlertRule, check
from rtx.alerts.gauge import Gauge
from rtx.alerts.hours import Hours
from rtx.alerts.slot import Slot
from rtx.alerts.window import Window
from rtx.models import Tick
from tests.alerts.oracle import Recorded, armed_slot, expected
from tests.conftest import shared_data
from tests.marking.test_board_replay import quotes


def random_rules(rng: random.Random, ticks: list[Tick], count: int) -> list[AlertRule]:
    """Rules whose thresholds are prices and moves that occur, exactly or nearly."""
    lowest, highest = min(tick.bid for tick in ticks), max(tick.ask for tick in ticks)
    rules = []
    for number in range(count):
        common = {
            "id": f"r{number}",
            "account_id": rng.randrange(5),
            "symbol": "EURUSD",
            "rearm": rng.choice(["manual", "auto"]),
        }
        kind = rng.choice(["price_above", "price_below", "price_moved", "spread_above"])
        step = (highest - lowest) / 20
        if kind == "spread_above":
            common["threshold"] = round(rng.choice(ticks).ask - rng.choice(ticks).bid, 5)
            if common["threshold"] <= 0:
                common["threshold"] = 0.0003
            step = common["threshold"] / 5
        elif kind == "price_moved":
            one, other = rng.choice(ticks), rng.choice(ticks)
            common["side"] = rng.choice(["bid", "ask", "mid"])
            common["direction"] = rng.choice(["any", "up", "down"])
            common["seconds"] = rng.choice([0.5, 2.0, 7.0, 60.0, 600.0])
            moved = abs(one.bid - other.bid) / other.bid * 100
            common["threshold"] = max(moved / rng.choice([1, 2, 5]), 1e-6)
            step = common["threshold"] / 5
        else:
            common["side"] = rng.choice(["bid", "ask", "mid"])
            common["threshold"] = rng.choice([rng.choice(ticks).bid, rng.choice(ticks).ask])
        if common["rearm"] == "auto":
            common["hysteresis"] = rng.choice([0.0, round(step, 6), round(step * rng.random(), 7)])
            common["cooldown"] = rng.choice([0.0, 0.0, 1.5, 30.0])
        rules.append(check(AlertRule(kind=kind, **common)))
    return rules


def random_ticks(rng: random.Random, count: int) -> list[Tick]:
    """A walk on a coarse grid, so that prices often equal thresholds; some in the same ms."""
    ticks, at, points = [], 1_700_000_000_000, 110_000
    for _ in range(count):
        at += rng.choice([0, 0, 1, 120, 400, 900, 5_000])
        points += rng.choice([-25, -10, -5, 0, 0, 5, 10, 25])
        ticks.append(
            Tick("EURUSD", time=at, bid=points / 1e5, ask=(points + rng.choice([5, 10, 40])) / 1e5)
        )
    return ticks


def compare(rules: list[AlertRule], ticks: list[Tick]) -> int:
    recorded = Recorded()
    for rule in rules:
        recorded.book.add(armed_slot(rule), 0.0)
    recorded.run(ticks)
    for rule in rules:
        assert recorded.fired.get(rule.id, []) == expected(rule, ticks), rule
    return sum(map(len, recorded.fired.values()))


def test_random_rules_over_random_ticks_fire_at_the_oracles_ticks(seeded: random.Random) -> None:
    fired = 0
    for _ in range(3):
        ticks = random_ticks(seeded, 250)
        fired += compare(random_rules(seeded, ticks, 40), ticks)
    assert fired > 60


def test_random_rules_over_a_days_quotes_fire_at_the_oracles_ticks(seeded: random.Random) -> None:
    rows = quotes(shared_data("eurusd-2020-01-01.histdata.csv"))
    start = seeded.randrange(len(rows) - 700)
    ticks = [
        Tick("EURUSD", time=at, bid=float(bid), ask=float(ask))
        for at, bid, ask in rows[start : start + 700]
        if float(bid) <= float(ask)
    ]
    assert all(one.time <= other.time for one, other in pairwise(ticks))
    fired = compare(random_rules(seeded, ticks, 40), ticks)
    assert fired > 20


def test_a_manual_rule_fires_once_and_again_after_it_was_re_armed() -> None:
    rule = AlertRule(id="r", account_id=1, kind="price_above", symbol="EURUSD", threshold=1.1)
    recorded, slot = Recorded(), armed_slot(rule)
    recorded.book.add(slot, 0.0)
    prices = [1.0, 1.1, 1.2, 1.0, 1.3]
    ticks = [Tick("EURUSD", time=n, bid=price, ask=price) for n, price in enumerate(prices)]
    recorded.run(ticks)
    assert recorded.fired == {"r": [2]}  # at the threshold itself it is not above it
    recorded.book.changed(slot)
    slot.armed = True
    recorded.index = 5
    recorded.book.watch(slot, 0.0)
    assert recorded.fired == {"r": [2, 5]}, "the price is above still"


def test_a_late_tick_is_passed_over_and_a_feed_that_was_set_back_is_not() -> None:
    rule = AlertRule(id="r", account_id=1, kind="price_above", symbol="EURUSD", threshold=1.1)
    recorded = Recorded()
    recorded.book.add(armed_slot(rule), 0.0)
    recorded.book.take(Tick("EURUSD", time=1000, bid=1.0, ask=1.0), 10.0)
    recorded.book.take(Tick("EURUSD", time=999, bid=1.2, ask=1.2), 10.9)
    assert (recorded.fired, recorded.stats.late) == ({}, 1)
    recorded.book.take(Tick("EURUSD", time=998, bid=1.2, ask=1.2), 11.5)
    assert recorded.fired == {"r": [0]}


def test_after_a_break_a_move_is_counted_from_the_break_only() -> None:
    rule = AlertRule(
        id="r", account_id=1, kind="price_moved", symbol="EURUSD", threshold=10.0, seconds=60
    )
    recorded = Recorded()
    recorded.book.add(armed_slot(rule), 0.0)
    recorded.run([Tick("EURUSD", time=0, bid=1.0, ask=1.0)])
    recorded.book.restart()
    recorded.run([Tick("EURUSD", time=1000, bid=1.2, ask=1.2)])
    assert recorded.fired == {}
    recorded.run([Tick("EURUSD", time=2000, bid=1.4, ask=1.4)])
    assert list(recorded.fired) == ["r"]


@pytest.mark.parametrize("count", [0, 1_000, 10_000])
def test_a_tick_costs_the_same_however_many_rules_it_does_not_touch(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded()
    rng = random.Random(7)
    for number in range(count):
        rule = AlertRule(
            id=f"r{number}",
            account_id=1,
            kind=rng.choice(["price_above", "price_below"]),
            symbol="EURUSD",
            side=rng.choice(["bid", "ask", "mid"]),
            threshold=1.0,
        )
        away = 1.2 + rng.random() if rule.kind == "price_above" else 1.0 - rng.random() / 2
        slot = armed_slot(rule)
        slot.fire = away
        recorded.book.add(slot, 0.0)
    ticks = [
        Tick("EURUSD", time=n, bid=1.1 + n % 7 * 1e-5, ask=1.1001 + n % 5 * 1e-5)
        for n in range(10_000)
    ]

    def looked(*_: object) -> list[Slot]:
        raise AssertionError("a tick that passes no level looks at no rule")

    monkeypatch.setattr(Gauge, "passed", looked)
    started = time.perf_counter()
    recorded.run(ticks)
    took = time.perf_counter() - started
    print(f"{count} rules: {took / len(ticks) * 1e9:,.0f} ns a tick")
    assert recorded.fired == {}
    assert recorded.stats.evaluated == len(ticks)


def test_a_market_is_open_in_its_hours_and_for_as_long_as_it_has_been() -> None:
    hours = Hours.parse("Sun 22:00-Fri 21:30")
    for text, open_for in (
        ("2026-01-16T21:29:59", 4 * 86_400 + 23 * 3600 + 29 * 60 + 59),  # a Friday
        ("2026-01-16T21:30:00", -1),
        ("2026-01-18T21:59:59", -1),
        ("2026-01-18T22:00:05", 5),
        ("2026-01-19T00:00:00", 7_200),
    ):
        assert hours.open_for(codecs.from_iso(text) / 1000) == open_for
    assert Hours.parse("").open_for(1.0) > 0


def test_a_window_without_a_turn_keeps_no_more_prices_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rtx.alerts.window._AT_MOST", 10)
    window = Window(3600)
    moves = [window.add(time, 1.0 + time) for time in range(20)]
    assert (len(window._lows), window.cut) == (10, 10)
    assert moves[9][0] == 900.0
    assert moves[19][0] == pytest.approx((20 - 11) / 11 * 100)
