"""The REST routes of an account's alert rules."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from litestar import delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter
from msgspec import Struct

from rtx.alerts import AlertRule, RuleState, check
from rtx.alerts.rules import Kind
from rtx.errors import BadRule
from rtx.gateway.gateway import Gateway
from rtx.gateway.problems import Refused, documented
from rtx.models import Severity

RulePath = Annotated[
    str,
    PathParameter(
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$(?!\n)", description="Id of the rule, the account's choice"
    ),
]
AccountPath = Annotated[int, PathParameter(ge=0, lt=10**18, description="Account id")]


class RuleBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Rule without its id and account, which the path has; see `rtx.AlertRule`."""

    kind: Kind
    symbol: str = ""
    side: Literal["bid", "ask", "mid"] = "mid"
    threshold: float = 0.0
    seconds: float = 0.0
    direction: Literal["any", "up", "down"] = "any"
    severity: Severity = "warning"
    message: str = ""
    rearm: Literal["manual", "auto"] = "manual"
    hysteresis: float = 0.0
    cooldown: float = 0.0
    hours: str = ""


@get(
    "/accounts/{account_id:str}/alert-rules",
    summary="Alert rules of an account",
    responses=documented(400, 401, 403, 429, 503),
    tags=["Alert rules"],
)
async def alert_rules(
    account_id: AccountPath, gateway: NamedDependency[Gateway]
) -> list[RuleState]:
    return await gateway.layer.alert_rules.list(account_id)


@put(
    "/accounts/{account_id:str}/alert-rules/{rule_id:str}",
    summary="Store an alert rule",
    description="It is armed then; the same rule once more stays as it is.",
    responses=documented(400, 401, 403, 404, 413, 422, 429, 503),
    tags=["Alert rules"],
)
async def put_alert_rule(
    account_id: AccountPath,
    rule_id: RulePath,
    data: JSONBody[RuleBody],
    gateway: NamedDependency[Gateway],
) -> AlertRule:
    if await gateway.layer.accounts.get(account_id) is None:
        raise Refused(404, "unknown_account", f"there is no account {account_id}")
    try:
        rule = check(AlertRule(id=rule_id, account_id=account_id, **msgspec.structs.asdict(data)))
        await gateway.layer.alert_rules.put(rule)
    except BadRule as error:
        raise Refused(422, "bad_rule", str(error)) from None
    return rule


@delete(
    "/accounts/{account_id:str}/alert-rules/{rule_id:str}",
    summary="Remove an alert rule",
    responses=documented(400, 401, 403, 404, 429, 503),
    tags=["Alert rules"],
)
async def remove_alert_rule(
    account_id: AccountPath, rule_id: RulePath, gateway: NamedDependency[Gateway]
) -> None:
    if not await gateway.layer.alert_rules.remove(account_id, rule_id):
        raise _unknown_rule(account_id, rule_id)


@post(
    "/accounts/{account_id:str}/alert-rules/{rule_id:str}/rearm",
    status_code=204,
    summary="Arm an alert rule again",
    description="It fires when its condition holds, which may be at once.",
    responses=documented(400, 401, 403, 404, 429, 503),
    tags=["Alert rules"],
)
async def rearm_alert_rule(
    account_id: AccountPath, rule_id: RulePath, gateway: NamedDependency[Gateway]
) -> None:
    if not await gateway.layer.alert_rules.rearm(account_id, rule_id):
        raise _unknown_rule(account_id, rule_id)


def _unknown_rule(account_id: int, rule_id: str) -> Refused:
    return Refused(404, "unknown_rule", f"account {account_id} has no alert rule {rule_id}")


HANDLERS = [alert_rules, put_alert_rule, remove_alert_rule, rearm_alert_rule]
"""Of an account: they need its session where accounts do."""
