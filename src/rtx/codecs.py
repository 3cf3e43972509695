"""Models to JSON and back, as the contract with programs in other languages has it.

Encoders and decoders are built once. Decoders raise `DecodeError`, which covers both malformed
JSON and values of another shape, money that is no finite number among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

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

_encode: Callable[[object], bytes] = msgspec.json.Encoder(decimal_format="number").encode
_decode_account = msgspec.json.Decoder(Account).decode
_decode_positions = msgspec.json.Decoder(tuple[Position, ...]).decode
_decode_tick = msgspec.json.Decoder(Tick).decode
_decode_tick_lines = msgspec.json.Decoder(Tick).decode_lines

decode_symbol = msgspec.json.Decoder(SymbolSpec).decode
decode_session = msgspec.json.Decoder(Session).decode
decode_execution = msgspec.json.Decoder(Execution).decode
decode_alert = msgspec.json.Decoder(Alert).decode


_BRACE = set(b"{")
_first_byte = itemgetter(0)

_N, _I = b"NI"  # NaN, sNaN and Infinity have one of them; to look for a byte takes 30 ns


def encode(model: object) -> bytes:
    """JSON of any model but `Price`; money is written digit for digit as a JSON number.

    Raises `ValueError` for money that is no finite number, which JSON cannot say.
    """
    raw = _encode(model)
    if (_N in raw or _I in raw) and (b"NaN" in raw or b"Infinity" in raw):
        try:
            msgspec.json.decode(raw, type=Any)
        except msgspec.DecodeError:
            raise ValueError(
                f"a {type(model).__name__} with money that is NaN or infinite has no JSON; "
                "money is a finite number"
            ) from None
    return raw


encode_tick: Callable[[Tick], bytes] = _encode
"""JSON of a tick, which has no money in it: a third of the time that `encode` takes."""

# More than sums of money within the bounds of `rtx.database.check_money` ever have. A value beyond
# it is no money, and would take all memory when somebody formats it.
_MAX_DIGITS = 1_000


def _is_money(value: Decimal) -> bool:
    return value.is_finite() and value.adjusted() < _MAX_DIGITS


_NO_MONEY = "money is a finite number of at most 1,000 digits"


def decode_account(raw: bytes) -> Account:
    """Account from JSON; its money may be JSON numbers or strings of digits."""
    found = _decode_account(raw)
    if (
        _is_money(found.balance)
        and _is_money(found.equity)
        and _is_money(found.margin)
        and _is_money(found.free_margin)
        and _is_money(found.margin_level)
    ):
        return found
    raise msgspec.ValidationError(_NO_MONEY)


def decode_positions(raw: bytes) -> tuple[Position, ...]:
    """Positions from a JSON array; their money may be JSON numbers or strings of digits."""
    found = _decode_positions(raw)
    for position in found:
        if not _is_money(position.unrealized_pnl):
            raise msgspec.ValidationError(_NO_MONEY)
    return found


def decode_tick(raw: bytes) -> Tick:
    """Tick from JSON; `time` as in `decode_price`, and now where it is left out."""
    try:
        return _decode_tick(raw)
    except msgspec.ValidationError:
        found = _decode_foreign_tick(raw)
        return Tick(
            found.symbol, time=_epoch(found.time), bid=found.bid, ask=found.ask, lp=found.lp
        )


def decode_ticks(raws: Sequence[bytes]) -> list[Tick]:
    """Ticks from JSON, one of each message and in their order, as `decode_tick` of each.

    Several at once take half the time of one by one. Raises `DecodeError` when any is none.
    """
    lines = b"\n".join(raws)
    if lines.count(b"{") == len(raws) > 1:
        try:
            # Where each begins with the one brace it has, what is found is known to be one of each:
            # two in one message, and one over two, cannot add up to the right number.
            if set(map(_first_byte, raws)) == _BRACE:
                found = _decode_tick_lines(lines)
                if len(found) == len(raws):
                    return found
        except (*DecodeError, IndexError):
            pass
    return list(map(decode_tick, raws))


class _ForeignTickJSON(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="tick"):
    symbol: str
    time: str | int | float
    bid: float
    ask: float
    lp: str = ""


_decode_foreign_tick = msgspec.json.Decoder(_ForeignTickJSON).decode


class _PriceJSON(msgspec.Struct, frozen=True, gc=False):
    symbol: str
    time: str | int | float
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
    """Price from JSON.

    `time` may be ISO 8601 (no zone means UTC) or epoch milliseconds, with or without a fraction.
    """
    found = _decode_price_json(raw)
    return Price(found.symbol, found.bid, found.ask, _epoch(found.time))


def _epoch(time: str | int | float) -> int:
    """Epoch milliseconds of any time in JSON. Raises `DecodeError`."""
    if isinstance(time, str):
        time = from_iso(time)
    elif isinstance(time, float):
        time = round(time)
    if 0 <= time < END_OF_TIME:
        return time
    raise msgspec.ValidationError(f"not a time in epoch milliseconds: {time}")


def encode_price(symbol: str, bid: float, ask: float, time: int) -> bytes:
    """JSON of a price, with `mid` and `spread` worked out and `time` in ISO 8601."""
    mid = middle(bid, ask)
    return _encode(_FullPriceJSON(symbol, iso(time), bid, ask, mid, spread(bid, ask)))


def check_time(symbol: str, time: int) -> None:
    """Raise `BadTick` for a time that `iso` cannot write."""
    if not 0 <= time < END_OF_TIME:
        raise BadTick(
            "bad_time", f"{symbol}: time {time} is not in epoch milliseconds; convert it first"
        )


END_OF_TIME = 253_402_300_800_000
"""Epoch milliseconds of the year 10000, which ISO 8601 cannot write: times are before it."""

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
