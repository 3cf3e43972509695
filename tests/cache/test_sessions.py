"""Sessions that only their tokens open, and that end when they should."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable

import msgspec
import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import SettingsError
from rtx.models import now_ms
from rtx.setting_groups import SessionSettings, TTLSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def key_of(layer: rtx.DataLayer, token: str) -> str:
    return layer.keys.session(hashlib.sha256(token.encode()).hexdigest())


@pytest.fixture
def sliding(settings: Settings) -> Settings:
    """Sessions of 24 hours after the last use, and of 7 days at most."""
    return settings.model_copy(update={"sessions": SessionSettings(expiry="sliding")})


async def age(witness: redis_py.Redis, key: str, by: int) -> bytes:
    """Let `by` milliseconds of a session pass: its end comes nearer, by the value and the TTL."""
    session = json.loads(await witness.get(key))
    session["created_at"] -= by
    session["expires_at"] -= by
    value = json.dumps(session, separators=(",", ":")).encode()
    await witness.set(key, value, px=await witness.pttl(key) - by)
    return value


# --- tokens ----------------------------------------------------------------------------------


async def test_a_session_opens_with_its_token_and_nothing_else(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    token, session = await layer.sessions.create("user-7", iter([1, 2]))
    other, _ = await layer.sessions.create("user-7", [])
    assert (session.user_id, session.accounts) == ("user-7", (1, 2))
    assert session.expires_at - session.created_at == DAY
    assert token != other
    assert len(token) >= 43
    assert await layer.sessions.get(token) == session
    hashed = hashlib.sha256(token.encode()).hexdigest()
    for wrong in (hashed, token[:-1], token.upper(), "", "*", f"{token}\n", "Ü" * 50, "\ud800"):
        assert await layer.sessions.get(wrong) is None
        assert await layer.sessions.revoke(wrong) is False
    for key in [key async for key in witness.scan_iter(f"{layer.keys.namespace}:*")]:
        value = await witness.dump(key)
        for secret in (token, other):
            assert secret.encode() not in key
            assert secret.encode() not in value


async def test_several_tokens_are_read_at_once(layer: rtx.DataLayer) -> None:
    first, one = await layer.sessions.create("user-7", [1])
    second, two = await layer.sessions.create("user-8", [2])
    found = await layer.sessions.get_many([second, "no such token", first, second])
    assert list(found.items()) == [(second, two), (first, one)]


async def test_a_session_is_looked_up_and_has_fields_as_other_values(layer: rtx.DataLayer) -> None:
    token, session = await layer.sessions.create("user-7", [1])
    found = await layer.sessions.lookup(token)
    assert found is not None
    assert (found.value, found.source) == (session, "redis")
    assert await layer.sessions.field(token, "user_id") == "user-7"
    await layer.sessions.revoke_all("user-7")
    assert await layer.sessions.lookup(token) is None
    assert await layer.sessions.field(token, "user_id") is None
    with pytest.raises(SettingsError, match="create"):
        await layer.sessions.get_or_load(token, lambda _: asyncio.sleep(0, session))


async def test_a_value_that_is_no_session_is_none(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    token, _ = await layer.sessions.create("user-7", [1])
    for value in (b"", b"{", b"[]", b'{"user_id":7}', b"\xff"):
        await witness.set(key_of(layer, token), value)
        assert await layer.sessions.get(token) is None
    await witness.delete(key_of(layer, token))
    await witness.hset(key_of(layer, token), "no", "session")
    assert await layer.sessions.get(token) is None
    assert layer.sessions.stats.undecodable == 6
    assert await layer.sessions.revoke(token) is True


async def test_neither_token_nor_hash_is_in_an_error_or_the_log(
    own_server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    async def fails(what: Callable[[], object]) -> None:
        with pytest.raises(rtx.RtxError) as caught:
            await what()  # type: ignore[misc]
        told.append(f"{caught.value!r} {caught.value.__cause__!r}")

    async with (
        rtx.open(Settings.load(url=own_server.url)) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        token, _ = await layer.sessions.create("user-7", [1])
        index = layer.keys.sessions("user-7")
        await witness.set(index, "no index")
        await fails(lambda: layer.sessions.get(token))
        await fails(lambda: layer.sessions.revoke_all("user-7"))
        await witness.delete(index)
        await witness.config_set("maxmemory", "1")
        await fails(lambda: layer.sessions.create("user-7", [1]))
        own_server.kill()
        await own_server.wait()
        await fails(lambda: layer.sessions.get(token))
        await fails(lambda: layer.sessions.revoke(token))
    text = "\n".join([*told, caplog.text, repr(layer.sessions), repr(layer.sessions.stats)])
    hashed = hashlib.sha256(token.encode()).hexdigest()
    assert token not in text
    assert hashed not in text


# --- expiry ----------------------------------------------------------------------------------


async def test_a_session_ends_by_itself(settings: Settings) -> None:
    brief = settings.model_copy(update={"ttl": TTLSettings(session=0.15)})
    async with rtx.open(brief) as layer:
        token, session = await layer.sessions.create("user-7", [1])
        assert session.expires_at - session.created_at == 150

        async def over() -> bool:
            asked = now_ms()
            found = await layer.sessions.get(token)
            assert found is None or asked <= session.expires_at + 500, "it outlives its end"
            return found is None

        await eventually(over, within=5)


async def test_a_fixed_session_is_not_extended_by_its_use(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    token, session = await layer.sessions.create("user-7", [1])
    value = await age(witness, key_of(layer, token), by=20 * HOUR)
    found = await layer.sessions.get(token)
    assert found is not None
    assert found.expires_at == session.expires_at - 20 * HOUR
    assert await witness.get(key_of(layer, token)) == value
    assert await witness.pttl(key_of(layer, token)) <= 4 * HOUR


async def is_true(layer: rtx.DataLayer, witness: redis_py.Redis, token: str) -> rtx.Session:
    """Read a session; its end is when its key ends, to half a second."""
    found = await layer.sessions.get(token)
    assert found is not None
    left = await witness.pttl(key_of(layer, token))
    assert abs(found.expires_at - (now_ms() + left)) < 500
    return found


async def test_a_use_gives_a_sliding_session_its_whole_time_again(
    sliding: Settings, witness: redis_py.Redis
) -> None:
    async with rtx.open(sliding) as layer:
        token, session = await layer.sessions.create("user-7", [1, 2])
        await age(witness, key_of(layer, token), by=20 * HOUR)
        before = now_ms()
        found = await is_true(layer, witness, token)
        assert before + DAY <= found.expires_at <= now_ms() + DAY
        assert found == msgspec.structs.replace(
            session, created_at=session.created_at - 20 * HOUR, expires_at=found.expires_at
        )
        assert layer.sessions.stats.extended == 1


async def test_a_sliding_session_is_written_once_in_a_twentieth_of_its_time(
    sliding: Settings, witness: redis_py.Redis
) -> None:
    async with rtx.open(sliding) as layer:
        token, _ = await layer.sessions.create("user-7", [1])
        value = await age(witness, key_of(layer, token), by=DAY // 20 - MINUTE)
        for _ in range(3):
            await is_true(layer, witness, token)
        assert await witness.get(key_of(layer, token)) == value
        await age(witness, key_of(layer, token), by=MINUTE)
        for _ in range(3):
            await is_true(layer, witness, token)
        assert layer.sessions.stats.extended == 1


async def test_however_often_it_is_used_a_sliding_session_ends_at_its_greatest_age(
    sliding: Settings, witness: redis_py.Redis
) -> None:
    async with rtx.open(sliding) as layer:
        token, session = await layer.sessions.create("user-7", [1])
        latest = session.created_at + 7 * DAY
        for number in range(1, 8):
            await age(witness, key_of(layer, token), by=23 * HOUR)
            found = await is_true(layer, witness, token)
            assert found.expires_at <= latest - number * 23 * HOUR
        assert found.expires_at == found.created_at + 7 * DAY
        await age(witness, key_of(layer, token), by=found.expires_at - now_ms() - HOUR)
        found = await is_true(layer, witness, token)
        assert found.expires_at == found.created_at + 7 * DAY
        assert await witness.pttl(key_of(layer, token)) <= HOUR


async def test_what_other_programs_keep_in_a_session_outlives_an_extension(
    sliding: Settings, witness: redis_py.Redis
) -> None:
    async with rtx.open(sliding) as layer:
        token, session = await layer.sessions.create('"expires_at":1,', [1])
        given = {"ip": "192.0.2.1", **msgspec.to_builtins(session), "note": 'a "b" \n', "n": 10**17}
        given["expires_at"] -= 20 * HOUR
        await witness.set(key_of(layer, token), json.dumps(given, indent=1), px=4 * HOUR)
        found = await layer.sessions.get(token)
        assert found is not None
        assert found.expires_at > given["expires_at"]
        kept = json.loads(await witness.get(key_of(layer, token)))
        assert kept == {**given, "accounts": [1], "expires_at": found.expires_at}


async def test_a_session_that_cannot_be_extended_is_read_as_it_is(
    own_server: ServerProcess,
) -> None:
    settings = Settings.load(url=own_server.url, sessions={"expiry": "sliding"})
    async with (
        rtx.open(settings) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        token, session = await layer.sessions.create("user-7", [1])
        await age(witness, key_of(layer, token), by=20 * HOUR)
        await witness.config_set("maxmemory", "1")
        found = await layer.sessions.get(token)
        assert found is not None
        assert found.expires_at == session.expires_at - 20 * HOUR
        assert layer.sessions.stats.extend_failures == 1


def test_a_greatest_age_below_the_ttl_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"sessions\.max_age .* shorter than ttl\.session"):
        Settings.load(sessions={"expiry": "sliding", "max_age": "1h"})
    assert Settings.load(sessions={"max_age": "1h"}).sessions.expiry == "fixed"


# --- of a user -------------------------------------------------------------------------------


async def test_a_revoked_session_is_over_everywhere(
    layer: rtx.DataLayer, settings: Settings, witness: redis_py.Redis
) -> None:
    async with rtx.open(settings) as other:
        token, session = await layer.sessions.create("user-7", [1])
        assert await other.sessions.get(token) == session
        assert await other.sessions.revoke(token) is True
        assert await layer.sessions.get(token) is None
        assert await layer.sessions.revoke(token) is False
        assert await witness.keys(f"{layer.keys.namespace}:*") == []


async def test_all_sessions_of_a_user_end_together_and_nobody_elses(
    layer: rtx.DataLayer, settings: Settings, witness: redis_py.Redis
) -> None:
    async with rtx.open(settings) as other:
        mine = [(await layer.sessions.create("user-7", [1]))[0] for _ in range(5)]
        theirs, session = await layer.sessions.create("user-70", [1])
        assert len(await other.sessions.get_many(mine)) == 5
        assert await layer.sessions.revoke(mine[0])
        assert await layer.sessions.revoke_all("user-7") == 4
        assert await other.sessions.get_many([*mine, theirs]) == {theirs: session}
        assert await layer.sessions.of_user("user-7") == ()
        assert await layer.sessions.revoke_all("user-7") == 0
        assert await layer.sessions.revoke_all("nobody") == 0
        assert await witness.keys(f"{layer.keys.namespace}:session:*") == [
            key_of(layer, theirs).encode()
        ]
        again, session = await layer.sessions.create("user-7", [1])
        assert await other.sessions.get(again) == session


async def test_a_users_sessions_are_listed_oldest_first_without_their_tokens(
    layer: rtx.DataLayer,
) -> None:
    made = [await layer.sessions.create("user-7", [number]) for number in range(3)]
    await layer.sessions.create("user-8", [9])
    listed = await layer.sessions.of_user("user-7")
    assert sorted(listed, key=lambda one: one.accounts) == [session for _, session in made]
    assert [one.created_at for one in listed] == sorted(one.created_at for one in listed)
    await layer.sessions.revoke(made[1][0])
    assert {one.accounts for one in await layer.sessions.of_user("user-7")} == {(0,), (2,)}
    assert await layer.sessions.of_user("nobody") == ()


async def test_entries_whose_session_has_ended_are_tidied(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    token, session = await layer.sessions.create("user-7", [1])
    index = layer.keys.sessions("user-7")
    now = now_ms()
    await witness.zadd(index, {"idle": now - 2 * HOUR, "just begun": now, "ended": now - 25 * HOUR})
    assert await layer.sessions.of_user("user-7") == (session,)
    left = {hashlib.sha256(token.encode()).hexdigest().encode(), b"just begun"}
    assert set(await witness.zrange(index, 0, -1)) == left
    await witness.zadd(index, {"ended": now - 25 * HOUR})
    await layer.sessions.create("user-7", [1])
    assert await witness.zscore(index, "ended") is None
    assert DAY - MINUTE < await witness.pttl(index) <= DAY
