"""`rtx server`, `rtx serve` and `rtx demo`: they start, say where, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis_py

from tests.cli.conftest import Rtx
from tests.conftest import eventually, shared_data

REDIS = re.compile(r"redis://127\.0\.0\.1:\d+")
HTTP = re.compile(r"http://127\.0\.0\.1:\d+")


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


async def fetch(url: str) -> tuple[int, str]:
    """Status and body, over one connection of the standard library's."""

    def get() -> tuple[int, str]:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()

    return await asyncio.to_thread(get)


def found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    assert match is not None, text
    return match[0]


# --- rtx server ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_server_says_its_url_and_ends_with_a_signal(
    rtx: Rtx, tmp_path: Path, number: int
) -> None:
    running = await rtx.start("server", "--port", 0, env={"TMPDIR": str(tmp_path)})
    url = await running.line()
    async with redis_py.Redis.from_url(url) as client:
        assert await client.ping()
    assert len(running.children()) == 1
    ended = await running.interrupt(number)
    assert ended.code == 0
    assert os.listdir(tmp_path) == []


async def test_a_server_with_a_directory_keeps_its_data(rtx: Rtx, tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        running = await rtx.start("server", "--port", 0, "--directory", tmp_path / "data")
        async with redis_py.Redis.from_url(await running.line()) as client:
            assert await client.get("key") == expected
            await client.set("key", "kept")
        assert (await running.interrupt()).code == 0


async def test_two_servers_on_one_directory_are_refused(rtx: Rtx, tmp_path: Path) -> None:
    running = await rtx.start("server", "--port", 0, "--directory", tmp_path)
    await running.line()
    ended = await rtx("server", "--port", 0, "--directory", tmp_path)
    assert ended.code == 1
    assert "in use by another rtx process" in ended.err
    await running.interrupt()


async def test_a_server_does_not_outlive_a_kill_of_rtx(rtx: Rtx, tmp_path: Path) -> None:
    running = await rtx.start("server", "--port", 0, env={"TMPDIR": str(tmp_path)})
    await running.line()
    (child,) = running.children()
    running.process.kill()
    await running.end()
    await eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_a_server_that_is_killed_from_outside_is_told(rtx: Rtx) -> None:
    running = await rtx.start("server", "--port", 0)
    await running.line()
    (child,) = running.children()
    os.kill(child, signal.SIGKILL)
    ended = await running.end()
    assert ended.code == 1
    assert "ended from outside" in ended.err


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
async def test_a_topology_is_started_found_and_ended(rtx: Rtx, topology: str) -> None:
    running = await rtx.start("server", "--topology", topology)
    url = await running.line()
    assert url.startswith(f"redis+{topology}://")
    assert len(running.children()) == 6
    fed = await rtx("bench", "--seconds", 0.1, env={"RTX_URL": url})
    assert fed.code == 0, fed.err
    assert (await running.interrupt()).code == 0


@pytest.mark.parametrize("command", ["server", "serve --embedded", "demo"])
async def test_a_port_in_use_is_told_with_a_remedy(rtx: Rtx, command: str, taken_port: int) -> None:
    ended = await rtx(*command.split(), "--port", taken_port)
    assert ended.code == 1
    assert f"error: port {taken_port} on 127.0.0.1" in ended.err
    assert "--port" in ended.err
    assert ended.err.count("error: ") == 1


# --- rtx serve -----------------------------------------------------------------------------


async def test_serve_answers_and_ends_with_ctrl_c_while_a_stream_is_open(connected: Rtx) -> None:
    running = await connected.start("serve", "--port", 0)
    url = found(HTTP, await running.line())
    assert (await fetch(f"{url}/health/ready"))[0] == 200
    assert (await fetch(f"{url}/"))[0] == 200
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/stream/sse?channels=market_data:EURUSD HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"200" in await reader.readline()
    ended = await running.interrupt()
    writer.close()
    assert ended.code == 0


async def test_serve_with_a_server_of_its_own(rtx: Rtx) -> None:
    running = await rtx.start("serve", "--embedded", "--port", 0)
    server = found(REDIS, await running.line())
    url = found(HTTP, await running.line())
    async with redis_py.Redis.from_url(server) as client:
        await client.set("price:EURUSD", '{"symbol":"EURUSD","time":1,"bid":1.5,"ask":1.6}')
    assert json.loads((await fetch(f"{url}/v1/prices/EURUSD"))[1])["bid"] == 1.5
    assert (await running.interrupt(signal.SIGTERM)).code == 0


async def test_ctrl_c_ends_serve_while_it_cannot_connect(rtx: Rtx) -> None:
    """A host that never answers: 192.0.2.1 is kept free for documentation."""
    running = await rtx.start("serve", env={"RTX_URL": "redis://192.0.2.1:6379"})
    # No handler is there until the command runs; then SIGINT is no longer at its default.
    await eventually(lambda: _catches(running.process.pid, signal.SIGTERM))
    ended = await running.interrupt()
    assert ended.code in (0, 1)  # 1 where the network refuses at once


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.M)
    return match is not None and bool(int(match[1], 16) >> (number - 1) & 1)


# --- rtx demo ------------------------------------------------------------------------------


async def test_the_demo_serves_live_prices_and_leaves_nothing(rtx: Rtx, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = await rtx.start("demo", "--port", 0, "--seed", 1, env={"TMPDIR": str(temporary)})
    url = found(HTTP, await running.line_with("demo"))
    server = found(REDIS, await running.line_with("rtx watch"))
    assert "<html" in (await fetch(f"{url}/"))[1]

    async def priced() -> bool:
        return len(json.loads((await fetch(f"{url}/v1/prices"))[1])) > 3

    await eventually(priced)
    watched = await rtx("watch", "--count", 3, env={"RTX_URL": server})
    assert len(watched.lines) == 3
    assert len(running.children()) == 1
    ended = await running.interrupt()
    assert (ended.code, ended.err) == (0, "")
    assert os.listdir(temporary) == []


async def test_the_demo_replays_a_file_and_goes_on_serving(rtx: Rtx) -> None:
    path = shared_data("eurusd-2020-01-01.histdata.csv")
    running = await rtx.start(
        *("demo", "--port", 0, "--replay", path, "--symbol", "EURUSD", "--speed", "max")
    )
    url = found(HTTP, await running.line_with("demo"))
    assert "published 9,500 ticks" in await running.line_with("replay:")
    assert "refused none" in await running.line()
    assert (await fetch(f"{url}/"))[0] == 200
    assert (await running.interrupt()).code == 0


async def test_a_second_ctrl_c_is_immediate(
    connected: Rtx, witness: redis_py.Redis, namespace: str
) -> None:
    """A report that nobody takes holds up the end: standard output is a pipe that is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    running = await connected.start("feed", "--source", "simulated", stdout=writing)
    os.close(writing)
    await eventually(lambda: witness.exists(f"{namespace}:price:EURUSD"))
    running.process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.5)  # the pause between two presses
    assert running.process.returncode is None
    ended = await running.interrupt(within=1.0)
    os.close(reading)
    assert ended.code == 130
