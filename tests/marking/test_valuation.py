"""Margin and profit in account currency."""

from __future__ import annotations

from decimal import ROUND_UP, Context, Decimal, localcontext
from fractions import Fraction

import pytest

from rtx import Position, Price
from rtx.feeds import INSTRUMENTS
from rtx.marking import valuation
from rtx.models import Side

EURUSD = INSTRUMENTS["EURUSD"].spec
USDJPY = INSTRUMENTS["USDJPY"].spec
EURGBP = INSTRUMENTS["EURGBP"].spec

PRICES = {
    "EURUSD": Price("EURUSD", bid=1.1000, ask=1.1002),
    "USDJPY": Price("USDJPY", bid=149.99, ask=150.01),
    "GBPUSD": Price("GBPUSD", bid=1.2499, ask=1.2501),
}


@pytest.mark.parametrize(
    ("quote", "rate"),
    [
        ("USD", Decimal(1)),
        ("GBP", Decimal("1.25")),
        ("JPY", Decimal(1) / Decimal(150)),
        ("CHF", None),
    ],
)
def test_a_quote_currency_is_converted_at_the_mid_of_whichever_pair_is_fresh(
    quote: str, rate: Decimal | None
) -> None:
    assert valuation.conversion_rate(quote, PRICES) == rate


def test_margin_is_the_notional_in_account_currency_times_the_rate() -> None:
    assert valuation.margin_for(EURUSD, 1.0, 1.1, Decimal(1)) == Decimal("1100.00")
    assert valuation.margin_for(USDJPY, 0.1, 150.0, Decimal(1) / 150) == Decimal("100.00")


@pytest.mark.parametrize(
    ("side", "opened", "closed", "expected"),
    [
        ("BUY", 1.1000, 1.1010, "100.00"),
        ("SELL", 1.1000, 1.1010, "-100.00"),
        ("BUY", 1.09506, 1.09506, "0.00"),
        ("BUY", 0.1 + 0.2, 0.3, "0.00"),
    ],
)
def test_profit_is_exact_to_the_cent(
    side: Side, opened: float, closed: float, expected: str
) -> None:
    gain = valuation.profit(EURUSD, side, 1.0, opened, closed, Decimal(1))
    assert gain == Decimal(expected)


def test_a_purchase_is_marked_at_the_bid_and_a_sale_at_the_ask() -> None:
    bought = Position(1, "EURUSD", "BUY", 1.0, 1.1, 1.1, Decimal(0))
    sold = Position(1, "EURUSD", "SELL", 1.0, 1.1, 1.1, Decimal(0))
    assert valuation.marked(bought, EURUSD, PRICES) == (1.1000, Decimal("0.00"))
    assert valuation.marked(sold, EURUSD, PRICES) == (1.1002, Decimal("-20.00"))


def test_a_position_whose_price_or_conversion_is_stale_is_not_marked() -> None:
    held = Position(1, "EURGBP", "BUY", 1.0, 0.86, 0.86, Decimal(0))
    assert valuation.marked(held, EURGBP, PRICES) is None
    only_cross = {"EURGBP": Price("EURGBP", bid=0.86, ask=0.8602)}
    assert valuation.marked(held, EURGBP, only_cross) is None


def test_without_margin_there_is_no_level() -> None:
    assert valuation.level(Decimal(100), Decimal(0)) is None
    assert valuation.level(Decimal(500), Decimal(400)) == Decimal("125.00")


def test_figures_do_not_depend_on_the_decimal_context_of_the_caller() -> None:
    held = Position(1, "EURGBP", "SELL", 12.34, 0.86123, 0.86, Decimal(0))
    prices = {**PRICES, "EURGBP": Price("EURGBP", bid=0.85987, ask=0.85991)}

    def figures() -> list[object]:
        return [
            valuation.marked(held, EURGBP, prices),
            valuation.margin_for(USDJPY, 7.77, 149.995, Decimal("0.0066671")),
            valuation.conversion_rate("JPY", PRICES),
            valuation.level(Decimal("12345678.91"), Decimal("777.77")),
        ]

    usual = figures()
    with localcontext(Context(prec=4, rounding=ROUND_UP)):
        assert figures() == usual
    # (0.86123 - 0.85991) * 12.34 * 100,000 * 1.25
    assert usual[0] == (0.85991, Decimal("2036.10"))


def test_profit_of_more_digits_than_a_float_has_is_exact() -> None:
    rate = Decimal("1.2345678901234567890123456789")
    gain = valuation.profit(EURUSD, "BUY", 99.99, 1.23456, 1.33333, rate)
    whole = Fraction("0.09877") * Fraction("99.99") * 100_000 * Fraction(rate)
    assert abs(Fraction(gain) - whole) <= Fraction(1, 200)
