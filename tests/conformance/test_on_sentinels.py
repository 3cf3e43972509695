"""Failovers by the sentinels of every server: a primary that is killed, and one that hands over."""

from __future__ import annotations

import time

import pytest

import rtx
from rtx.errors import ServerError
from rtx.topology.process import ServerProcess
from tests.conformance.deployments import SentinelDeployment, client_of
from tests.conformance.drill import Drill
from tests.conformance.servers import on
from tests.conftest import eventually

pytestmark = [on("sentinel"), pytest.mark.timeout(90)]


@pytest.fixture
def drill(layer: rtx.DataLayer, other: rtx.DataLayer, namespace: str) -> Drill:
    return Drill(layer, other, key=f"{namespace}:count", symbol="EURUSD", account=1)


async def test_a_killed_primary_is_replaced(deployment: SentinelDeployment, drill: Drill) -> None:
    old = await deployment.group.primary()
    async with drill.running():
        struck = time.monotonic()
        old.kill()
        back = await drill.recovered(struck)
    await deployment.agreed(but=old)
    print(f"kill -9: writes after {back:.2f} s, {await drill.lost()} lost; {dict(drill.errors)}")
    drill.check_heard()
    await deployment.settled()


async def test_a_planned_failover_moves_writers_and_subscribers(
    deployment: SentinelDeployment, drill: Drill
) -> None:
    coordinated = deployment.case.server.coordinates
    old = await deployment.group.primary()

    async def accepted() -> bool:
        try:
            await deployment.group.failover()
        except ServerError as error:
            if error.prefix not in ("INPROG", "NOGOODSLAVE"):
                raise
            return False
        return True

    async with drill.running():
        struck = time.monotonic()
        await eventually(accepted)
        back = await drill.recovered(struck)
        await deployment.agreed(but=old)
        await eventually(lambda: nobody_on(old))
    lost = await drill.lost()
    manner = "COORDINATED" if coordinated else "plain FAILOVER"
    print(f"{manner}: {lost} lost of {len(drill.counted)}, {dict(drill.errors)}; {back:.3f} s")
    drill.check_heard()
    if coordinated:  # else the old one takes writes until the sentinels know of the promotion
        assert lost == 0


async def nobody_on(server: ServerProcess) -> bool:
    """Whether no layer is connected to a former primary, which may still call itself one."""
    async with client_of(server) as witness:
        return all(client["name"] != "rtx" for client in await witness.client_list())
