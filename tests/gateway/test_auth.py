"""Logging in and out, who may see which account, and how often one may ask."""

from __future__ import annotations

import statistics
import time

import httpx
import pytest
from pydantic import SecretStr

import rtx
from rtx.database.sql import SqlDatabase
from rtx.errors import SettingsError
from rtx.gateway import create_app, hash_password, verify_password
from rtx.gateway.gateway import Gateway
from rtx.gateway.passwords import Passwords
from rtx.models import now_ms
from rtx.setting_groups import LimitSettings, UserSettings
from rtx.settings import Settings
from tests.gateway.conftest import (
    USERS,
    Desk,
    Running,
    assert_problem,
    cheap_hash,
    gateway_settings,
    running,
)

ORDER = {"symbol": "EURUSD", "side": "BUY", "volume": 0.5}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- passwords -------------------------------------------------------------------------------


def test_a_password_is_verified_against_its_hash_only() -> None:
    hashed = hash_password("correct horse")
    assert "correct" not in hashed
    assert hashed != hash_password("correct horse")
    assert verify_password("correct horse", hashed)
    assert not verify_password("correct horse ", hashed)
    assert not verify_password("", hashed)


def test_any_text_can_be_a_password() -> None:
    for password in ("", "päss", "\ud800", "\0", "x" * 1024):
        assert verify_password(password, cheap_hash(password))


@pytest.mark.parametrize(
    "text",
    [
        "", "plain", "scrypt$1$a$b", "scrypt$0,0,0$YQ==$YQ==", "scrypt$16,1,1$YQ==$YQ==",
        "scrypt$1073741824,8,1$YQ==$" + "YWFh" * 8, "scrypt$16,1,9999$YQ==$" + "YWFh" * 8,
        "scrypt$16,1,1$*$" + "YWFh" * 8,
    ],
)  # fmt: skip
async def test_a_malformed_hash_in_the_settings_is_refused_at_the_start(
    text: str, layer: rtx.DataLayer
) -> None:
    users = {"eve": UserSettings(password_hash=SecretStr(text))}
    with pytest.raises(SettingsError, match="rtx config hash-password"):
        create_app(layer, settings=gateway_settings(users=users))


async def test_an_unknown_user_costs_as_much_as_a_wrong_password() -> None:
    hashed = SecretStr(hash_password("right"))
    passwords = Passwords({"ann": UserSettings(password_hash=hashed)})

    async def cost(user: str) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()
            assert not await passwords.check(user, "wrong")
            times.append(time.process_time() - started)
        return statistics.median(times)

    known, unknown = await cost("ann"), await cost("nobody")
    assert 0.5 < known / unknown < 2.0


# --- sessions --------------------------------------------------------------------------------


async def test_a_login_gives_a_session_and_a_logout_ends_it(guarded: Running) -> None:
    before = now_ms()
    answer = await guarded.http.post("/v1/sessions", json={"user": "ann", "password": "right"})
    assert answer.status_code == 201
    body = answer.json()
    assert list(body) == ["token", "user_id", "accounts", "expires_at"]
    assert (body["user_id"], body["accounts"]) == ("ann", [1, 2])
    assert body["expires_at"] > before + 86_000_000

    headers = bearer(body["token"])
    assert (await guarded.http.get("/v1/accounts/1", headers=headers)).status_code == 200
    gone = await guarded.http.delete("/v1/sessions/current", headers=headers)
    assert (gone.status_code, gone.content) == (204, b"")
    answer = await guarded.http.get("/v1/accounts/1", headers=headers)
    assert_problem(answer, 401, "session_ended")
    answer = await guarded.http.delete("/v1/sessions/current", headers=headers)
    assert_problem(answer, 401, "session_ended")


@pytest.mark.parametrize(
    ("user", "password"), [("ann", "wrong"), ("nobody", "right"), ("bob", "right")]
)
async def test_a_wrong_login_does_not_say_what_was_wrong(
    guarded: Running, user: str, password: str
) -> None:
    answer = await guarded.http.post("/v1/sessions", json={"user": user, "password": password})
    assert_problem(answer, 401, "bad_login", retryable=False)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"user": "ann"}, "Object missing required field `password`"),
        ({"user": "", "password": "x"}, "user: "),
        ({"user": "ann", "password": 7}, "password: "),
        ({"user": "ann", "password": "x" * 1025}, "password: "),
    ],
)
async def test_a_malformed_login_names_the_field(
    guarded: Running, body: dict[str, object], named: str
) -> None:
    answer = await guarded.http.post("/v1/sessions", json=body)
    assert assert_problem(answer, 400, "bad_request")["reason"].startswith(named)


async def test_logging_out_everywhere_ends_all_sessions_of_the_user(guarded: Running) -> None:
    mine = [bearer(await guarded.log_in()) for _ in range(3)]
    others = bearer(await guarded.log_in("bob", "bob's"))
    gone = await guarded.http.delete("/v1/sessions", headers=mine[1])
    assert (gone.status_code, gone.content) == (204, b"")
    for headers in mine:
        answer = await guarded.http.get("/v1/accounts/1", headers=headers)
        assert_problem(answer, 401, "session_ended")
        answer = await guarded.http.delete("/v1/sessions", headers=headers)
        assert_problem(answer, 401, "session_ended")
    assert (await guarded.http.get("/v1/accounts/3", headers=others)).status_code == 200
    again = bearer(await guarded.log_in())
    assert (await guarded.http.get("/v1/accounts/1", headers=again)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/sessions/current", "/v1/sessions"])
async def test_logging_out_without_a_session_is_a_401(guarded: Running, path: str) -> None:
    assert_problem(await guarded.http.delete(path), 401, "login_required")


async def test_where_nobody_needs_a_session_one_can_still_be_ended(gateway: Running) -> None:
    token = await gateway.log_in()
    assert_problem(await gateway.http.delete("/v1/sessions"), 401, "login_required")
    answer = await gateway.http.delete("/v1/sessions", headers=bearer("no-such-token"))
    assert_problem(answer, 401, "session_ended")
    answer = await gateway.http.delete("/v1/sessions", headers=bearer(token))
    assert answer.status_code == 204
    assert await gateway.layer.sessions.get(token) is None


# --- accounts --------------------------------------------------------------------------------


async def test_accounts_need_a_session_that_lists_them(guarded: Running) -> None:
    headers = bearer(await guarded.log_in())
    for path in ("", "/positions", "/executions"):
        url = f"/v1/accounts/1{path}"
        assert_problem(await guarded.http.get(url), 401, "login_required")
        assert_problem(
            await guarded.http.get(url, headers=bearer("no-such-token")), 401, "session_ended"
        )
        assert (await guarded.http.get(url, headers=headers)).status_code == 200
        other = f"/v1/accounts/3{path}"
        assert_problem(await guarded.http.get(other, headers=headers), 403, "not_your_account")


async def test_orders_need_a_session_that_lists_the_account(guarded: Running) -> None:
    headers = bearer(await guarded.log_in())
    answer = await guarded.http.post("/v1/accounts/1/orders", json=ORDER)
    assert_problem(answer, 401, "login_required")
    answer = await guarded.http.post("/v1/accounts/3/orders", json=ORDER, headers=headers)
    assert_problem(answer, 403, "not_your_account")
    desk = guarded.gateway.desk
    assert isinstance(desk, Desk)
    assert desk.orders == []
    answer = await guarded.http.post("/v1/accounts/1/orders", json=ORDER, headers=headers)
    assert answer.status_code == 201


@pytest.mark.parametrize("account", ["1.0", "+1", " 1", "1_0", "0x1"])
async def test_no_spelling_of_an_account_id_gets_past_the_check(
    guarded: Running, account: str
) -> None:
    headers = bearer(await guarded.log_in("bob", "bob's"))
    answer = await guarded.http.get(f"/v1/accounts/{account}", headers=headers)
    assert_problem(answer, 400, "bad_request")
    answer = await guarded.http.get("/v1/accounts/001", headers=headers)
    assert_problem(answer, 403, "not_your_account")


async def test_prices_are_public(guarded: Running) -> None:
    await guarded.layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
    for headers in ({}, bearer("no-such-token"), {"Authorization": "Basic x"}):
        assert (await guarded.http.get("/v1/prices/EURUSD", headers=headers)).status_code == 200


async def test_a_token_in_the_query_counts_on_streams_only(guarded: Running) -> None:
    token = await guarded.log_in()
    answer = await guarded.http.get(f"/v1/accounts/1?token={token}")
    assert_problem(answer, 401, "login_required")


# --- other sites -----------------------------------------------------------------------------


async def test_an_open_gateway_takes_changes_from_its_own_page_only(gateway: Running) -> None:
    async def order(origin: str | None) -> httpx.Response:
        headers = {} if origin is None else {"Origin": origin}
        return await gateway.http.post("/v1/accounts/1/orders", json=ORDER, headers=headers)

    assert (await order(None)).status_code == 201
    assert (await order(gateway.url)).status_code == 201
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://localhost",
        "http://[",
        "",
    ):
        assert_problem(await order(origin), 403, "other_site")
    answer = await gateway.http.post(
        "/v1/sessions", json={"user": "ann", "password": "right"}, headers={"Origin": "null"}
    )
    assert_problem(answer, 403, "other_site")


async def test_with_sessions_the_token_is_what_counts(guarded: Running) -> None:
    headers = {**bearer(await guarded.log_in()), "Origin": "https://partner.example"}
    answer = await guarded.http.post("/v1/accounts/1/orders", json=ORDER, headers=headers)
    assert answer.status_code == 201


# --- limits ----------------------------------------------------------------------------------


async def test_requests_over_the_api_limit_are_told_when_to_come_back(
    settings: Settings, database: SqlDatabase
) -> None:
    limits = {"api": LimitSettings(limit=3, per=60.0)}
    async with (
        rtx.open(settings.model_copy(update={"limits": limits}), database=database) as layer,
        running(layer) as gateway,
    ):
        for left in (2, 1, 0):
            answer = await gateway.http.get("/v1/accounts/1")
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"api";q=3;w=60'
            assert answer.headers["ratelimit"] == f'"api";r={left};t=60'
        for path in ("/v1/accounts/1", "/v1/prices", "/v1/accounts/x", "/v1/stream/sse?channels="):
            answer = await gateway.http.get(path)
            body = assert_problem(answer, 429, "rate_limited", retryable=True)
            assert body["type"].endswith("#quota-exceeded")
            assert body["violated-policies"] == ["api"]
            wait = answer.headers["retry-after"]
            assert answer.headers["ratelimit"] == f'"api";r=0;t={wait}'
            assert 55 <= int(answer.headers["retry-after"]) <= 60
        for path in ("/health/live", "/health/ready", "/metrics", "/docs/openapi.json"):
            assert (await gateway.http.get(path)).status_code == 200
        assert gateway.gateway.stats()["limited"] == 4


async def test_a_user_has_a_limit_apart_from_the_address(
    settings: Settings, database: SqlDatabase
) -> None:
    limits = {"api": LimitSettings(limit=3, per=60.0)}
    async with (
        rtx.open(settings.model_copy(update={"limits": limits}), database=database) as layer,
        running(layer) as gateway,
    ):
        headers = bearer(await gateway.log_in())
        for _ in range(2):
            assert (await gateway.http.get("/v1/prices")).status_code == 200
        assert_problem(await gateway.http.get("/v1/prices"), 429, "rate_limited")
        assert (await gateway.http.get("/v1/prices", headers=headers)).status_code == 200
        # A made-up token is nobody's, and counts for the address.
        answer = await gateway.http.get("/v1/prices", headers=bearer("made-up"))
        assert_problem(answer, 429, "rate_limited")
        answer = await gateway.http.post("/v1/sessions", json={"user": "ann", "password": "x"})
        assert_problem(answer, 429, "rate_limited")


async def test_a_login_is_counted_for_the_client_of_a_trusted_proxy(
    settings: Settings, database: SqlDatabase
) -> None:
    limits = {"api": LimitSettings(limit=3, per=60.0)}
    named = settings.model_copy(update={"limits": limits})
    async with (
        rtx.open(named, database=database) as layer,
        running(layer, trusted_proxies=("127.0.0.0/8",)) as gateway,
    ):

        async def log_in(forwarded: str) -> httpx.Response:
            headers = {"X-Forwarded-For": forwarded}
            login = {"user": "ann", "password": "wrong"}
            return await gateway.http.post("/v1/sessions", json=login, headers=headers)

        for made_up in range(3):
            answer = await log_in(f"6.6.6.{made_up}, 198.51.100.1")
            assert_problem(answer, 401, "bad_login")
        assert_problem(await log_in("6.6.6.9, 198.51.100.1"), 429, "rate_limited")
        assert_problem(await log_in("198.51.100.2"), 401, "bad_login")
        assert (await layer.limits.api.peek("127.0.0.1")).remaining == 3


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        (None, "unknown"),
    ],
)
async def test_a_client_is_counted_by_the_address_it_cannot_choose(
    layer: rtx.DataLayer, host: str | None, counted: str
) -> None:
    gateway = Gateway(layer, None, gateway_settings())
    client = (host, 4711) if host is not None else None
    forwarded = [(b"x-forwarded-for", b"198.51.100.1")]
    assert gateway.address_of({"client": client, "headers": forwarded}) == counted


def test_a_trusted_proxy_is_an_address_or_a_network() -> None:
    assert gateway_settings(trusted_proxies=("10.0.0.7", "fd00::/8", "unix")).trusted_proxies
    with pytest.raises(ValueError, match=r"'proxy\.local' is no address and no network"):
        gateway_settings(trusted_proxies=("proxy.local",))


def test_the_users_passwords_do_not_show_in_the_settings() -> None:
    assert USERS["ann"].password_hash.get_secret_value() not in repr(gateway_settings())
