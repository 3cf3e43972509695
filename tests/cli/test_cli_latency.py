"""`rtx latency`: round trips of every use, gently, and nothing left on the server."""

from __future__ import annotations

import json
import math
import random

import redis.asyncio as redis_py

from rtx.cli.histogram import Histogram, short
from rtx.topology.process import ServerProcess
from tests.cli.conftest import Rtx
from tests.cli.test_cli_bench import keys
from tests.conftest import eventually

_OF_THE_LAYER = ["price get", "publish to subscriber", "limit hit"]


def test_quantiles_are_those_of_the_sorted_values_to_one_percent(seeded: random.Random) -> None:
    values = sorted(seeded.lognormvariate(-8, 1.5) for _ in range(5_000))
    histogram = Histogram()
    for value in values:
        histogram.take(value)
    for share in (0.001, 0.5, 0.99, 0.999, 1.0):
        exact = values[max(math.ceil(len(values) * share), 1) - 1]
        assert exact <= histogram.quantile(share) * 1.000001 <= exact * 1.0101
    assert (histogram.least, histogram.most) == (values[0], values[-1])
    assert math.isclose(histogram.mean, sum(values) / len(values))
    assert sum(number for _, _, number in histogram.ranges()) == len(values)


def test_bars_are_as_long_as_their_counts_and_no_line_is_wider_than_asked() -> None:
    histogram = Histogram()
    for microseconds, number in ((90, 40), (150, 20), (900, 1), (100_000_000, 1)):
        for _ in range(number):
            histogram.take(microseconds / 1e6)
    lines = histogram.bars(60, "#")
    assert [line.count("#") for line in lines][:2] == [24, 12]
    assert lines[0].split()[:2] == ["to", "100"]
    assert lines[-1].split()[:3] == ["over", "50", "s"]
    assert "0.00%" in lines[2]
    assert max(map(len, lines)) <= 60
    assert Histogram().bars(60, "#") == []


def test_times_are_written_in_the_unit_that_fits() -> None:
    assert [short(s) for s in (8.7e-05, 0.00125, 0.9999, 2.1)] == [
        "87 µs",
        "1.25 ms",
        "1 s",
        "2.1 s",
    ]


async def test_every_use_and_every_server_is_timed_and_nothing_is_left(
    connected: Rtx, witness: redis_py.Redis, namespace: str
) -> None:
    ended = await connected("latency", "--count", 5, "--rate", 1000, "--json")
    assert (ended.code, ended.err) == (0, "")
    uses = json.loads(ended.out)
    assert [use["use"] for use in uses][1:] == _OF_THE_LAYER
    assert uses[0]["use"].startswith("ping 127.0.0.1:")
    assert uses[0]["use"].endswith("(all, primary)")
    for use in uses:
        assert (use["count"], use["failures"], use["error"]) == (5, 0, "")
        assert 0 < use["min_us"] <= use["p50_us"] <= use["p99_us"] <= use["p999_us"]
        assert use["p999_us"] <= use["max_us"]
        assert use["min_us"] <= use["avg_us"] <= use["max_us"]
        assert sum(one["count"] for one in use["histogram"]) == 5
    assert await keys(witness, f"{namespace}:*") == []


async def test_ctrl_c_ends_it_with_the_summary(
    connected: Rtx, witness: redis_py.Redis, namespace: str
) -> None:
    measuring = await connected.start("latency", "--rate", 200)
    await eventually(lambda: keys(witness, f"{namespace}:latency-*:ratelimit:*"))
    ended = await measuring.interrupt()
    assert (ended.code, ended.err) == (0, "")
    assert "limit hit" in ended.out
    assert " round trips in " in ended.lines[-1]
    assert max(map(len, ended.lines)) <= 80
    assert "\x1b" not in ended.out
    assert await keys(witness, f"{namespace}:*") == []


async def test_it_keeps_to_its_rate(connected: Rtx) -> None:
    ended = await connected("latency", "--seconds", 1, "--rate", 20, "--json")
    assert 0 < sum(use["count"] for use in json.loads(ended.out)) <= 21


async def test_what_fails_is_counted_with_its_reason_and_not_timed(
    rtx: Rtx, own_server: ServerProcess
) -> None:
    async with redis_py.Redis(port=own_server.port) as admin:
        await admin.execute_command(
            "ACL", "SETUSER", "guest", "on", ">guest", "~*", "&*", "+@all", "-get"
        )
    rtx.env["RTX_URL"] = own_server.url.replace("redis://", "redis://guest:guest@")
    ended = await rtx("latency", "--count", 2, "--rate", 1000, "--json")
    uses = {use["use"]: use for use in json.loads(ended.out)}
    assert ended.code == 0
    assert (uses["price get"]["count"], uses["price get"]["failures"]) == (0, 2)
    assert "get" in uses["price get"]["error"]
    assert uses["limit hit"]["count"] == 2
