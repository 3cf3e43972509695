"""Ten orders in any second: a flood from many tasks at once, and what each caller is told."""

import asyncio
import time

import rtx
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings


async def flood(limit: rtx.ratelimit.Limit, account_id: int, seconds: float) -> int:
    """Hit as fast as four tasks can; how many hits were allowed."""
    end = time.monotonic() + seconds

    async def knock() -> int:
        allowed = 0
        while time.monotonic() < end:
            allowed += (await limit.hit(account_id)).allowed
        return allowed

    return sum(await asyncio.gather(*(knock() for _ in range(4))))


async def main() -> None:
    settings = Settings.load(limits={"withdrawals": LimitSettings(limit=2, per=60)})
    async with rtx.open(settings) as layer:
        started = time.monotonic()
        allowed = await flood(layer.limits.orders, 1, 2.5)
        took = time.monotonic() - started
        denied = layer.limits.orders.stats.denied
        print(f"orders: {allowed} allowed and {denied} denied in {took:.1f} s")
        assert allowed <= 10 * (took + 1)

        # One account's flood is nobody else's business.
        assert (await layer.limits.orders.hit(2)).allowed

        # A denied caller knows when the same call would pass, and takes nothing by asking.
        decision = await layer.limits.orders.hit(1)
        print(f"orders: denied, retry in {decision.retry_after:.3f} s")
        await asyncio.sleep(decision.retry_after)
        assert await layer.limits.orders.hit(1)

        # Any other limit by its name; a hit may cost more than one.
        withdrawals = layer.limits["withdrawals"]
        assert await withdrawals.hit("ann", cost=2)
        refused = await withdrawals.hit("ann")
        print(f"withdrawals: retry in {refused.retry_after:.0f} s")
        assert not refused


asyncio.run(main())
