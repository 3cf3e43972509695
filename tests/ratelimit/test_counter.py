"""The two numbers of a counter: its arithmetic, its waits, and how far off it is."""

from __future__ import annotations

import random

import pytest

from rtx.ratelimit.rules import rule
from rtx.setting_groups import LimitSettings
from tests.ratelimit.test_oracle import EPOCH
from tests.ratelimit.virtual import VirtualServer, told, virtual


def settings(limit: int, window: int) -> LimitSettings:
    return LimitSettings(limit=limit, per=window / 1e6, algorithm="sliding_counter")


def arrivals(chance: random.Random, rate: float, until: int) -> list[int]:
    """Moments of a Poisson process; `rate` in hits a microsecond."""
    now, moments = 0.0, []
    while (now := now + chance.expovariate(rate)) < until:
        moments.append(EPOCH + int(now))
    return moments


def worst_window(moments: list[int], window: int) -> int:
    """The most hits in any window."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


def allowed(server: VirtualServer, key: str, message: bytes, moments: list[int]) -> list[int]:
    replies = server.send([server.decide(now, [key], [message]) for now in moments])
    return [now for now, reply in zip(moments, replies, strict=True) if told(reply, 0)[0][0] == 0]


async def test_steady_traffic_is_held_to_about_one_percent(
    admin_server: str, namespace: str, seeded: random.Random
) -> None:
    limit, window = 2_000, 1_000_000
    message = rule(settings(limit, window), limit, 1)
    with virtual(admin_server) as server:
        for load in (0.5, 0.9, 1.5, 3.0):
            moments = arrivals(seeded, load * limit / window, 8 * window)
            passed = allowed(server, f"{namespace}:count:{load}", message, moments)
            most = worst_window(passed, window)
            share = len(passed) / 8 / min(limit, load * limit)
            print(
                f"load {load:g}: worst window {most / limit:.3f} of the limit, passed {share:.3f}"
            )
            if load <= 0.9:
                assert len(passed) == len(moments)
            else:
                assert most <= 1.03 * limit
                assert len(passed) >= 0.97 * limit * 8


async def test_a_burst_at_the_edge_passes_a_counter_but_never_twice_the_limit(
    admin_server: str, namespace: str
) -> None:
    limit, window = 100, 1_000_000
    message = rule(settings(limit, window), limit, 1)
    moments = [EPOCH] + [EPOCH + window - 1_000 + n for n in range(99)]
    moments += [EPOCH + window + 900_000 + n for n in range(200)]
    with virtual(admin_server) as server:
        passed = allowed(server, f"{namespace}:edge", message, moments)
    most = worst_window(passed, window)
    print(f"worst window of a counter: {most} for a limit of {limit}")
    assert limit < most < 2 * limit


async def test_a_denial_ends_at_the_told_microsecond(
    admin_server: str, namespace: str, seeded: random.Random
) -> None:
    denials = 0
    with virtual(admin_server) as server:
        for number in range(60):
            limit, window = (
                seeded.choice([1, 3, 10, 100, 5_000]),
                seeded.randrange(50_000, 60_000_000),
            )
            key, now = f"{namespace}:told:{number}", EPOCH
            hit = rule(settings(limit, window), limit, 1)
            calls = []
            for _ in range(min(3 * limit, 600)):
                now += int(seeded.expovariate(2 * limit / window))
                calls.append(server.decide(now, [key], [hit]))
            server.send(calls)
            cost = seeded.randint(1, min(5, limit))
            look = rule(settings(limit, window), limit, cost, take=False)
            [(wait, *_)] = told(server.send([server.decide(now, [key], [look])])[0], window)
            if wait == 0:
                continue
            denials += 1
            assert 0 < wait <= 2 * window
            moments = [now + int(wait) + step for step in (-1_000, -2, 0) if wait + step > 0]
            replies = server.send([server.decide(at, [key], [look]) for at in moments])
            waits = [told(reply, window)[0][0] for reply in replies]
            assert waits[-1] == 0
            assert all(wait > 0 for wait in waits[:-1])
    assert denials > 20


async def test_what_it_counts_goes_within_a_window_after_the_last_hit(
    admin_server: str, namespace: str
) -> None:
    limit, window, key = 10, 1_000_000, f"{namespace}:gone"
    hit = rule(settings(limit, window), limit, 10)
    look = rule(settings(limit, window), limit, 1, take=False)
    with virtual(admin_server) as server:
        replies = server.send(
            [
                server.decide(EPOCH, [key], [hit]),
                server.decide(EPOCH + window - 1, [key], [look]),
                server.decide(EPOCH + window, [key], [look]),
            ]
        )
    [taken], [before], [after] = (told(reply, window) for reply in replies)
    assert taken[:3] == (0.0, 0, float(window))
    assert before[:3] == (1.0, 0, 1.0)
    assert after[:3] == (0.0, 10, 0.0)


@pytest.mark.parametrize("per", [0.5, 2.0])
async def test_another_window_begins_with_what_counts_now(
    admin_server: str, namespace: str, per: float
) -> None:
    key = f"{namespace}:other"
    first, second = settings(100, 1_000_000), settings(100, int(per * 1e6))
    with virtual(admin_server) as server:
        replies = server.send(
            [
                server.decide(EPOCH, [key], [rule(first, 100, 40)]),
                server.decide(EPOCH + 100, [key], [rule(second, 100, 10)]),
            ]
        )
    assert [told(reply, 0)[0][1] for reply in replies] == [60, 50]
