"""A paper broker: market orders through every part of the layer, in the order an engine would.

    order limit → account and positions from the cache → latest price → database → cache
    invalidated → execution published → margin alert

One position per symbol: an order adds to it, reduces it, closes it or turns it round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

from rtx.database import AccountUpdate
from rtx.demo.announcer import Announcer
from rtx.errors import NotFound, Unavailable
from rtx.gateway.orders import MarketOrder, OrderRejected
from rtx.layer import DataLayer
from rtx.marking import valuation
from rtx.models import Account, Execution, Position, Price, SymbolSpec


class PaperBroker:
    """Fills market orders at the latest price, bid for a sale and ask for a purchase.

    Implements the gateway's `OrderDesk`. Refuses with `OrderRejected`; raises `Unavailable` while
    Redis is away, because without the limiter and fresh prices no order may pass.
    """

    def __init__(self, layer: DataLayer, announcer: Announcer) -> None:
        self._layer = layer
        self._announcer = announcer

    async def place(self, account_id: int, order: MarketOrder) -> Execution:
        """Fill an order; returns the execution with its order id."""
        await self._check_limit(account_id)
        spec = await self._spec(order)
        account, positions = await self._account(account_id)
        prices = await self._prices(spec)
        price = prices.get(order.symbol)
        rate = valuation.conversion_rate(spec.quote, prices)
        if price is None or rate is None:
            needed = ", ".join((order.symbol, *valuation.conversion_symbols(spec.quote)))
            raise OrderRejected(
                "stale_price", f"there is no fresh price to fill at (needs {needed}); try again"
            )
        fill_price = price.ask if order.side == "BUY" else price.bid
        fill = _Fill(order, spec, fill_price, rate)

        # The cached account turns most orders away without touching the database. It may be seconds
        # old, so the same check is made again under the database's lock.
        fill.check_margin(account.equity, account.margin, positions)
        try:
            async with self._layer.accounts.update(account_id) as row:
                equity = await _mark(row, {spec.symbol: spec}, prices)
                fill.check_margin(equity, row.margin, row.positions)
                position_id = await fill.apply(row)
                execution = await row.record_execution(
                    Execution(0, position_id, order.symbol, order.side, order.volume, fill_price)
                )
        except NotFound:
            raise _unknown_account(account_id) from None
        # Committed: from here on the fill stands, whether or not it can be announced at once.
        return await self._announcer.execution(account_id, execution)

    async def _check_limit(self, account_id: int) -> None:
        decision = await self._layer.limits.orders.hit(account_id)
        if decision.degraded and not decision.allowed:
            raise Unavailable(f"orders cannot be counted now ({decision.reason}); try again")
        if not decision.allowed:
            limit = self._layer.limits.orders
            raise OrderRejected(
                "limit_exceeded",
                f"more than {decision.limit} orders in {limit.per:g} s; "
                f"try again in {decision.retry_after:.3f} s",
                decision=decision,
            )

    async def _spec(self, order: MarketOrder) -> SymbolSpec:
        spec = await self._layer.symbols.get(order.symbol)
        if spec is None:
            raise OrderRejected("unknown_symbol", f"{order.symbol} is not traded here")
        steps = order.volume / spec.volume_step
        if not (
            spec.min_volume <= order.volume <= spec.max_volume
            and math.isclose(steps, round(steps), abs_tol=1e-6)
        ):
            raise OrderRejected(
                "bad_volume",
                f"the volume of {order.symbol} is {spec.min_volume:g} to {spec.max_volume:g} lots "
                f"in steps of {spec.volume_step:g}, not {order.volume:g}",
            )
        return spec

    async def _account(self, account_id: int) -> tuple[Account, tuple[Position, ...]]:
        account = await self._layer.accounts.get(account_id)
        if account is None:
            raise _unknown_account(account_id)
        return account, await self._layer.positions.get(account_id) or ()

    async def _prices(self, spec: SymbolSpec) -> dict[str, Price]:
        wanted = (spec.symbol, *valuation.conversion_symbols(spec.quote))
        return await self._layer.prices.get_many(wanted)


class _Fill:
    """What an order does to an account's position in its symbol."""

    def __init__(self, order: MarketOrder, spec: SymbolSpec, price: float, rate: Decimal) -> None:
        self._order = order
        self._spec = spec
        self._price = price
        self._rate = rate

    def check_margin(
        self, equity: Decimal, margin: Decimal, positions: tuple[Position, ...]
    ) -> None:
        """Refuse the order unless the equity covers the margin after it."""
        held = _of_symbol(positions, self._order.symbol)
        added = self._order.volume
        if held is not None and held.side != self._order.side:
            added = max(0.0, _lots(self._order.volume - 2 * held.volume))
        if added == 0.0:
            return  # it sets margin free
        needed = valuation.margin_for(self._spec, added, self._price, self._rate)
        if equity - margin < needed:
            raise OrderRejected(
                "no_money",
                f"the order needs {needed} of margin and {max(equity - margin, Decimal(0))} is "
                "free; choose a smaller volume or close a position",
            )

    async def apply(self, row: AccountUpdate) -> int:
        """Open, add to, reduce, close or turn round the position; returns its id."""
        order, price = self._order, self._price
        held = _of_symbol(row.positions, order.symbol)
        if held is None:
            return await self._open(row, order.volume)
        if held.side == order.side:
            volume = _lots(held.volume + order.volume)
            average = (held.open_price * held.volume + price * order.volume) / volume
            return await self._resize(row, held, volume, round(average, self._spec.digits + 2))
        closed = min(held.volume, order.volume)
        row.balance += valuation.profit(
            self._spec, held.side, closed, held.open_price, price, self._rate
        )
        if order.volume < held.volume:
            left = _lots(held.volume - order.volume)
            return await self._resize(row, held, left, held.open_price)
        await row.close_position(held.id)
        if order.volume > held.volume:
            return await self._open(row, _lots(order.volume - held.volume))
        return held.id

    async def _open(self, row: AccountUpdate, volume: float) -> int:
        margin = valuation.margin_for(self._spec, volume, self._price, self._rate)
        order = self._order
        position = await row.open_position(order.symbol, order.side, volume, self._price, margin)
        return position.id

    async def _resize(
        self, row: AccountUpdate, held: Position, volume: float, open_price: float
    ) -> int:
        margin = valuation.margin_for(self._spec, volume, open_price, self._rate)
        await row.resize_position(held.id, volume, open_price, margin)
        current = self._price
        gain = valuation.profit(self._spec, held.side, volume, open_price, current, self._rate)
        await row.mark_position(held.id, current, gain)
        return held.id


async def mark_account(
    layer: DataLayer, account_id: int, prices: Mapping[str, Price]
) -> tuple[Decimal, Decimal]:
    """Value an account's positions at these prices, in the database; returns equity and margin."""
    specs = await layer.symbols.get_many(prices)
    async with layer.accounts.update(account_id) as row:
        return await _mark(row, specs, prices), row.margin


async def _mark(
    row: AccountUpdate, specs: Mapping[str, SymbolSpec], prices: Mapping[str, Price]
) -> Decimal:
    """Value the positions that have fresh prices; returns the equity."""
    equity = row.balance
    for position in row.positions:
        spec = specs.get(position.symbol)
        value = valuation.marked(position, spec, prices) if spec is not None else None
        if value is None:
            equity += position.unrealized_pnl
        else:
            equity += value[1]
            if value != (position.current_price, position.unrealized_pnl):
                await row.mark_position(position.id, *value)
    return equity


def _of_symbol(positions: tuple[Position, ...], symbol: str) -> Position | None:
    return next((position for position in positions if position.symbol == symbol), None)


def _lots(volume: float) -> float:
    """Sums of lots carry no binary dust."""
    return round(volume, 8)


def _unknown_account(account_id: int) -> OrderRejected:
    return OrderRejected("unknown_account", f"there is no account {account_id}")
