"""Prices and ticks that every contestant works on."""

from __future__ import annotations

from rtx.models import Price, Tick

START = 1_768_732_245_123


def symbols(count: int) -> list[str]:
    """Names of six letters, as currency pairs have."""
    return [f"SYM{number:03d}" for number in range(count)]


def bid(number: int) -> float:
    """A price with five decimals that differs from number to number."""
    return round(1.0 + number % 50_000 / 100_000, 5)


def prices(count: int) -> list[Price]:
    """One price for each of `count` symbols."""
    return [
        Price(symbol, bid(number), round(bid(number) + 0.00012, 5), START + number)
        for number, symbol in enumerate(symbols(count))
    ]


def ticks(count: int, symbol_count: int, start: int = START) -> list[Tick]:
    """Ticks that go through the symbols in turn; `time` starts at `start` and counts up."""
    names = symbols(symbol_count)
    return [
        Tick(
            names[number % symbol_count],
            time=start + number,
            bid=bid(number),
            ask=round(bid(number) + 0.00012, 5),
            lp="BENCH",
        )
        for number in range(count)
    ]
