"""`rtx feed`, counted by redis-py."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio as redis_py

from rtx.topology.process import ServerProcess
from tests.cli.conftest import Rtx
from tests.conftest import eventually, shared_data

SMALL = """\
20200101 170000065,1.121200,1.121720,0
20200101 170010447,1.121200,1.121920,0
this line is broken
20200101 170010498,1.121900,1.121610,0
20200101 170011498,1.121170,1.121610,0
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.csv"
    path.write_text(SMALL)
    return path


@asynccontextmanager
async def listening(witness: redis_py.Redis, channel: str) -> AsyncIterator[redis_py.client.PubSub]:
    """redis-py, subscribed for certain."""
    pubsub = witness.pubsub()
    await pubsub.subscribe(channel)
    assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
    yield pubsub
    await pubsub.aclose()


async def messages(pubsub: redis_py.client.PubSub, count: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    while len(found) < count:
        message = await pubsub.get_message(timeout=5)
        assert message is not None, f"only {len(found)} of {count} came"
        found.append(json.loads(message["data"]))
    return found


async def test_a_replay_publishes_the_good_lines_and_reports_the_others(
    connected: Rtx, small: Path, witness: redis_py.Redis, namespace: str
) -> None:
    async with listening(witness, f"{namespace}:market_data:EURUSD") as pubsub:
        ended = await connected(
            *("feed", "--source", "replay", small, "--symbol", "EURUSD"),
            *("--speed", "max", "--lp", "TEST"),
        )
        ticks = await messages(pubsub, 3)
        assert await pubsub.get_message(timeout=0.1) is None
    assert ended.code == 0
    assert "published 3 ticks" in ended.out
    assert "refused 2: 1 crossed, 1 malformed" in ended.out
    assert "line 3" in ended.out
    assert [tick["ask"] for tick in ticks] == [1.12172, 1.12192, 1.12161]
    assert {tick["lp"] for tick in ticks} == {"TEST"}


async def test_the_report_as_json(connected: Rtx, small: Path) -> None:
    ended = await connected("feed", small, "--symbol", "EURUSD", "--speed", "max", "--json")
    report = json.loads(ended.out)
    assert report["published"] == 3
    assert report["refused"] == {"crossed": 1, "malformed": 1}
    assert ended.err == ""


async def test_all_9500_ticks_of_a_real_file_arrive_in_order(
    connected: Rtx, witness: redis_py.Redis, namespace: str
) -> None:
    path = shared_data("eurusd-2020-01-01.histdata.csv")
    expected = [float(line.split(",")[1]) for line in path.read_text().splitlines()]
    async with listening(witness, f"{namespace}:market_data:EURUSD") as pubsub:
        feeding = await connected.start("feed", path, "--symbol", "EURUSD", "--speed", "max")
        ticks = await messages(pubsub, 9_500)
        ended = await feeding.end()
    assert ended.code == 0
    assert "published 9,500 ticks" in ended.out
    assert "refused none" in ended.out
    assert [tick["bid"] for tick in ticks] == expected


async def test_a_file_that_is_none_of_ticks_is_refused(connected: Rtx, tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("shall I compare thee\nto a summer's day\n")
    ended = await connected("feed", path, "--symbol", "EURUSD")
    assert ended.code == 1
    assert "poem.txt" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_with_a_report(
    connected: Rtx, witness: redis_py.Redis, namespace: str, number: int, code: int
) -> None:
    feeding = await connected.start("feed", "--source", "simulated", "--seed", 7)
    await eventually(lambda: witness.exists(f"{namespace}:price:EURUSD"))
    ended = await feeding.interrupt(number)
    assert ended.code == code
    assert "simulated: published" in ended.out


async def test_ctrl_c_while_a_slow_replay_waits(
    connected: Rtx, small: Path, witness: redis_py.Redis, namespace: str
) -> None:
    feeding = await connected.start("feed", small, "--symbol", "EURUSD")
    await eventually(lambda: witness.exists(f"{namespace}:price:EURUSD"))
    ended = await feeding.interrupt()
    assert ended.code == 130
    assert "published 1 tick " in ended.out


async def test_ticks_that_could_not_be_delivered_are_an_error(
    rtx: Rtx, own_server: ServerProcess, tmp_path: Path
) -> None:
    path = tmp_path / "two.csv"
    lines = SMALL.splitlines()
    path.write_text(f"{lines[0]}\n{lines[4]}\n")  # 11 s apart
    rtx.env["RTX_URL"] = own_server.url
    feeding = await rtx.start("feed", path, "--symbol", "EURUSD", "--speed", "5")
    async with redis_py.Redis.from_url(own_server.url) as witness:
        await eventually(lambda: witness.exists("price:EURUSD"))
    await own_server.stop()
    ended = await feeding.end()
    assert ended.code == 1
    assert "refused 1: 1 unavailable" in ended.out
    assert "error: 1 tick" in ended.err
    assert "Traceback" not in ended.err


async def test_a_token_file_that_is_missing(connected: Rtx) -> None:
    ended = await connected(
        *("feed", "--source", "oanda", "--account", "1", "--symbol", "EURUSD"),
        *("--token-file", "none"),
    )
    assert ended.code == 1
    assert "token file none cannot be read" in ended.err
