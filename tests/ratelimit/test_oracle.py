"""Random hits, under a clock of the test's own, are answered exactly as the oracle answers."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import pytest
import redis

from rtx.ratelimit.rules import rule
from rtx.setting_groups import LimitSettings
from tests.ratelimit.oracle import Oracle
from tests.ratelimit.virtual import Call, VirtualServer, head_of, told, virtual

EPOCH = 1_700_000_000_000_000
LIMITS = (1, 2, 3, 5, 10, 50, 100, 125, 126, 127, 200, 500, 1_000)
WINDOWS = (50_000, 100_000, 1_000_000, 60_000_000)
LONG = (4_289_999_999, 4_290_000_000, 2**32, 7_200_000_000, 86_400_000_000)


class Run:
    """Events of one key, with what the oracle answers to each."""

    def __init__(self, chance: random.Random, server: VirtualServer, key: str) -> None:
        self.chance, self.server, self.key = chance, server, key
        self.limit = chance.choice([*LIMITS, chance.randint(1, 1_000)])
        self.window = chance.choice([*WINDOWS, chance.randint(50_000, 60_000_000)])
        if chance.random() < 0.1:
            self.window = chance.choice(LONG)
        self.now = EPOCH + chance.randrange(10**13)
        if chance.random() < 0.2:  # where the times' 32 bits begin anew
            self.now = self.now // 2**32 * 2**32 - chance.randrange(self.window)
        # What one run does beside hitting: the limit moves, the window shrinks, hits go back.
        self.moves, self.shrinks, self.refunds = (chance.random() < 0.2 for _ in "abc")
        self.oracle = Oracle()
        self.taken = [-1]
        self.calls: list[Call] = []
        self.expected: list[Any] = []
        self.denied = 0

    def build(self, count: int) -> None:
        """Make events, most of them about as fast as the limit allows."""
        for _ in range(count):
            self._step()
            cost = self.chance.choice([1, 1, 1, 1, 2, 3, 4, 5])
            if self.moves and self.chance.random() < 0.01:
                self.limit = min(3_000, max(1, int(self.limit * self.chance.choice([0.5, 1.1, 2]))))
            if self.shrinks and self.chance.random() < 0.005:
                self.window = self.window // 2 + 1
            if self.refunds and self.chance.random() < 0.03:
                at = self.chance.choice(self.taken[-5:])
                self.calls.append(self.server.refund(self.now, self.key, cost, at, self.window))
                self.expected.append(self.oracle.refund(self.now, self.window, cost, at))
            else:
                self._hit(cost, take=self.chance.random() < 0.85)

    def _step(self) -> None:
        pace, style = self.window / self.limit, self.chance.random()
        if style < 0.3:
            step = 0
        elif style < 0.6:
            step = self.chance.randrange(int(pace) + 2)
        elif style < 0.95:
            step = int(self.chance.expovariate(1 / pace))
        elif style < 0.98:
            step = self.window - self.chance.randrange(2)  # exactly one window old, or not quite
        elif style < 0.99:
            step = int(self.window * self.chance.uniform(0.5, 3))
        elif self.refunds:
            # With the newest hit gone, a clock set back would bring hits back that the oracle has
            # dropped and the script may still have.
            step = 0
        else:
            step = -self.chance.randrange(self.window)  # the server's clock is set back
        self.now += step

    def _hit(self, cost: int, *, take: bool) -> None:
        settings = LimitSettings(limit=self.limit, per=self.window / 1e6)
        message = rule(settings, self.limit, cost, take=take)
        self.calls.append(self.server.decide(self.now, [self.key], [message]))
        answer = self.oracle.decide(self.now, self.limit, self.window, cost, take=take)
        self.expected.append((answer, self.window))
        self.denied += answer[0] != 0
        if take and answer[0] == 0:
            self.taken.append(answer[3])

    def check(self) -> None:
        replies = self.server.send(self.calls)
        for place, (reply, expected) in enumerate(zip(replies, self.expected, strict=True)):
            if isinstance(expected, int):
                assert reply == expected, (self.key, place)
            else:
                answer, window = expected
                assert told(reply, window) == [answer], (self.key, place, self.calls[place])


def race(url: str, namespace: str, chance: random.Random, events: int) -> None:
    done, denied, forms = 0, 0, Counter[tuple[bool, int]]()
    started = time.perf_counter()
    with virtual(url) as server, redis.Redis.from_url(url, db=2) as witness:
        while done < events:
            key = f"{namespace}:ratelimit:oracle:{done}"
            run = Run(chance, server, key)
            run.build(min(events - done, max(chance.choice([300, 1_000]), run.limit * 3)))
            run.check()
            done, denied = done + len(run.calls), denied + run.denied
            log = witness.getdel(key)
            forms[head_of(log) if isinstance(log, bytes) else (False, 0)] += 1
    took = time.perf_counter() - started
    print(f"{done:,} events in {took:.1f} s, {denied:,} denied; logs (in parts, bytes) {forms}")
    assert denied > done // 20
    assert {(False, 4), (True, 4)} <= set(forms)


@pytest.mark.timeout(120)
async def test_random_hits_are_answered_as_an_oracle_does(
    admin_server: str, namespace: str, seeded: random.Random
) -> None:
    race(admin_server, namespace, seeded, 200_000)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_million_random_hits_are_answered_as_an_oracle_does(
    admin_server: str, namespace: str, seeded: random.Random
) -> None:
    race(admin_server, namespace, seeded, 1_000_000)


async def test_a_denial_ends_at_the_told_microsecond(
    admin_server: str, namespace: str, seeded: random.Random
) -> None:
    tried = 0
    with virtual(admin_server) as server:
        for number in range(60):
            key, limit = f"{namespace}:told:{number}", seeded.choice([1, 3, 10, 100, 400])
            window, now = seeded.randrange(50_000, 60_000_000), EPOCH
            settings = LimitSettings(limit=limit, per=window / 1e6)
            cost = seeded.randint(1, min(5, limit))
            hit, look = rule(settings, limit, 1), rule(settings, limit, cost, take=False)
            calls = []
            for _ in range(limit):
                now += seeded.randrange(window // limit)
                calls.append(server.decide(now, [key], [hit]))
            server.send(calls)
            [(wait, *_)] = told(server.send([server.decide(now, [key], [look])])[0], window)
            assert wait > 0
            free = now + int(wait)
            moments = (free - 1_000, free - 1, free)
            replies = server.send([server.decide(at, [key], [look]) for at in moments if at >= now])
            waits = [told(reply, window)[0][0] for reply in replies]
            assert waits == [float(free - at) for at in moments if at >= now]
            tried += 1
    assert tried == 60


async def test_a_thousand_calls_within_a_millisecond_get_exactly_the_limit(
    admin_server: str, namespace: str, seeded: random.Random
) -> None:
    settings = LimitSettings(limit=10, per=1.0)
    message, key = rule(settings, 10, 1), f"{namespace}:burst"
    moments = sorted(EPOCH + seeded.randrange(1_000) for _ in range(1_000))
    with virtual(admin_server) as server:
        replies = server.send([server.decide(now, [key], [message]) for now in moments])
    answers = [told(reply, 1_000_000)[0] for reply in replies]
    assert [wait for wait, *_ in answers[:10]] == [0.0] * 10
    assert all(wait > 0 for wait, *_ in answers[10:])


async def test_a_window_that_grows_keeps_the_hits_it_knows(
    admin_server: str, namespace: str
) -> None:
    key = f"{namespace}:growing"
    with virtual(admin_server) as server, redis.Redis.from_url(admin_server, db=2) as witness:
        for number, per in enumerate((1.0, 60.0, 3_600.0, 7_200.0, 86_400.0)):
            settings = LimitSettings(limit=200, per=per)
            message = rule(settings, 200, 30)
            [reply] = server.send([server.decide(EPOCH + number * 1_000, [key], [message])])
            assert told(reply, round(per * 1e6))[0][:2] == (0.0, 170 - 30 * number)
        log = witness.get(key)
        assert isinstance(log, bytes)
        assert head_of(log) == (True, 8)
        look = rule(settings, 200, 51, take=False)
        [reply] = server.send([server.decide(EPOCH + 10_000, [key], [look])])
        assert told(reply, 0)[0][:2] == (86_400e6 - 10_000, 50)
