"""The instruments of the simulated market: terms of trade, starting prices and temper."""

from __future__ import annotations

import msgspec

from rtx.models import SymbolSpec


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol and how its simulated market moves.

    `price` is the starting mid and `spread` the typical ask minus bid, both in price units;
    `volatility` is the standard deviation of a year's log return (0.07 is 7 %); `tick_rate` is
    quotes per second relative to the others; `factor` names a shock shared with other symbols
    and `loading` (-1..1) how much of the movement is that shock; `cross` (a, b) makes the mid
    a / b while both are simulated, so that no arbitrage opens between the three.
    """

    spec: SymbolSpec
    price: float
    spread: float
    volatility: float
    tick_rate: float = 5.0
    factor: str = ""
    loading: float = 0.0
    cross: tuple[str, str] | None = None

    @property
    def symbol(self) -> str:
        """The symbol's name."""
        return self.spec.symbol


def _fx(
    base: str,
    quote: str,
    description: str,
    price: float,
    points: float,
    volatility: float,
    loading: float,
    *,
    rate: float = 6.0,
    cross: tuple[str, str] | None = None,
) -> Instrument:
    digits = 3 if quote == "JPY" else 5
    return Instrument(
        spec=SymbolSpec(
            symbol=base + quote,
            description=description,
            base=base,
            quote=quote,
            digits=digits,
            contract_size=100_000.0,
            margin_rate=0.01,
        ),
        price=price,
        spread=points * 10.0**-digits,
        volatility=volatility,
        tick_rate=rate,
        factor="usd",
        loading=loading,
        cross=cross,
    )


def _metal(
    base: str, description: str, ounces: float, digits: int, price: float, spread: float, vol: float
) -> Instrument:
    return Instrument(
        spec=SymbolSpec(
            symbol=f"{base}USD",
            description=description,
            base=base,
            quote="USD",
            digits=digits,
            contract_size=ounces,
            margin_rate=0.02,
            max_volume=50.0,
        ),
        price=price,
        spread=spread,
        volatility=vol,
        tick_rate=6.0,
        factor="usd",
        loading=0.45,
    )


def _crypto(
    base: str, description: str, digits: int, price: float, spread: float, vol: float
) -> Instrument:
    return Instrument(
        spec=SymbolSpec(
            symbol=f"{base}USD",
            description=description,
            base=base,
            quote="USD",
            digits=digits,
            contract_size=1.0,
            margin_rate=0.1,
            max_volume=1_000.0,
        ),
        price=price,
        spread=spread,
        volatility=vol,
        tick_rate=5.0,
        factor="crypto",
        loading=0.8,
    )


INSTRUMENTS: dict[str, Instrument] = {
    instrument.symbol: instrument
    for instrument in (
        _fx("EUR", "USD", "Euro / US dollar", 1.09500, 8, 0.070, 0.75, rate=9.0),
        _fx("GBP", "USD", "Pound sterling / US dollar", 1.27000, 11, 0.080, 0.75, rate=8.0),
        _fx("USD", "JPY", "US dollar / Japanese yen", 148.200, 10, 0.095, -0.60, rate=8.0),
        _fx("USD", "CHF", "US dollar / Swiss franc", 0.86500, 13, 0.075, -0.75),
        _fx("AUD", "USD", "Australian dollar / US dollar", 0.66000, 10, 0.095, 0.70),
        _fx("USD", "CAD", "US dollar / Canadian dollar", 1.34500, 13, 0.065, -0.70),
        _fx("NZD", "USD", "New Zealand dollar / US dollar", 0.61200, 15, 0.095, 0.70, rate=4.0),
        _fx(
            "EUR",
            "GBP",
            "Euro / pound sterling",
            0.86220,
            12,
            0.060,
            0.0,
            rate=4.0,
            cross=("EURUSD", "GBPUSD"),
        ),
        _metal("XAU", "Gold, ounce / US dollar", 100.0, 2, 2_650.00, 0.25, 0.16),
        _metal("XAG", "Silver, ounce / US dollar", 5_000.0, 3, 31.000, 0.020, 0.28),
        _crypto("BTC", "Bitcoin / US dollar", 2, 95_000.00, 6.00, 0.50),
        _crypto("ETH", "Ether / US dollar", 2, 3_400.00, 0.60, 0.65),
        _crypto("SOL", "Solana / US dollar", 3, 190.000, 0.060, 0.80),
        _crypto("XRP", "XRP / US dollar", 5, 2.30000, 0.00090, 0.85),
        _crypto("LTC", "Litecoin / US dollar", 2, 105.00, 0.08, 0.75),
    )
}
"""The demo's instruments by symbol."""
