"""`rtx bench`: numbers for every use, and nothing left on the server."""

from __future__ import annotations

import json
from pathlib import Path

import redis.asyncio as redis_py

from rtx.cli.measuring import USES
from tests.cli.conftest import Rtx
from tests.conftest import eventually


async def keys(witness: redis_py.Redis, pattern: str) -> list[bytes]:
    found: list[bytes] = []
    for db in (0, 1, 2):
        port = witness.connection_pool.connection_kwargs["port"]
        async with redis_py.Redis(port=port, db=db) as client:
            found += await client.keys(pattern)
    return found


async def test_every_use_is_measured_and_the_server_left_clean(
    connected: Rtx, witness: redis_py.Redis, namespace: str, tmp_path: Path
) -> None:
    ended = await connected("bench", "--seconds", 0.2, "--json", tmp_path / "bench.json")
    assert ended.code == 0
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert saved["servers"][0].startswith("all primary ")
    uses = saved["uses"]
    assert [use["use"] for use in uses] == list(USES)
    for use in uses:
        assert 0 < use["p50_us"] <= use["p99_us"] <= use["p999_us"]
        assert use["per_second"] > 0
        assert use["use"] in ended.out
    assert await keys(witness, f"{namespace}:*") == []


async def test_ctrl_c_ends_a_bench_and_it_still_cleans_up(
    connected: Rtx, witness: redis_py.Redis, namespace: str
) -> None:
    running = await connected.start("bench", "--seconds", 20)
    await eventually(lambda: keys(witness, f"{namespace}:bench-*"))
    ended = await running.interrupt()
    assert (ended.code, ended.err) == (130, "")
    assert await keys(witness, f"{namespace}:*") == []


async def test_without_a_url_a_server_is_started_for_it(rtx: Rtx) -> None:
    ended = await rtx("bench", "--seconds", 0.1)
    assert ended.code == 0
    assert "a server started for this" in ended.err


async def test_two_runs_are_compared_in_ratios_with_what_else_differs(
    rtx: Rtx, tmp_path: Path
) -> None:
    def run(name: str, slower: float, server: str, *uses: str) -> Path:
        figures = {"p50_us": 50 * slower, "p99_us": 200 * slower, "p999_us": 900.0, "calls": 9}
        made = {
            "at": "2026-01-18T10:30:45.123Z",
            "rtx": "0.1.0",
            "python": "3.11.7",
            "machine": "Linux x86_64",
            "seconds_per_use": 2.0,
            "at_once": 100,
            "servers": [server],
            "uses": [{"use": use, "per_second": 1_000 / slower, **figures} for use in uses],
        }
        (tmp_path / name).write_text(json.dumps(made))
        return tmp_path / name

    before = run("a.json", 1, "all primary valkey 8.1.0", "price get", "gone")
    after = run("b.json", 0.5, "all primary valkey 9.1.0", "price get", "publish")
    ended = await rtx("bench", "--compare", before, after)
    assert ended.code == 0
    head, first, second, third = ended.lines
    assert head.split()[:3] == ["after", "/", "before"]
    assert first.split() == ["price", "get", "0.50", "0.50", "1.00", "2.00", "1,000/s", "2,000/s"]
    assert second.split() == ["publish", "–", "–", "–", "–", "–", "2,000/s"]
    assert third.split() == ["gone", "–", "–", "–", "–", "1,000/s", "–"]
    assert ended.err == (
        "servers: all primary valkey 8.1.0 before, all primary valkey 9.1.0 after\n"
    )


async def test_a_file_that_is_no_run_is_one_line(rtx: Rtx, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    for name, said in (("a.json", "is no run"), ("none.json", "cannot be read")):
        ended = await rtx("bench", "--compare", name, "a.json")
        assert ended.code == 1
        assert ended.err.startswith(f"error: {name} {said}")
        assert ended.err.count("\n") == 1
