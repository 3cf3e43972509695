"""The REST routes: good answers, bad answers, and their exact JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from urllib.parse import quote

import pytest

import rtx
from rtx.models import now_ms
from tests.gateway.conftest import Desk, Running, assert_problem, rejecting, running

# --- prices and symbols ----------------------------------------------------------------------


async def test_a_fresh_price_is_written_as_in_the_cache(gateway: Running) -> None:
    time = now_ms()
    await gateway.layer.prices.put(rtx.Price("EURUSD", bid=1.0950, ask=1.0952, time=time))
    answer = await gateway.http.get("/v1/prices/EURUSD")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["symbol", "time", "bid", "ask", "mid", "spread"]
    assert body["time"].endswith("Z")
    assert len(body["time"]) == len("2026-01-18T10:30:45.123Z")
    assert (body["bid"], body["ask"]) == (1.095, 1.0952)
    assert (body["mid"], body["spread"]) == (1.0951, 0.0002)


async def test_a_known_symbol_without_a_fresh_price_is_stale(gateway: Running) -> None:
    answer = await gateway.http.get("/v1/prices/EURUSD")
    body = assert_problem(answer, 404, "stale_price", retryable=True)
    assert "EURUSD" in body["reason"]


async def test_a_symbol_without_spec_whose_price_was_seen_is_stale(gateway: Running) -> None:
    await gateway.layer.prices.put(rtx.Price("XAUUSD", bid=2000.0, ask=2001.0))
    assert (await gateway.http.get("/v1/prices/XAUUSD")).status_code == 200
    await gateway.layer.prices.invalidate("XAUUSD")
    assert_problem(await gateway.http.get("/v1/prices/XAUUSD"), 404, "stale_price")


async def test_an_unknown_symbol_is_told_from_a_stale_one(gateway: Running) -> None:
    answer = await gateway.http.get("/v1/prices/NOSUCH")
    assert_problem(answer, 404, "unknown_symbol", retryable=False)


async def test_prices_lists_the_fresh_ones_of_those_asked_for(gateway: Running) -> None:
    await gateway.layer.prices.put_many([rtx.Price("EURUSD", 1.1, 1.2), rtx.Price("X", 1, 2)])
    answer = await gateway.http.get("/v1/prices", params={"symbols": "EURUSD,GBPUSD,X"})
    assert [price["symbol"] for price in answer.json()] == ["EURUSD", "X"]


async def test_prices_without_symbols_lists_all_that_are_known(gateway: Running) -> None:
    await gateway.layer.prices.put_many([rtx.Price("EURUSD", 1.1, 1.2), rtx.Price("GBPUSD", 1, 2)])
    answer = await gateway.http.get("/v1/prices")
    assert [price["symbol"] for price in answer.json()] == ["EURUSD", "GBPUSD"]


async def test_prices_of_nothing_is_an_empty_list(gateway: Running) -> None:
    assert (await gateway.http.get("/v1/prices?symbols=")).json() == []


@pytest.mark.parametrize("symbols", ["A B", "A,*", "Ä", "x" * 65, "A\n", '"'])
async def test_a_malformed_symbol_names_the_field(gateway: Running, symbols: str) -> None:
    answer = await gateway.http.get("/v1/prices", params={"symbols": symbols})
    assert assert_problem(answer, 400, "bad_request")["reason"].startswith("symbols: ")
    if symbols != "A,*":
        answer = await gateway.http.get(f"/v1/prices/{quote(symbols)}")
        assert assert_problem(answer, 400, "bad_request")["reason"].startswith("symbol: ")


async def test_too_many_symbols_are_refused(gateway: Running) -> None:
    many = ",".join(f"S{n}" for n in range(1001))
    answer = await gateway.http.get("/v1/prices", params={"symbols": many})
    assert_problem(answer, 400, "bad_request")


async def test_a_symbols_terms_are_its_spec(gateway: Running) -> None:
    answer = await gateway.http.get("/v1/symbols/EURUSD")
    assert answer.json() == {
        "symbol": "EURUSD",
        "description": "Euro / US Dollar",
        "base": "EUR",
        "quote": "USD",
        "digits": 5,
        "contract_size": 100000.0,
        "margin_rate": 0.01,
        "min_volume": 0.01,
        "max_volume": 100.0,
        "volume_step": 0.01,
    }
    assert_problem(await gateway.http.get("/v1/symbols/NOSUCH"), 404, "unknown_symbol")


# --- accounts --------------------------------------------------------------------------------


async def test_an_account_has_its_money_as_exact_numbers(gateway: Running) -> None:
    answer = await gateway.http.get("/v1/accounts/1")
    assert answer.json() == {
        "id": 1,
        "account_number": "RTX-000001",
        "balance": 10000.00,
        "equity": 10050.00,
        "margin": 500.00,
        "free_margin": 9550.00,
        "margin_level": 2010.00,
        "open_positions": 1,
    }
    assert '"balance":10000.00' in answer.text


async def test_accounts_and_positions_are_at_the_latest_price(gateway: Running) -> None:
    await gateway.layer.prices.put(rtx.Price("EURUSD", bid=1.0970, ask=1.0972))
    answer = await gateway.http.get("/v1/accounts/1")
    assert "x-rtx-stale" not in answer.headers
    money = answer.json()
    assert (money["balance"], money["equity"]) == (10000.00, 10200.00)
    assert (money["free_margin"], money["margin_level"]) == (9700.00, 2040.00)
    answer = await gateway.http.get("/v1/accounts/1/positions")
    assert "x-rtx-stale" not in answer.headers
    [position] = answer.json()
    assert (position["current_price"], position["unrealized_pnl"]) == (1.0970, 200.00)


async def test_what_has_no_fresh_price_is_named_in_a_header(gateway: Running) -> None:
    for path in ("/v1/accounts/1", "/v1/accounts/1/positions"):
        answer = await gateway.http.get(path)
        assert (answer.status_code, answer.headers["x-rtx-stale"]) == (200, "EURUSD")
    assert "x-rtx-stale" not in (await gateway.http.get("/v1/accounts/2")).headers


async def test_the_names_in_the_header_are_escaped_and_not_without_end(gateway: Running) -> None:
    names = ["A\r\nX-Evil: 1", "Ä,%", *(f"S{number:02}" for number in range(60))]
    async with gateway.layer.accounts.update(2) as row:
        for name in names:
            await row.open_position(name, "BUY", 1.0, 1.0, Decimal(1))
    answer = await gateway.http.get("/v1/accounts/2")
    assert answer.status_code == 200
    listed = answer.headers["x-rtx-stale"].split(",")
    assert listed[0] == "A%0D%0AX-Evil:%201"
    assert len(listed) == 51
    assert listed[-1] == "*"
    assert "x-evil" not in answer.headers


async def test_an_account_that_is_not_there_is_a_404(gateway: Running) -> None:
    for path in ("/v1/accounts/99", "/v1/accounts/99/positions"):
        assert_problem(await gateway.http.get(path), 404, "unknown_account")


@pytest.mark.parametrize("account", ["abc", "-1", "1.0", "9" * 30, "%20", "1e3", "\u0661"])
async def test_a_malformed_account_id_names_the_field(gateway: Running, account: str) -> None:
    for path in ("", "/positions", "/executions"):
        answer = await gateway.http.get(f"/v1/accounts/{account}{path}")
        body = assert_problem(answer, 400, "bad_request")
        assert body["reason"].startswith("account_id: ")


async def test_positions_are_an_array(gateway: Running) -> None:
    answer = await gateway.http.get("/v1/accounts/1/positions")
    (position,) = answer.json()
    assert position.pop("id") > 0
    assert position == {
        "symbol": "EURUSD",
        "side": "BUY",
        "volume": 1.0,
        "open_price": 1.095,
        "current_price": 1.0955,
        "unrealized_pnl": 50.00,
    }
    assert (await gateway.http.get("/v1/accounts/2/positions")).json() == []


async def test_executions_can_be_paged_through_without_a_hole(gateway: Running) -> None:
    for order in range(1, 6):
        await gateway.layer.executions.publish(
            1, rtx.Execution(order, 9, "EURUSD", "BUY", 1.0, 1.095)
        )
    newest = (await gateway.http.get("/v1/accounts/1/executions?limit=2")).json()
    assert list(newest) == ["messages", "recovered", "reason", "last"]
    assert [message["order_id"] for message in newest["messages"]] == [4, 5]
    assert newest["messages"][1]["type"] == "execution"
    epoch = newest["last"].rpartition(":")[0]
    assert newest["last"] == f"{epoch}:5"

    page = await gateway.http.get(f"/v1/accounts/1/executions?after={epoch}:1&limit=3")
    assert [message["seq"] for message in page.json()["messages"]] == [2, 3, 4]
    assert page.json()["recovered"] is True
    assert page.json()["reason"] == ""

    lost = (await gateway.http.get("/v1/accounts/1/executions?after=other:1")).json()
    assert lost["recovered"] is False
    assert lost["reason"] == "epoch changed"


@pytest.mark.parametrize("query", ["after=7", "after=e:x", "limit=0", "limit=1001", "limit=x"])
async def test_a_malformed_query_names_the_parameter(gateway: Running, query: str) -> None:
    answer = await gateway.http.get(f"/v1/accounts/1/executions?{query}")
    body = assert_problem(answer, 400, "bad_request")
    assert body["reason"].startswith(query.partition("=")[0] + ": ")


# --- orders ----------------------------------------------------------------------------------

ORDER = {"symbol": "EURUSD", "side": "BUY", "volume": 0.5}


async def test_an_order_is_answered_with_its_fill(gateway: Running) -> None:
    answer = await gateway.http.post("/v1/accounts/1/orders", json=ORDER)
    assert answer.status_code == 201
    assert answer.json() == {
        "type": "execution",
        "order_id": 7,
        "position_id": 8,
        "symbol": "EURUSD",
        "side": "BUY",
        "volume": 0.5,
        "price": 1.095,
        "timestamp": 1705575045123,
        "seq": 1,
        "epoch": "e",
    }


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({**ORDER, "volume": 0}, "volume: "),
        ({**ORDER, "volume": -1}, "volume: "),
        ({**ORDER, "volume": "much"}, "volume: "),
        ({**ORDER, "side": "HOLD"}, "side: "),
        ({**ORDER, "symbol": ""}, "symbol: "),
        ({**ORDER, "symbol": 7}, "symbol: "),
        ({**ORDER, "stop": 1}, "Object contains unknown field `stop`"),
        ({"symbol": "EURUSD", "side": "BUY"}, "Object missing required field `volume`"),
        ([], "Expected `object`"),
        (None, "Expected `object`"),
    ],
)
async def test_a_malformed_order_names_the_field(
    gateway: Running, body: object, named: str
) -> None:
    answer = await gateway.http.post("/v1/accounts/1/orders", content=json.dumps(body))
    assert assert_problem(answer, 400, "bad_request")["reason"].startswith(named)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"volume":1e999}'])
async def test_a_body_that_is_not_json_is_refused(gateway: Running, body: bytes) -> None:
    answer = await gateway.http.post("/v1/accounts/1/orders", content=body)
    assert "body" in assert_problem(answer, 400, "bad_request")["reason"]


async def test_a_body_over_64_kb_is_refused(gateway: Running) -> None:
    answer = await gateway.http.post("/v1/accounts/1/orders", content=b" " * 70_000)
    assert_problem(answer, 413, "request_entity_too_large")


@pytest.mark.parametrize(
    ("code", "facts", "status", "retryable"),
    [
        ("limit_exceeded", {"retry_after": 0.4}, 429, True),
        ("stale_price", {}, 409, True),
        ("no_money", {}, 409, False),
        ("bad_volume", {}, 422, False),
        ("unknown_symbol", {}, 404, False),
        ("unknown_account", {}, 404, False),
        ("some_other", {}, 422, False),
        ("some_other", {"status": 403, "retryable": True}, 403, True),
        ("limit_exceeded", {"retry_after": float("inf")}, 429, True),
    ],
)
async def test_a_rejected_order_says_why(
    layer: rtx.DataLayer, code: str, facts: dict[str, float], status: int, retryable: bool
) -> None:
    async with running(layer, orders=rejecting(code, **facts)) as gateway:
        answer = await gateway.http.post("/v1/accounts/1/orders", json=ORDER)
    body = assert_problem(answer, status, code, retryable=retryable)
    assert body["reason"] == "why, and what to do"


async def test_an_order_over_its_limit_is_told_of_both_limits(layer: rtx.DataLayer) -> None:
    decision = rtx.Decision(False, 10, 0, 0.4, 1.0, "orders", 1.0)
    async with running(layer, orders=rejecting("limit_exceeded", decision=decision)) as gateway:
        answer = await gateway.http.post("/v1/accounts/1/orders", json=ORDER)
    body = assert_problem(answer, 429, "limit_exceeded", retryable=True)
    assert body["violated-policies"] == ["orders"]
    assert answer.headers["retry-after"] == "1"
    assert '"orders";q=10;w=1' in answer.headers["ratelimit-policy"]
    assert '"api";q=100000;w=60' in answer.headers["ratelimit-policy"]
    assert '"orders";r=0;t=1' in answer.headers["ratelimit"]
    assert '"api";r=99999;t=60' in answer.headers["ratelimit"]


async def test_without_a_desk_there_is_no_broker(layer: rtx.DataLayer) -> None:
    async with running(layer) as gateway:
        answer = await gateway.http.post("/v1/accounts/1/orders", json=ORDER)
        assert_problem(answer, 404, "no_broker")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (rtx.Unavailable("lost 10.0.0.7:6379", maybe_applied=True), "unavailable"),
        (rtx.DatabaseUnavailable("lost 10.0.0.7", maybe_applied=True), "database_unavailable"),
    ],
)
async def test_an_order_that_may_have_gone_through_is_not_called_retryable(
    layer: rtx.DataLayer, error: rtx.RtxError, code: str
) -> None:
    async with running(layer, orders=Desk(error)) as gateway:
        answer = await gateway.http.post("/v1/accounts/1/orders", json=ORDER)
    body = assert_problem(answer, 503, code, retryable=False)
    assert "10.0.0.7" not in body["reason"]


async def test_an_unexpected_failure_is_a_500_that_tells_nothing(
    layer: rtx.DataLayer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(layer, orders=Desk(ZeroDivisionError("secret"))) as gateway:
        answer = await gateway.http.post("/v1/accounts/1/orders", json=ORDER)
    assert "secret" not in assert_problem(answer, 500, "internal")["reason"]
    assert "ZeroDivisionError: secret" in caplog.text


# --- elsewhere -------------------------------------------------------------------------------


async def test_an_unknown_route_and_a_wrong_method_have_the_same_shape(gateway: Running) -> None:
    assert_problem(await gateway.http.get("/v1/nothing"), 404, "not_found")
    answer = await gateway.http.post("/v1/prices")
    assert_problem(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
