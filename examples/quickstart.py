"""Caches, ticks, an execution and a limit on a server that this program starts itself."""

import asyncio

import rtx


async def main() -> None:
    async with rtx.open() as layer:  # a server of its own, unless RTX_URL names one
        # A subscriber gets the latest price first if there is one, then every tick after it.
        async with layer.market_data.subscribe("EURUSD") as ticks:
            await ticks.ready()
            await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.0950, ask=1.0952, lp="ALPHA"))
            print("tick:     ", await anext(ticks))

        # The tick is the price too, for one second.
        price = await layer.prices.get("EURUSD")
        assert price is not None
        print("price:    ", price.mid, "spread", price.spread)
        await asyncio.sleep(1.1)
        print("later:    ", await layer.prices.get("EURUSD"), "(an old price is no price)")

        # An execution has a number and stays in the account's log.
        fill = rtx.Execution(67890, 12345, "EURUSD", "BUY", 1.0, 1.0952)
        position = await layer.executions.publish(1, fill)
        print("execution:", position.seq, "in epoch", position.epoch)

        # Ten orders in any second.
        decisions = [await layer.limits.orders.hit(1) for _ in range(12)]
        print("orders:   ", sum(decision.allowed for decision in decisions), "of 12 allowed")
        print("retry in: ", f"{decisions[-1].retry_after:.3f} s")


asyncio.run(main())
