"""`rtx alerts`: the alert rules of an account, and the engine that evaluates all rules."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated, TypeAlias, cast, get_args

import typer

import rtx
from rtx import codecs
from rtx.alerts import AlertRule, RuleState
from rtx.alerts.rules import Kind
from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.errors import NotFound
from rtx.keys import SYSTEM

app = typer.Typer(
    help="Alert rules: list, add, remove, re-arm, evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Account: TypeAlias = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="Id of the account, or system.")
]
Rule: TypeAlias = Annotated[str, typer.Argument(metavar="RULE", help="Id of the rule.")]


class Side(StrEnum):
    """Which price."""

    BID = "bid"
    ASK = "ask"
    MID = "mid"


class Direction(StrEnum):
    """Which way a price has moved."""

    ANY = "any"
    UP = "up"
    DOWN = "down"


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


KindName = StrEnum("KindName", {name.upper(): name for name in get_args(Kind)})  # type: ignore[misc]


@app.command("list")
def list_rules(account: Account, url: options.Url = None, json: options.Json = False) -> None:
    """Show an account's rules, and whether they are armed.

    \b
    Examples:
      rtx alerts list 1
      rtx alerts list system --json
    """

    owner = _owner(account)

    async def main(_: asyncio.Event) -> None:
        async with rtx.open(options.load_for_server(url, "read rules from")) as layer:
            states = await layer.alert_rules.list(owner)
        if json:
            await terminal.write(codecs.encode(states) + b"\n")
        else:
            await terminal.write("".join(map(_line, states)).encode())

    run(main)


@app.command("add")
def add(
    account: Account,
    rule: Rule,
    kind: Annotated[KindName, typer.Option(help="What it looks at.")],
    symbol: Annotated[str, typer.Option(help="Whose price.")] = "",
    threshold: Annotated[float, typer.Option(help="Price, percent, or spread.")] = 0.0,
    side: Annotated[Side, typer.Option(help="Which price.")] = Side.MID,
    seconds: Annotated[float, typer.Option(help="Of the window, or of silence.")] = 0.0,
    direction: Annotated[Direction, typer.Option(help="Of a move.")] = Direction.ANY,
    severity: Annotated[Severity, typer.Option(help="Of the alert.")] = Severity.WARNING,
    message: Annotated[str, typer.Option(help="Of the alert, with {value} and so on.")] = "",
    auto: Annotated[bool, typer.Option("--auto", help="Arm it again by itself.")] = False,
    hysteresis: Annotated[float, typer.Option(help="How false it must be for that.")] = 0.0,
    cooldown: Annotated[float, typer.Option(help="Seconds before that.")] = 0.0,
    hours: Annotated[str, typer.Option(help='Of a market: "Sun 22:00-Fri 22:00", UTC.')] = "",
    url: options.Url = None,
) -> None:
    """Store a rule and arm it; one of this id is replaced.

    \b
    Examples:
      rtx alerts add 1 high --kind price_above --symbol EURUSD --threshold 1.10
      rtx alerts add 1 fast --kind price_moved --symbol BTCUSD --threshold 2 --seconds 60 --auto
      rtx alerts add 1 call --kind margin_below --threshold 100 --severity critical
    """

    owner = _owner(account)

    async def main(_: asyncio.Event) -> None:
        async with rtx.open(options.load_for_server(url, "store the rule at")) as layer:
            await layer.alert_rules.put(
                AlertRule(
                    id=rule,
                    account_id=owner,
                    kind=cast(Kind, kind.value),
                    symbol=symbol,
                    side=side.value,
                    threshold=threshold,
                    seconds=seconds,
                    direction=direction.value,
                    severity=severity.value,
                    message=message,
                    rearm="auto" if auto else "manual",
                    hysteresis=hysteresis,
                    cooldown=cooldown,
                    hours=hours,
                )
            )

    run(main)


@app.command("remove")
def remove(account: Account, rule: Rule, url: options.Url = None) -> None:
    """Drop a rule."""

    owner = _owner(account)

    async def main(_: asyncio.Event) -> None:
        async with rtx.open(options.load_for_server(url, "remove the rule from")) as layer:
            if not await layer.alert_rules.remove(owner, rule):
                raise _unknown(account, rule)

    run(main)


@app.command("rearm")
def rearm(account: Account, rule: Rule, url: options.Url = None) -> None:
    """Let a rule that has fired fire again, when its condition holds."""

    owner = _owner(account)

    async def main(_: asyncio.Event) -> None:
        async with rtx.open(options.load_for_server(url, "arm the rule at")) as layer:
            if not await layer.alert_rules.rearm(owner, rule):
                raise _unknown(account, rule)

    run(main)


@app.command("run")
def run_engine(metrics_port: options.MetricsPort = None, url: options.Url = None) -> None:
    """Evaluate the rules of all accounts, until Ctrl-C; any number may do so at once.

    Each alert is published once, by one of them. `rtx serve` does the same with alerts.enabled.
    """

    async def main(stop: asyncio.Event) -> None:
        settings = options.load_for_server(url, "evaluate rules of")
        async with (
            rtx.open(settings) as layer,
            layer.alert_rules.engine(),
            options.metrics_served(layer, metrics_port),
        ):
            terminal.stdout().print(f"evaluating {layer.alert_rules.stats.rules} rules")
            await stop.wait()

    run(main, service=True)


def _owner(account: str) -> int | str:
    if account == SYSTEM:
        return SYSTEM
    if not account.isdecimal():
        raise typer.BadParameter(f"{account!r} is no account id, nor system", param_hint="ACCOUNT")
    return int(account)


def _unknown(account: str, rule: str) -> NotFound:
    return NotFound(f"account {account} has no alert rule {rule}; see rtx alerts list {account}")


def _line(state: RuleState) -> str:
    rule = state.rule
    of = " ".join(
        f"{name}={getattr(rule, name)}"
        for name in ("symbol", "side", "threshold", "seconds", "hysteresis", "cooldown", "hours")
        if getattr(rule, name) and not (name == "side" and rule.side == "mid")
    )
    last = f", last {codecs.iso(state.fired_at)}" if state.fired_at else ""
    now = "armed" if state.armed else "fired"
    return (
        f"{rule.id} {now} {rule.kind} {of} {rule.severity} {rule.rearm}; {state.firings}×{last}\n"
    )
