"""What cannot be opened says why."""

from __future__ import annotations

import pytest

import rtx
from rtx.errors import AccessDenied, ConnectFailed, SettingsError
from rtx.settings import Settings
from rtx.topology.local import ask
from rtx.topology.process import ServerProcess, free_port


async def opening(url: str) -> None:
    settings = Settings.load(url=url, pool={"connect_timeout": 0.5})
    async with rtx.open(settings):
        pass


async def test_a_single_server_is_told_from_a_cluster(own_server: ServerProcess) -> None:
    with pytest.raises(SettingsError, match="not a cluster node"):
        await opening(f"redis+cluster://127.0.0.1:{own_server.port}")


async def test_all_seeds_dead_names_each(cluster: object) -> None:
    ports = [free_port(), free_port()]
    with pytest.raises(ConnectFailed) as caught:
        await opening("redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports))
    assert all(str(port) in str(caught.value) for port in ports)
    assert "refused" in str(caught.value)


async def test_one_live_seed_is_enough(settings: Settings) -> None:
    url = settings.url.get_secret_value().replace("://", f"://127.0.0.1:{free_port()},")
    await opening(url)


async def test_a_wrong_password_is_access_denied(own_server: ServerProcess) -> None:
    await ask(own_server.port, "CONFIG", "SET", "requirepass", "right")
    with pytest.raises(AccessDenied):
        await opening(f"redis+cluster://:wrong@127.0.0.1:{own_server.port}")
    with pytest.raises(AccessDenied):
        await opening(f"redis+cluster://127.0.0.1:{own_server.port}")


async def test_a_cluster_without_all_slots_is_down(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("n")
    config = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    server = ServerProcess(directory, config=config)
    await server.start()
    try:
        await ask(server.port, "CLUSTER", "ADDSLOTSRANGE", 0, 9_999)
        with pytest.raises(ConnectFailed, match="6384 of 16384 slots have no node"):
            await opening(f"redis+cluster://127.0.0.1:{server.port}")
    finally:
        await server.stop()
