"""What scripts wrote is there after a restart, with the shipped users.

Redis up to 8.2 and Valkey 8.1 run the transactions of an append-only file with the rights of the
user `default`: where that has none, everything that scripts wrote is refused and gone.
"""

from __future__ import annotations

from pathlib import Path

import rtx
from rtx.monitoring.doctor import examine
from rtx.settings import Settings
from tests.conftest import wait_sync
from tests.deploy.layouts import DEPLOY, Layout


async def test_executions_and_limits_outlive_a_restart(
    binary: str, tmp_path: Path, secrets: Path
) -> None:
    layout = Layout(binary, tmp_path, secrets)
    try:
        layout.add("state", "start-server.sh", [DEPLOY / "redis-state.conf"], MEMORY="100mb")
        wait_sync(lambda: layout.ask("state", "PING"))
        password, port = layout.password("engine"), layout.ports["state"]
        settings = Settings.load(url=f"redis://engine:{password}@127.0.0.1:{port}")
        async with rtx.open(settings) as layer:
            for number in range(3):
                fill = rtx.Execution(number, 1, "EURUSD", "BUY", 1.0, 1.1)
                await layer.executions.publish(1, fill)
            hits = await layer.limits.api.hit("ann", cost=5)
        layout.end("state")
        layout.start("state")
        wait_sync(lambda: layout.ask("state", "PING"))
        async with rtx.open(settings) as layer:
            found = await layer.executions.history(1, limit=10)
            assert [fill.order_id for fill in found.messages] == [0, 1, 2]
            assert (await layer.limits.api.hit("ann")).remaining == hits.remaining - 1
        assert layout.ask("state", "ACL", "LOG") == []
    finally:
        layout.stop()


async def test_the_doctor_tells_exactly_where_a_restart_would_lose_what_scripts_wrote(
    binary: str, tmp_path: Path, secrets: Path
) -> None:
    only = ("scripts-lost-at-restart",)
    layout = Layout(binary, tmp_path, secrets)
    try:
        layout.add("state", "start-server.sh", [DEPLOY / "redis-state.conf"], MEMORY="100mb")
        wait_sync(lambda: layout.ask("state", "PING"))
        place = f"127.0.0.1:{layout.ports['state']}"
        urls = {
            user: f"redis://{user}:{layout.password(user)}@{place}" for user in ("admin", "engine")
        }
        assert (await examine(Settings.load(url=urls["admin"]), only=only)).findings == ()
        layout.ask("state", "ACL", "SETUSER", "default", "-@all")
        layout.ask("state", "ACL", "SAVE")
        async with rtx.open(Settings.load(url=urls["engine"])) as layer:
            await layer.executions.publish(1, rtx.Execution(1, 1, "EURUSD", "BUY", 1.0, 1.1))
        found = (await examine(Settings.load(url=urls["admin"]), only=only)).findings
        layout.end("state")
        layout.start("state")
        wait_sync(lambda: layout.ask("state", "PING"))
        async with rtx.open(Settings.load(url=urls["engine"])) as layer:
            lost = not (await layer.executions.history(1, limit=10)).messages
        assert lost == bool(found)
    finally:
        layout.stop()
