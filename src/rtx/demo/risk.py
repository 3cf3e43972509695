"""Watching over the accounts: positions marked to the latest prices, margin calls raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

from rtx.demo.announcer import Announcer
from rtx.demo.broker import mark_account
from rtx.errors import RtxError
from rtx.layer import DataLayer
from rtx.marking import valuation
from rtx.models import Alert, Price

_EVERY = 1.0
_CALL_BELOW = Decimal(100)
_ALL_CLEAR_ABOVE = Decimal(105)  # apart from the call, so that it does not chatter


class RiskWatch:
    """Values every account with open positions once a second.

    One margin call is raised when the level falls under 100 %, and no other before it has been
    above 105 %.
    """

    def __init__(
        self, layer: DataLayer, announcer: Announcer, notice: Callable[[str], None]
    ) -> None:
        self._layer = layer
        self._announcer = announcer
        self._notice = notice
        self._called: set[int] = set()

    async def run(self, account_ids: list[int]) -> None:
        """Watch until cancelled; an outage is sat out."""
        trouble = ""
        while True:
            try:
                await self._announcer.settle()
                await self.check(account_ids)
                trouble = ""
            except RtxError as error:
                if error.code != trouble:
                    self._notice(f"the risk watch waits: {error}")
                trouble = error.code
            await asyncio.sleep(_EVERY)

    async def check(self, account_ids: list[int]) -> None:
        """Mark the accounts that have positions, and raise or clear margin calls."""
        positions = await self._layer.positions.get_many(account_ids)
        symbols = {item.symbol for several in positions.values() for item in several}
        if not symbols:
            self._called.clear()
            return
        prices = await self._prices(symbols)
        for account_id, several in positions.items():
            if several:
                equity, margin = await mark_account(self._layer, account_id, prices)
                await self._judge(account_id, valuation.level(equity, margin))
            else:
                self._called.discard(account_id)

    async def _prices(self, symbols: set[str]) -> dict[str, Price]:
        specs = await self._layer.symbols.get_many(symbols)
        converting = {
            name for spec in specs.values() for name in valuation.conversion_symbols(spec.quote)
        }
        return await self._layer.prices.get_many(symbols | converting)

    async def _judge(self, account_id: int, level: Decimal | None) -> None:
        if level is None or level > _ALL_CLEAR_ABOVE:
            self._called.discard(account_id)
        elif level < _CALL_BELOW and account_id not in self._called:
            alert = Alert(
                "margin_call",
                "critical",
                f"margin level {level} % is under 100 %: add money or close positions",
            )
            if await self._announcer.alert(account_id, alert):
                self._called.add(account_id)
