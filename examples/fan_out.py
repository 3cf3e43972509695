"""One fast feed, three subscribers, and what each policy does with one that is slow.

- `every`       loses the oldest ticks and is told how many, in their place
- `latest`      gets the newest tick of each symbol
- `disconnect`  is ended with an error
"""

import asyncio

import rtx
from rtx.errors import SubscriptionClosed

TICKS = 1_000
QUEUE = 100


async def main() -> None:
    async with rtx.open() as layer:
        every = layer.market_data.subscribe("EURUSD", "GBPUSD", queue_size=QUEUE)
        latest = layer.market_data.subscribe("EURUSD", "GBPUSD", policy="latest")
        strict = layer.market_data.subscribe("EURUSD", policy="disconnect", queue_size=QUEUE)
        for subscription in (every, latest, strict):
            await subscription.ready()

        # Nobody reads while these are published: each queue does what its policy says.
        for number in range(TICKS):
            bid = 1.0 + number / 100_000
            await layer.market_data.publish_many(
                [
                    rtx.Tick("EURUSD", bid=bid, ask=bid + 0.0002),
                    rtx.Tick("GBPUSD", bid=bid + 0.2, ask=bid + 0.2002),
                ]
            )
        await layer.market_data.publish(rtx.Tick("EURUSD", bid=2.0, ask=2.1))

        got, missed = 0, 0
        async with every:
            async for item in every:
                if isinstance(item, rtx.Gap):
                    missed += item.skipped
                else:
                    got += 1
                    if item.bid == 2.0:
                        break
        print(f"every:      {got} ticks read, {missed} skipped and told, {got + missed} in all")
        assert got + missed == 2 * TICKS + 1

        async with latest:
            for item in (await anext(latest), await anext(latest)):
                assert isinstance(item, rtx.Tick)
                print(f"latest:     {item.symbol} {item.bid}")
        print(f"            {latest.conflated} older ticks were replaced unread")

        read = 0
        try:
            async for _ in strict:
                read += 1
        except SubscriptionClosed as error:
            print(f"disconnect: ended after {read} ticks: {error}")


asyncio.run(main())
