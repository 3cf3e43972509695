"""`rtx tail`: executions and alerts of an account, each once, from any position."""

from __future__ import annotations

import json

import redis.asyncio as redis_py

import rtx as package
from tests.cli.conftest import Rtx
from tests.cli.test_cli_watch import subscribed


def fill(number: int) -> package.Execution:
    return package.Execution(
        order_id=number,
        position_id=5,
        symbol="EURUSD",
        side="BUY",
        volume=1.0,
        price=1.0955,
        timestamp=1_768_732_245_123,
    )


async def test_executions_and_alerts_come_with_their_positions(
    connected: Rtx, layer: package.DataLayer, witness: redis_py.Redis, namespace: str
) -> None:
    tailing = await connected.start("tail", 1, "--count", 3)
    for channel in ("executions:1", "alerts:1", "alerts:system"):
        await subscribed(witness, f"{namespace}:{channel}")
    offset = await layer.executions.publish(1, fill(7))
    assert await tailing.line() == (
        f"2026-01-18T10:30:45.123Z execution BUY 1 EURUSD @ 1.0955 order 7 position 5 {offset}"
    )
    await layer.alerts.publish(1, package.Alert("margin_call", "critical", "too\nlittle"))
    assert ' alert critical margin_call "too\\nlittle" ' in await tailing.line()
    await layer.alerts.publish("system", package.Alert("news", "info", "hello"))
    assert " alert info news " in await tailing.line()
    assert (await tailing.end()).code == 0


async def test_after_a_position_nothing_is_missed(connected: Rtx, layer: package.DataLayer) -> None:
    offsets = [await layer.executions.publish(1, fill(number)) for number in range(5)]
    ended = await connected(
        *("tail", 1, "--after", offsets[1], "--no-alerts", "--json", "--count", 3)
    )
    assert [json.loads(line)["order_id"] for line in ended.lines] == [2, 3, 4]


async def test_a_position_of_another_log_is_told_as_a_gap(
    connected: Rtx, layer: package.DataLayer
) -> None:
    await layer.executions.publish(1, fill(1))
    ended = await connected("tail", 1, "--after", "old:9", "--no-alerts", "--count", 1)
    assert ended.lines[0].startswith("gap ")
    assert "epoch changed; messages may be missing" in ended.lines[0]
    assert " order 1 " in ended.lines[1]


async def test_ctrl_c_ends_a_tail(connected: Rtx, witness: redis_py.Redis, namespace: str) -> None:
    tailing = await connected.start("tail", 1)
    await subscribed(witness, f"{namespace}:alerts:system")
    ended = await tailing.interrupt()
    assert (ended.code, ended.out, ended.err) == (130, "", "")
