"""TCP and unix socket of every single server."""

from __future__ import annotations

import rtx
from rtx.models import Tick
from tests.conformance.deployments import Deployment
from tests.conformance.servers import on

pytestmark = on("standalone")


async def test_a_unix_socket_serves_as_tcp_does(
    deployment: Deployment, layer: rtx.DataLayer, namespace: str
) -> None:
    [server] = deployment.servers
    assert server.socket is not None
    async with rtx.open(deployment.settings(namespace, url=f"unix://{server.socket}")) as near:
        async with near.market_data.subscribe("EURUSD", snapshot=False) as ticks:
            await ticks.ready()
            await layer.market_data.publish(Tick("EURUSD", bid=1.0, ask=2.0))
            tick = await anext(ticks)
            assert isinstance(tick, Tick)
            assert tick.bid == 1.0
        assert (await near.health()).ready
