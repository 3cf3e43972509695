"""`rtx alerts`: rules from the command line, and an engine that evaluates them."""

from __future__ import annotations

import rtx as package
from tests.alerts.conftest import alerted, quote
from tests.cli.conftest import Rtx
from tests.conftest import eventually


async def test_a_rule_is_added_evaluated_shown_and_removed(
    connected: Rtx, layer: package.DataLayer
) -> None:
    added = await connected(
        *("alerts", "add", "1", "high", "--kind", "price_above", "--symbol", "EURUSD"),
        *("--threshold", "1.1", "--side", "bid", "--severity", "critical"),
    )
    assert (added.code, added.out) == (0, "")
    running = await connected.start("alerts", "run")
    assert await running.line() == "evaluating 1 rules"

    async def fired() -> bool:
        await quote(layer, 1.2)
        return await alerted(layer) == ["high"]

    await eventually(fired, every=0.1)
    shown = await connected("alerts", "list", "1")
    [line] = shown.lines
    assert line.startswith("high fired price_above symbol=EURUSD side=bid threshold=1.1 critical")
    assert (await running.interrupt()).code == 0
    assert (await connected("alerts", "rearm", "1", "high")).code == 0
    assert (await connected("alerts", "list", "1")).lines[0].startswith("high armed ")
    assert (await connected("alerts", "remove", "1", "high")).code == 0
    ended = await connected("alerts", "remove", "1", "high")
    assert (ended.code, "has no alert rule high" in ended.err) == (1, True)


async def test_what_can_be_no_rule_is_one_line(connected: Rtx) -> None:
    ended = await connected("alerts", "add", "1", "high", "--kind", "price_above")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "symbol: " in ended.err
    assert (await connected("alerts", "list", "everyone")).code == 2
