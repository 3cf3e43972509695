"""A client that trades a little by itself, so that the demo has fills to show."""

from __future__ import annotations

import asyncio
import random
from typing import get_args

from rtx.demo.broker import PaperBroker
from rtx.errors import RtxError
from rtx.gateway.orders import MarketOrder
from rtx.models import Side

_PAUSE = (4.0, 12.0)  # seconds between orders


async def trade(
    broker: PaperBroker, account_id: int, symbols: list[str], rng: random.Random
) -> None:
    """Place a small order every few seconds until cancelled; refusals are part of the game."""
    while True:
        await asyncio.sleep(rng.uniform(*_PAUSE))
        side: Side = rng.choice(get_args(Side))
        order = MarketOrder(rng.choice(symbols), side, round(rng.randint(1, 20) / 100, 2))
        try:
            await broker.place(account_id, order)
        except RtxError:
            continue
