"""Models to JSON and back, as the contract with programs in other languages has it.

Encoders and decoders are built once. Decoders raise `DecodeError`, which covers both malformed
JSON and values of another shape.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from rtx.errors import BadTick
from rtx.models import (
    Account,
    Alert,
    Execution,
    Position,
    Price,
    Session,
    SymbolSpec,
    Tick,
    middle,
    spread,
)

DecodeError = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError)
"""What a decoder raises, ValidationError included: for `except DecodeError`."""

encode: Callable[[object], bytes] = msgspec.json.Encoder(decimal_format="number").encode
"""JSON of any model but `Price`; money is written digit for digit as a JSON number."""

decode_account = msgspec.json.Decoder(Account).decode
decode_positions = msgspec.json.Decoder(tuple[Position, ...]).decode
decode_symbol = msgspec.json.Decoder(SymbolSpec).decode
decode_session = msgspec.json.Decoder(Session).decode
decode_tick = msgspec.json.Decoder(Tick).decode
decode_execution = msgspec.json.Decoder(Execution).decode
decode_alert = msgspec.json.Decoder(Alert).decode


class _PriceJSON(msgspec.Struct, frozen=True, gc=False):
    symbol: str
    time: str | int
    bid: float
    ask: float


class _FullPriceJSON(msgspec.Struct, frozen=True, gc=False):
    symbol: str
    time: str
    bid: float
    ask: float
    mid: float
    spread: float


_decode_price_json = msgspec.json.Decoder(_PriceJSON).decode


def decode_price(raw: bytes) -> Price:
    """Price from JSON; `time` may be ISO 8601 (no zone means UTC) or epoch milliseconds."""
    found = _decode_price_json(raw)
    time = found.time
    return Price(
        found.symbol, found.bid, found.ask, from_iso(time) if isinstance(time, str) else time
    )


def encode_price(symbol: str, bid: float, ask: float, time: int) -> bytes:
    """JSON of a price, with `mid` and `spread` worked out and `time` in ISO 8601."""
    mid = middle(bid, ask)
    return encode(_FullPriceJSON(symbol, iso(time), bid, ask, mid, spread(bid, ask)))


def check_time(symbol: str, time: int) -> None:
    """Raise `BadTick` for a time that `iso` cannot write."""
    if not 0 <= time < _YEAR_10000:
        raise BadTick(
            "bad_time", f"{symbol}: time {time} is not in epoch milliseconds; convert it first"
        )


_YEAR_10000 = 253_402_300_800_000
_second = (0, "1970-01-01T00:00:00")  # prices come many to a second, so the last one is kept


def iso(time: int) -> str:
    """Epoch milliseconds as ISO 8601 UTC with milliseconds: `2026-01-18T10:30:45.123Z`."""
    global _second
    seconds, milliseconds = divmod(time, 1000)
    if seconds != _second[0]:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _second = (seconds, text)
    return f"{_second[1]}.{milliseconds:03d}Z"


def from_iso(text: str) -> int:
    """Epoch milliseconds of any ISO 8601 time; without a zone it is UTC. Raises `DecodeError`."""
    seconds, known = _second
    if len(text) == 24 and text.startswith(known) and text[19] == "." and text[23] == "Z":
        fraction = text[20:23]
        if fraction.isdecimal():
            return seconds * 1000 + int(fraction)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise msgspec.ValidationError(f"not an ISO 8601 time: {text[:40]!r}") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)
