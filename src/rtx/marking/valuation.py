"""What a position is worth: pure functions over prices, in account currency.

Sums and products of money are exact, whatever decimal context the caller's thread has set; what is
not a whole number of cents is rounded half-even at the end. Only a conversion by an inverse pair
(1 / USDJPY) has no exact decimal: it has 28 digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal

from rtx.models import Position, Price, Side, SymbolSpec

ACCOUNT_CURRENCY = "USD"
_CENT = Decimal("0.01")
_EXACT = Context(prec=256, rounding=ROUND_HALF_EVEN)
_INVERSE = Context(prec=28, rounding=ROUND_HALF_EVEN)


def exact(number: float) -> Decimal:
    """The decimal a person would write for a float: 1.1 gives 1.1."""
    return Decimal(repr(number))


def conversion_symbols(quote: str) -> tuple[str, ...]:
    """The symbols whose price turns a quote currency into account currency; one will do."""
    if quote == ACCOUNT_CURRENCY:
        return ()
    return (f"{quote}{ACCOUNT_CURRENCY}", f"{ACCOUNT_CURRENCY}{quote}")


def conversion_rate(quote: str, prices: Mapping[str, Price]) -> Decimal | None:
    """Units of account currency for one of `quote`; None when no fresh price says."""
    if quote == ACCOUNT_CURRENCY:
        return Decimal(1)
    direct, inverse = conversion_symbols(quote)
    if direct in prices:
        return exact(prices[direct].mid)
    if inverse in prices:
        return _INVERSE.divide(Decimal(1), exact(prices[inverse].mid))
    return None


def margin_for(spec: SymbolSpec, volume: float, price: float, rate: Decimal) -> Decimal:
    """Margin to hold for a volume in lots at a price, rounded to the cent."""
    return _cents(
        exact(volume), exact(spec.contract_size), exact(price), rate, exact(spec.margin_rate)
    )


def profit(
    spec: SymbolSpec, side: Side, volume: float, opened: float, closed: float, rate: Decimal
) -> Decimal:
    """Profit of a volume in lots from one price to another, rounded to the cent."""
    before, after = exact(opened), exact(closed)
    move = _EXACT.subtract(after, before) if side == "BUY" else _EXACT.subtract(before, after)
    return _cents(move, exact(volume), exact(spec.contract_size), rate)


def closing_price(side: Side, price: Price) -> float:
    """What a position of this side could be closed at: bid for a BUY, ask for a SELL."""
    return price.bid if side == "BUY" else price.ask


def marked(
    position: Position, spec: SymbolSpec, prices: Mapping[str, Price]
) -> tuple[float, Decimal] | None:
    """Current price and profit of a position; None when a price it needs is not fresh."""
    price, rate = prices.get(position.symbol), conversion_rate(spec.quote, prices)
    if price is None or rate is None:
        return None
    current = closing_price(position.side, price)
    return current, profit(spec, position.side, position.volume, position.open_price, current, rate)


def level(equity: Decimal, margin: Decimal) -> Decimal | None:
    """Margin level in percent; None while no margin is used."""
    if not margin:
        return None
    return _cents(_EXACT.divide(equity, margin), Decimal(100))


def _cents(*factors: Decimal) -> Decimal:
    product = Decimal(1)
    for factor in factors:
        product = _EXACT.multiply(product, factor)
    return _EXACT.quantize(product, _CENT)
