"""What a full queue of ticks does, by its policy."""

from __future__ import annotations

import random
from collections import Counter

import rtx
from rtx.pubsub.backlog import Backlog, DropPolicy


def tick(number: int, symbol: str = "A") -> rtx.Tick:
    return rtx.Tick(symbol, time=number, bid=1.0, ask=2.0)


def full(policy: DropPolicy, size: int, ticks: list[rtx.Tick]) -> tuple[Backlog, Counter[str]]:
    dropped: Counter[str] = Counter()
    backlog = Backlog(policy, dropped)
    for one in ticks:
        backlog.put(one, len(backlog) < size)
        assert len(backlog) <= size
    return backlog, dropped


def numbers(ticks: list[rtx.Tick]) -> list[tuple[str, int]]:
    return [(one.symbol, one.time) for one in ticks]


def test_drop_oldest_keeps_the_newest_in_their_order() -> None:
    backlog, dropped = full("drop_oldest", 3, [tick(number) for number in range(10)])
    assert numbers(backlog.take(10)) == [("A", 7), ("A", 8), ("A", 9)]
    assert dropped == {"overflow": 7}


def test_conflate_keeps_every_tick_up_to_the_bound_and_then_the_latest_of_each_symbol() -> None:
    arrivals = [tick(1, "A"), tick(2, "B"), tick(3, "A"), tick(4, "B")]
    backlog, dropped = full("conflate", 4, arrivals)
    assert not dropped
    backlog.put(tick(5, "B"), has_room=False)
    backlog.put(tick(6, "C"), has_room=True)
    backlog.put(tick(7, "A"), has_room=True)
    assert numbers(backlog.take(10)) == [("B", 5), ("C", 6), ("A", 7)]
    assert dropped == {"conflated": 4}
    backlog.put(tick(8, "A"), has_room=True)  # it was emptied, so each counts again
    backlog.put(tick(9, "A"), has_room=True)
    assert numbers(backlog.take(1)) == [("A", 8)]
    assert len(backlog) == 1


def test_with_more_symbols_than_places_the_oldest_goes() -> None:
    backlog, dropped = full("conflate", 2, [tick(1, "A"), tick(2, "B"), tick(3, "C"), tick(4, "B")])
    assert numbers(backlog.take(1)) == [("C", 3)]
    assert numbers(backlog.take(1)) == [("B", 4)]
    assert dropped == {"overflow": 1, "conflated": 1}


def test_what_was_not_written_goes_back_before_the_rest() -> None:
    backlog, dropped = full("drop_oldest", 4, [tick(1), tick(2), tick(3)])
    taken = backlog.take(2)
    backlog.restore(taken, 4)
    assert numbers(backlog.take(4)) == [("A", 1), ("A", 2), ("A", 3)]
    backlog.put(tick(4), has_room=True)
    backlog.restore(taken, 2)
    assert numbers(backlog.take(4)) == [("A", 2), ("A", 4)]
    assert dropped == {"overflow": 1}
    one, conflated = full("conflate", 2, [tick(number, "AB"[number % 2]) for number in range(5)])
    one.restore([tick(-1, "C"), tick(-2, "A")], 2)
    assert numbers(one.take(4)) == [("B", 3), ("A", 4)]
    assert conflated == {"conflated": 4, "overflow": 1}


def test_nothing_is_lost_uncounted_and_symbols_stay_in_order(seeded: random.Random) -> None:
    policies: tuple[DropPolicy, DropPolicy] = ("conflate", "drop_oldest")
    for policy in policies:
        size = seeded.randint(1, 30)
        dropped: Counter[str] = Counter()
        backlog, out = Backlog(policy, dropped), []
        for number in range(3_000):
            if seeded.random() < 0.05:
                taken = backlog.take(seeded.randint(1, 20))
                if seeded.random() < 0.5:
                    backlog.restore(taken, size)
                else:
                    out += taken
            backlog.put(tick(number, seeded.choice("ABCDEFG")), len(backlog) < size)
            assert len(backlog) <= size
        out += backlog.take(size)
        assert len(out) + dropped.total() == 3_000
        for symbol in "ABCDEFG":
            times = [one.time for one in out if one.symbol == symbol]
            assert times == sorted(set(times))
