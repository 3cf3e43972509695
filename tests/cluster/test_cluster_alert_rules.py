"""Alert rules in a cluster: each account's in the slot of its alerts, through a failover."""

from __future__ import annotations

import signal

import rtx
from rtx.topology.local_cluster import LocalCluster
from tests.alerts.conftest import above, alerted, quote
from tests.conftest import eventually


async def test_each_of_two_engines_evaluates_and_a_dead_primarys_alert_is_published_after_it(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    symbol = layer.keys.market_data("EURUSD")
    home = await cluster.primary_of(symbol)
    elsewhere = 1
    while await cluster.primary_of(layer.keys.alerts(elsewhere)) is home:
        elsewhere += 1
    accounts = sorted({1, 2, 3, elsewhere})
    for account in accounts:
        await layer.alert_rules.put(above(account_id=account))
    async with layer.alert_rules.engine() as one, other.alert_rules.engine() as two:
        await one.ready()
        await two.ready()
        victim = await cluster.primary_of(layer.keys.alerts(elsewhere))
        victim.kill(signal.SIGKILL)
        await quote(layer, 1.2)
        stats = (layer.alert_rules.stats, other.alert_rules.stats)
        await eventually(
            lambda: sum(each.fired for each in stats) == len(accounts) and not any(
                each.owed for each in stats
            ),
            within=30,
        )  # fmt: skip
        for account in accounts:
            assert await alerted(layer, account) == ["r"]
