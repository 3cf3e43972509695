"""A recorded Coinbase WebSocket as a tick file.

Lines are `epoch_seconds: {json}`; lines that start with `wss://` say what was opened and sent. The
`ticker` messages carry the best bid and ask; the other types are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from rtx.feeds.base import plain_symbol
from rtx.feeds.rows import Row
from rtx.feeds.times import epoch_reader, iso_ms

_RECEIVED = re.compile(r"\d{9,11}(\.\d+)?: \{", re.ASCII)


class _Message(msgspec.Struct):
    type: str
    product_id: str = ""
    best_bid: float | None = None
    best_ask: float | None = None
    time: str = ""


class CoinbaseCapture:
    """Reads the tickers of a capture; `BTC-USD` becomes `BTCUSD`."""

    name = "coinbase"
    names_symbol = True
    header = None

    def __init__(self) -> None:
        # Coinbase writes prices as JSON strings, which only a lax decoder takes for numbers.
        self._decoder = msgspec.json.Decoder(_Message, strict=False)

    @staticmethod
    def looks_like(lines: Sequence[str]) -> bool:
        """Whether the first lines are those of a capture."""
        return all(line.startswith("wss://") or _RECEIVED.match(line) for line in lines[:3])

    def parse(self, line: str) -> Row | None:
        """The quote of a ticker, None for other messages; raises `ValueError` when broken."""
        if line.startswith("wss://"):
            return None
        received, mark, body = line.partition(": ")
        if not mark:
            raise ValueError("neither a received nor a sent message")
        at = epoch_reader(received)(received)
        try:
            message = self._decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a message: {error}") from None
        if message.type != "ticker":
            return None
        if message.best_bid is None or message.best_ask is None:
            raise ValueError("a ticker without best_bid or best_ask")
        return Row(
            plain_symbol(message.product_id),
            iso_ms(message.time) if message.time else at,
            message.best_bid,
            message.best_ask,
            received=at,
        )
