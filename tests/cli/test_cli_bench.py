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
    uses = json.loads((tmp_path / "bench.json").read_text())["uses"]
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
