"""A subscription whose server died without a word is noticed within two probe intervals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import rtx
from rtx.errors import RtxError
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from rtx.wire import Connection
from rtx.wire.options import ConnectOptions
from tests.conftest import eventually
from tests.sentinel.watching import Lateness
from tests.wire.faults import Proxy

PROBE_INTERVAL = 1.0  # the default


@asynccontextmanager
async def publishing(server: ServerProcess, busy: bool) -> AsyncIterator[None]:
    """Ticks from elsewhere, some thousand a second, or none."""

    async def publish() -> None:
        connection = await Connection.dial(Address("127.0.0.1", server.port), ConnectOptions())
        with contextlib.suppress(RtxError):
            while True:
                tick = '{"type":"tick","symbol":"EURUSD","time":1,"bid":1.0,"ask":1.1,"lp":"A"}'
                await connection.batch([("PUBLISH", "market_data:EURUSD", tick)] * 20)
                await asyncio.sleep(0.002)
        await connection.close()

    task = asyncio.create_task(publish()) if busy else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
@pytest.mark.parametrize("fault", ["frozen server", "black hole"])
async def test_a_dead_subscription_is_noticed_within_two_probe_intervals(
    own_server: ServerProcess, fault: str, busy: bool
) -> None:
    late = Lateness()
    async with Proxy(Address("127.0.0.1", own_server.port)) as proxy:
        settings = Settings.load(url=f"redis://127.0.0.1:{proxy.address.port}")
        async with (
            rtx.open(settings) as layer,
            layer.market_data.subscribe("EURUSD", snapshot=False) as ticks,
            publishing(own_server, busy),
            late.measured(),
        ):
            await ticks.ready()
            if busy:
                await eventually(lambda: layer.hub.stats.received > 1_000)
            else:  # a PING has been answered by then, and another is due
                await asyncio.sleep(PROBE_INTERVAL)
            assert layer.hub.down is None
            struck = time.monotonic()
            if fault == "frozen server":
                own_server.kill(signal.SIGSTOP)
            else:
                proxy.freeze()
            down = await eventually(lambda: layer.hub.down)
            took = time.monotonic() - struck
            own_server.kill(signal.SIGCONT)
            proxy.thaw()
            print(f"{fault}: noticed after {took:.2f} s; the machine {late.seconds:.2f} s late")
            assert took < 2 * PROBE_INTERVAL + late.seconds
            assert "frozen or cut off" in str(down)
