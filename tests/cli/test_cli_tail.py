"""`rtx tail`: executions and alerts of an account, each once, from any position."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from msgspec import structs

import rtx as package
from tests.cli.conftest import Rtx, Running


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


async def following(tailing: Running) -> str:
    """Return when no message from here on is missed, with what it says that it follows.

    That somebody listens on the channel is not enough: a tail without a position begins where the
    log ends when it has been read, which is a moment later.
    """
    assert tailing.process.stderr is not None
    async with asyncio.timeout(20):
        return (await tailing.process.stderr.readline()).decode().strip()


async def test_executions_and_alerts_come_with_their_positions(
    connected: Rtx, layer: package.DataLayer, namespace: str
) -> None:
    tailing = await connected.start("tail", 1, "--count", 3)
    channels = [f"{namespace}:{name}" for name in ("executions:1", "alerts:1", "alerts:system")]
    assert await following(tailing) == f"following {', '.join(channels)}"
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


async def test_the_last_of_each_log_come_first(connected: Rtx, layer: package.DataLayer) -> None:
    for number in range(5):
        await layer.executions.publish(1, fill(number))
    await layer.alerts.publish(1, package.Alert("margin_call", "critical", "too little"))
    ended = await connected("tail", 1, "--last", 2, "--json", "--count", 3)
    shown = [json.loads(line) for line in ended.lines]
    assert [one["order_id"] for one in shown if one["type"] == "execution"] == [3, 4]
    assert [one["kind"] for one in shown if one["type"] == "alert"] == ["margin_call"]


async def test_filters_leave_out_other_symbols_and_lesser_alerts(
    connected: Rtx, layer: package.DataLayer
) -> None:
    for number, symbol in enumerate(["EURUSD", "BTCUSD", "GBPUSD", "EURUSD"]):
        await layer.executions.publish(1, structs.replace(fill(number), symbol=symbol))
    ended = await connected(
        *("tail", 1, "--after", ":0", "--no-alerts", "--symbol", "EURUSD,GBPUSD"),
        *("--json", "--count", 3),
    )
    assert [json.loads(line)["order_id"] for line in ended.lines] == [0, 2, 3]
    for kind, severity in (("a", "info"), ("b", "warning"), ("c", "critical")):
        await layer.alerts.publish(1, package.Alert(kind, severity, ""))  # type: ignore[arg-type]
    ended = await connected(
        *("tail", 1, "--last", 9, "--no-executions", "--severity", "warning"),
        *("--json", "--count", 2),
    )
    assert [json.loads(line)["kind"] for line in ended.lines] == ["b", "c"]


async def test_a_tail_that_resumes_misses_nothing_that_came_meanwhile(
    connected: Rtx, layer: package.DataLayer, tmp_path: Path
) -> None:
    resume = ("--resume", tmp_path / "tail.json", "--json")
    first = await connected.start("tail", 1, *resume)
    await following(first)
    assert (await first.interrupt()).out == ""
    for number in range(3):
        await layer.executions.publish(1, fill(number))
    await layer.alerts.publish("system", package.Alert("news", "info", "hello"))
    second = await connected("tail", 1, *resume, "--count", 4)
    shown = [json.loads(line) for line in second.lines]
    assert [one["order_id"] for one in shown if one["type"] == "execution"] == [0, 1, 2]
    assert [one["kind"] for one in shown if one["type"] == "alert"] == ["news"]
    await layer.executions.publish(1, fill(3))
    third = await connected("tail", 1, *resume, "--count", 1)
    assert [json.loads(line)["order_id"] for line in third.lines] == [3]


async def test_a_file_that_holds_no_positions_is_one_line(connected: Rtx, tmp_path: Path) -> None:
    (tmp_path / "tail.json").write_text('{"executions:1": "42"}')
    ended = await connected("tail", 1, "--resume", tmp_path / "tail.json")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "holds no positions" in ended.err


async def test_ctrl_c_ends_a_tail(connected: Rtx) -> None:
    tailing = await connected.start("tail", 1)
    await following(tailing)
    ended = await tailing.interrupt()
    assert (ended.code, ended.out, ended.err) == (130, "", "")
