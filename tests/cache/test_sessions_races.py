"""Sessions that are made, read and ended at the same time, and programs that die half-way."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.setting_groups import SessionSettings
from rtx.settings import Settings
from rtx.wire import Caller

HOUR = 3_600_000


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Stepping:
    """A caller that stops before one of its calls, until it may go on or the caller dies."""

    def __init__(self, caller: Caller, stop_before: int) -> None:
        self._caller = caller
        self._left = stop_before
        self.stopped = asyncio.Event()
        self.may_go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._caller, name)
        if name not in ("call", "batch", "execute"):
            return real

        async def step(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self.stopped.set()
                await self.may_go_on.wait()
            return await real(*args, **options)

        return step


@pytest.fixture
async def two(
    settings: Settings, layer: rtx.DataLayer
) -> AsyncIterator[tuple[rtx.DataLayer, rtx.DataLayer]]:
    """Two processes: a layer to be stopped, and another; the server knows the scripts."""
    async with rtx.open(settings) as other:
        await other.sessions.create("somebody", [])
        await other.sessions.revoke_all("somebody")
        yield layer, other


def stopping(layer: rtx.DataLayer, before: int) -> Stepping:
    stepping = Stepping(layer.sessions._pool, before)
    layer.sessions._pool = stepping  # type: ignore[assignment]
    return stepping


async def until_stopped(stepping: Stepping, task: asyncio.Task[Any]) -> bool:
    """Whether the task came to the step, or ended without it."""
    stopped = asyncio.create_task(stepping.stopped.wait())
    await asyncio.wait((stopped, task), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return stepping.stopped.is_set()


async def without_entry(witness: redis_py.Redis, layer: rtx.DataLayer, user: str) -> set[str]:
    """Hashes of the sessions on the server that are not in the user's index."""
    prefix = layer.keys.session("")
    keys = [key.decode() async for key in witness.scan_iter(f"{prefix}*")]
    entries = {entry.decode() for entry in await witness.zrange(layer.keys.sessions(user), 0, -1)}
    return {key.removeprefix(prefix) for key in keys} - entries


@pytest.mark.parametrize("step", [1, 2, 3, 4])
async def test_a_login_that_races_with_the_end_of_all_comes_before_or_after(
    two: tuple[rtx.DataLayer, rtx.DataLayer], witness: redis_py.Redis, step: int
) -> None:
    layer, other = two
    stepping = stopping(layer, before=step)
    login = asyncio.create_task(layer.sessions.create("ann", [1]))
    await until_stopped(stepping, login)
    await other.sessions.revoke_all("ann")
    stepping.may_go_on.set()
    token, session = await login
    if step < 4:  # it had not ended, so it comes after
        assert await other.sessions.get(token) == session
        assert await other.sessions.of_user("ann") == (session,)
        assert await without_entry(witness, layer, "ann") == set()
    assert await other.sessions.revoke_all("ann") == (1 if step < 4 else 0)
    assert await other.sessions.get(token) is None
    assert await witness.exists(layer.keys.session(hash_of(token))) == 0


@pytest.mark.parametrize("step", [1, 2, 3, 4])
async def test_the_end_of_all_that_races_with_a_login_ends_what_was_there_before(
    two: tuple[rtx.DataLayer, rtx.DataLayer], witness: redis_py.Redis, step: int
) -> None:
    layer, other = two
    before, _ = await other.sessions.create("ann", [1])
    stepping = stopping(layer, before=step)
    ending = asyncio.create_task(layer.sessions.revoke_all("ann"))
    begun = await until_stopped(stepping, ending) and step > 1
    token, session = await other.sessions.create("ann", [1])
    stepping.may_go_on.set()
    assert await ending == (1 if begun or step == 4 else 2)
    assert await other.sessions.get(before) is None
    assert await other.sessions.get(token) == (session if begun or step == 4 else None)
    assert await without_entry(witness, layer, "ann") == set()


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_login_that_dies_half_way_leaves_nothing_that_escapes(
    two: tuple[rtx.DataLayer, rtx.DataLayer], witness: redis_py.Redis, step: int
) -> None:
    layer, other = two
    stepping = stopping(layer, before=step)
    login = asyncio.create_task(layer.sessions.create("ann", [1]))
    assert await until_stopped(stepping, login)
    login.cancel()
    await asyncio.wait([login])
    assert await without_entry(witness, layer, "ann") == set()
    await other.sessions.revoke_all("ann")
    assert await witness.keys(f"{layer.keys.session('')}*") == []


@pytest.mark.parametrize("step", [2, 3])
async def test_an_end_of_all_that_dies_after_its_first_step_has_ended_them(
    two: tuple[rtx.DataLayer, rtx.DataLayer], witness: redis_py.Redis, step: int
) -> None:
    layer, other = two
    tokens = [(await other.sessions.create("ann", [1]))[0] for _ in range(3)]
    assert len(await other.sessions.get_many(tokens)) == 3
    stepping = stopping(layer, before=step)
    ending = asyncio.create_task(layer.sessions.revoke_all("ann"))
    assert await until_stopped(stepping, ending)
    ending.cancel()
    await asyncio.wait([ending])
    assert await other.sessions.get_many(tokens) == {}
    assert await other.sessions.of_user("ann") == ()  # which tidies what is left
    assert await witness.keys(f"{layer.keys.session('')}*") == []


async def test_a_revocation_that_dies_half_way_leaves_an_entry_only(
    two: tuple[rtx.DataLayer, rtx.DataLayer],
) -> None:
    layer, other = two
    token, _ = await other.sessions.create("ann", [1])
    stepping = stopping(layer, before=3)
    ending = asyncio.create_task(layer.sessions.revoke(token))
    assert await until_stopped(stepping, ending)
    ending.cancel()
    await asyncio.wait([ending])
    assert await other.sessions.get(token) is None
    assert await other.sessions.of_user("ann") == ()
    assert await other.sessions.revoke_all("ann") == 0


@pytest.mark.parametrize("read_before", [True, False])
async def test_a_session_whose_entry_was_evicted_does_not_escape(
    two: tuple[rtx.DataLayer, rtx.DataLayer], witness: redis_py.Redis, read_before: bool
) -> None:
    layer, other = two
    token, session = await layer.sessions.create("ann", [1])
    await witness.delete(layer.keys.sessions("ann"))
    if read_before:
        assert await other.sessions.get(token) == session
        assert await other.sessions.of_user("ann") == (session,)
    assert await other.sessions.revoke_all("ann") == (1 if read_before else 0)
    assert await layer.sessions.get(token) is None
    assert await other.sessions.get(token) is None


async def test_a_session_of_another_program_counts_and_ends_with_the_others(
    two: tuple[rtx.DataLayer, rtx.DataLayer], witness: redis_py.Redis
) -> None:
    layer, other = two
    _, like = await layer.sessions.create("ann", [1])
    token = "a token of another program"
    await witness.set(layer.keys.session(hash_of(token)), rtx.codecs.encode(like), px=HOUR)
    assert await layer.sessions.get(token) == like
    assert await other.sessions.revoke_all("ann") == 2
    assert await layer.sessions.get(token) is None


@pytest.mark.parametrize("end", ["revoke", "revoke_all"])
async def test_a_use_that_races_with_the_end_does_not_bring_a_session_back(
    settings: Settings, witness: redis_py.Redis, end: str
) -> None:
    sliding = settings.model_copy(update={"sessions": SessionSettings(expiry="sliding")})
    async with rtx.open(sliding) as layer, rtx.open(sliding) as other:
        token, _ = await other.sessions.create("ann", [1])
        key = layer.keys.session(hash_of(token))
        worn = (await other.sessions.get(token)).expires_at - 20 * HOUR  # type: ignore[union-attr]
        session = rtx.codecs.decode_session(await witness.get(key))
        value = rtx.codecs.encode(session).replace(str(session.expires_at).encode(), b"%d" % worn)
        await witness.set(key, value, px=4 * HOUR)
        stepping = stopping(layer, before=3)  # session, index, and then the extension
        use = asyncio.create_task(layer.sessions.get(token))
        assert await until_stopped(stepping, use)
        ends: dict[str, Callable[[], Awaitable[object]]] = {
            "revoke": lambda: other.sessions.revoke(token),
            "revoke_all": lambda: other.sessions.revoke_all("ann"),
        }
        await ends[end]()
        stepping.may_go_on.set()
        assert await use is None
        assert await witness.exists(key) == 0


async def test_two_uses_at_once_extend_a_session_once_and_agree(
    settings: Settings, witness: redis_py.Redis
) -> None:
    sliding = settings.model_copy(update={"sessions": SessionSettings(expiry="sliding")})
    async with rtx.open(sliding) as layer, rtx.open(sliding) as other:
        token, session = await layer.sessions.create("ann", [1])
        key = layer.keys.session(hash_of(token))
        worn = str(session.expires_at - 20 * HOUR).encode()
        value = (await witness.get(key)).replace(str(session.expires_at).encode(), worn)
        await witness.set(key, value, px=4 * HOUR)
        stepping = stopping(layer, before=2)  # both keys at once, and then the extension
        late = asyncio.create_task(layer.sessions.get(token))
        assert await until_stopped(stepping, late)
        first = await other.sessions.get(token)
        stepping.may_go_on.set()
        assert await late == first
        assert first is not None
        assert first.expires_at >= session.expires_at


@dataclass
class Span:
    """When something was done; `over` is infinite while it is under way."""

    began: float
    over: float = math.inf


class Records:
    """What was done when, and what follows from that for each session."""

    def __init__(self) -> None:
        self.made: dict[str, Span] = {}
        self.ends: list[Span] = []
        self.ends_of_one: dict[str, list[Span]] = {}

    def of(self, token: str) -> list[Span]:
        return self.ends + self.ends_of_one.get(token, [])

    def is_over(self, token: str, now: float) -> bool:
        """Whether something ended it that began after the login was over."""
        made = self.made[token].over
        return any(end.began > made and end.over < now for end in self.of(token))

    def may_be_over(self, token: str) -> bool:
        return any(end.over > self.made[token].began for end in self.of(token))


async def test_whatever_is_interleaved_what_was_revoked_is_over_and_the_rest_counts(
    settings: Settings, seeded: random.Random, witness: redis_py.Redis
) -> None:
    """Three processes log in, look, log out and end all, at random; every answer is judged."""
    clock = asyncio.get_running_loop().time
    records = Records()
    judged = {"alive": 0, "over": 0}

    async def act(layer: rtx.DataLayer, rng: random.Random) -> None:
        for _ in range(60):
            await asyncio.sleep(rng.random() * 0.002)
            span, what = Span(clock()), rng.random()
            token = rng.choice(list(records.made)) if records.made else ""
            if what < 0.4 or not token:
                token, _ = await layer.sessions.create("ann", [1])
                records.made[token] = span
            elif what < 0.43:
                records.ends.append(span)
                await layer.sessions.revoke_all("ann")
            elif what < 0.48:
                records.ends_of_one.setdefault(token, []).append(span)
                await layer.sessions.revoke(token)
            else:
                over = records.is_over(token, clock())
                found = await layer.sessions.get(token)
                judged["alive" if found else "over"] += 1
                assert found is None or not over, "a session was read after its end"
                assert found or records.may_be_over(token), "a session ended by itself"
            span.over = clock()

    async with rtx.open(settings) as one, rtx.open(settings) as two, rtx.open(settings) as three:
        rngs = [random.Random(seeded.random()) for _ in range(12)]
        await asyncio.gather(*map(act, [one, two, three] * 4, rngs))
        print(judged, len(records.ends), "ends of all")
        assert min(*judged.values(), len(records.ends)) > 5
        alive = await two.sessions.get_many(records.made)
        for token in records.made:
            assert token not in alive or not records.is_over(token, clock())
            assert token in alive or records.may_be_over(token)
        listed = await one.sessions.of_user("ann")
        made = sorted(session.created_at for session in alive.values())
        assert [session.created_at for session in listed] == made
        assert await without_entry(witness, one, "ann") == set()
        assert await three.sessions.revoke_all("ann") == len(alive)
        assert await one.sessions.get_many(records.made) == {}
        assert await witness.keys(f"{one.keys.session('')}*") == []
