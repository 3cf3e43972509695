"""The routes of alert rules: an account's own, stored, shown, armed and removed."""

from __future__ import annotations

import pytest

from rtx.alerts import AlertRule
from tests.gateway.conftest import Running, assert_problem

PATH = "/v1/accounts/1/alert-rules"
BODY = {"kind": "price_above", "symbol": "EURUSD", "threshold": 1.1, "severity": "info"}


async def test_a_rule_is_stored_shown_armed_and_removed(gateway: Running) -> None:
    rules = gateway.layer.alert_rules
    assert (await gateway.http.get(PATH)).json() == []
    answer = await gateway.http.put(f"{PATH}/high", json=BODY)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": "high", "account_id": 1, **BODY}
    rule = AlertRule(id="high", account_id=1, **BODY)  # type: ignore[arg-type]
    assert [state.rule for state in await rules.list(1)] == [rule]
    assert (await gateway.http.get(PATH)).json() == [
        {"rule": answer.json(), "armed": True, "firings": 0, "fired_at": 0}
    ]
    answer = await gateway.http.post(f"{PATH}/high/rearm")
    assert (answer.status_code, answer.content) == (204, b"")
    answer = await gateway.http.delete(f"{PATH}/high")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await rules.list(1) == []
    assert_problem(await gateway.http.delete(f"{PATH}/high"), 404, "unknown_rule")
    assert_problem(await gateway.http.post(f"{PATH}/high/rearm"), 404, "unknown_rule")


@pytest.mark.parametrize(
    ("changes", "status", "code", "named"),
    [
        ({"threshold": 0}, 422, "bad_rule", "threshold: "),
        ({"seconds": 5}, 422, "bad_rule", "seconds: "),
        ({"kind": "moon_phase"}, 400, "bad_request", "kind: "),
        ({"colour": "red"}, 400, "bad_request", ""),
    ],
)
async def test_what_can_be_no_rule_is_refused(
    gateway: Running, changes: dict[str, object], status: int, code: str, named: str
) -> None:
    answer = await gateway.http.put(f"{PATH}/high", json={**BODY, **changes})
    assert assert_problem(answer, status, code)["reason"].startswith(named)
    assert await gateway.layer.alert_rules.list(1) == []


async def test_a_rule_of_no_account_is_refused(gateway: Running) -> None:
    answer = await gateway.http.put("/v1/accounts/99/alert-rules/high", json=BODY)
    assert_problem(answer, 404, "unknown_account")


async def test_rules_are_their_accounts_business(guarded: Running) -> None:
    for method, path in (
        ("GET", PATH),
        ("PUT", f"{PATH}/high"),
        ("DELETE", f"{PATH}/high"),
        ("POST", f"{PATH}/high/rearm"),
    ):
        body = BODY if method == "PUT" else None
        answer = await guarded.http.request(method, path, json=body)
        assert_problem(answer, 401, "login_required")
        token = await guarded.log_in("bob", "bob's")
        headers = {"authorization": f"Bearer {token}"}
        answer = await guarded.http.request(method, path, json=body, headers=headers)
        assert_problem(answer, 403, "not_your_account")
    headers = {"authorization": f"Bearer {await guarded.log_in()}"}
    answer = await guarded.http.put(f"{PATH}/high", json=BODY, headers=headers)
    assert answer.status_code == 200
