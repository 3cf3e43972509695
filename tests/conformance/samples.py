"""Messages to publish, and what takes them."""

from __future__ import annotations

import asyncio

import rtx
from rtx.models import Execution, Tick


def quote(symbol: str, number: int) -> Tick:
    """A tick whose bid says which one it is."""
    return Tick(symbol, bid=float(number), ask=number + 0.5, lp="LP")


def fill(number: int) -> Execution:
    """An execution whose order id says which one it is."""
    return Execution(order_id=number, position_id=1, symbol="X", side="BUY", volume=1.0, price=1.0)


async def take(subscription: rtx.Subscription, count: int) -> list:  # type: ignore[type-arg]
    """The next items of a subscription."""
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(count)]
