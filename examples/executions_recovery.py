"""A client that goes away and comes back gets every execution it missed, once, in order.

Then the log is trimmed below the client's position, and the client is told so.
"""

import asyncio

import rtx
from rtx.setting_groups import ChannelSettings
from rtx.settings import Settings

ACCOUNT = 1


async def fill(layer: rtx.DataLayer, order_id: int) -> None:
    execution = rtx.Execution(order_id, 1, "EURUSD", "BUY", 0.1, 1.0952)
    await layer.executions.publish(ACCOUNT, execution)


async def main() -> None:
    settings = Settings.load(channels=ChannelSettings(log_size=100))
    async with rtx.open(settings) as layer:
        # Connected: the client keeps the position of the last message it has dealt with.
        async with layer.executions.subscribe(ACCOUNT) as fills:
            await fills.ready()
            await fill(layer, 1)
            first = await anext(fills)
            assert isinstance(first, rtx.Execution)
            position = rtx.Offset(first.epoch, first.seq)
        print(f"saw order 1, and left at {position}")

        # Away: fills go on.
        for order_id in range(2, 7):
            await fill(layer, order_id)

        # Back: what was missed, then what is live.
        async with layer.executions.subscribe(ACCOUNT, after=position) as fills:
            await fills.ready()
            print(f"back: recovered={fills.recovered}")
            await fill(layer, 7)
            orders: list[int] = []
            while len(orders) < 6:
                item = await anext(fills)
                assert isinstance(item, rtx.Execution)
                orders.append(item.order_id)
        print(f"got orders {orders}")
        assert orders == [2, 3, 4, 5, 6, 7]

        # Away for longer than the log remembers: the hole is told, not hidden.
        for order_id in range(8, 200):
            await fill(layer, order_id)
        async with layer.executions.subscribe(ACCOUNT, after=position) as fills:
            gap = await anext(fills)
            assert isinstance(gap, rtx.Gap)
            oldest = await anext(fills)
            assert isinstance(oldest, rtx.Execution)
            print(f"away too long: {gap.cause!r}, the log begins with order {oldest.order_id}")


asyncio.run(main())
