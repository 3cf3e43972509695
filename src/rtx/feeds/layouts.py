"""The layouts of tick files, recognised by their first lines.

    histdata    20200101 170000065,1.121200,1.121720,0           New York standard time, UTC-5
    dukascopy   01.01.2020 22:00:00.123,1.1217,1.1212,1.5,2.2    time, ask, bid; UTC
    iso         2020-01-01T22:00:00.065Z,1.1212,1.1217           UTC unless it says otherwise
    epoch       1577916000.065,1.1212,1.1217                     s, ms, us or ns
    truefx      EUR/USD,20200101 22:00:00.065,1.1212,1.1217      UTC
    coinbase    1618677817.07: {"type":"ticker",…}               a recorded WebSocket

A header line that names a time, a bid and an ask (and perhaps a symbol) decides the order of the
columns. Commas, semicolons and tabs separate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from rtx.feeds.base import plain_symbol
from rtx.feeds.capture import CoinbaseCapture
from rtx.feeds.rows import Row
from rtx.feeds.times import (
    ReadTime,
    dukascopy_ms,
    epoch_reader,
    histdata_ms,
    iso_ms,
    truefx_ms,
    valid,
)


class Layout(Protocol):
    """How the lines of a file are read."""

    @property
    def name(self) -> str: ...

    @property
    def names_symbol(self) -> bool:
        """Whether each line says its symbol."""
        ...

    @property
    def header(self) -> str | None:
        """The line that names the columns, stripped; it is no quote."""
        ...

    def parse(self, line: str) -> Row | None:
        """A quote, or None for a line that is none by design; raises `ValueError` when broken."""
        ...


class _Columns(NamedTuple):
    time: int
    bid: int
    ask: int
    symbol: int | None = None


class ColumnLayout(msgspec.Struct, frozen=True):
    """Lines of `width` columns between delimiters."""

    name: str
    delimiter: str
    columns: _Columns
    width: int
    read_time: ReadTime
    header: str | None = None

    @property
    def names_symbol(self) -> bool:
        """Whether a column holds the symbol."""
        return self.columns.symbol is not None

    def parse(self, line: str) -> Row:
        """The quote of a line; raises `ValueError` when it is broken."""
        fields = line.split(self.delimiter)
        if len(fields) != self.width:
            raise ValueError(f"{len(fields)} columns instead of {self.width}")
        time, bid, ask, symbol = self.columns
        return Row(
            None if symbol is None else plain_symbol(_text(fields[symbol])),
            valid(self.read_time(_text(fields[time]))),
            _number(_text(fields[bid])),
            _number(_text(fields[ask])),
        )


def _text(field: str) -> str:
    return field.strip(' \r\n"')


def _number(text: str) -> float:
    if "_" in text:  # Python's float takes 1_0, which no file means
        raise ValueError(f"not a number: {text!r}")
    return float(text)


class _Form(NamedTuple):
    columns: _Columns
    widths: frozenset[int]  # of files without a header; bars of open, high, low, close are wider
    reader: Callable[[str], ReadTime]  # from the text of a first time


_FORMS = {
    "histdata": _Form(_Columns(0, 1, 2), frozenset({3, 4}), lambda _: histdata_ms),
    "dukascopy": _Form(_Columns(0, 2, 1), frozenset({3, 5}), lambda _: dukascopy_ms),
    "iso": _Form(_Columns(0, 1, 2), frozenset({3, 4}), lambda _: iso_ms),
    "epoch": _Form(_Columns(0, 1, 2), frozenset({3, 4}), epoch_reader),
    "truefx": _Form(_Columns(1, 2, 3, 0), frozenset({4}), lambda _: truefx_ms),
}
LAYOUTS = (*_FORMS, "coinbase")
"""Names of the layouts that a file can have."""

_TIME_NAMES = {"time", "timestamp", "datetime", "date", "datetimestamp"} | {
    "utc",
    "utctime",
    "timeutc",
    "gmttime",
    "localtime",
}
_BID_NAMES = {"bid", "bidprice", "bidquote", "bestbid"}
_ASK_NAMES = {"ask", "askprice", "askquote", "bestask"}
_SYMBOL_NAMES = {"symbol", "pair", "instrument", "ticker", "product", "productid"}
_LETTERS = re.compile(r"[^a-z]")


def detect(lines: Sequence[str], name: str | None = None) -> Layout | None:
    """The layout of a file's first lines (blank ones left out), or None.

    Without a name at least half of the lines must be sane quotes in it; with a name one readable
    line is enough, since the caller knows best.
    """
    if name in (None, "coinbase") and CoinbaseCapture.looks_like(lines):
        return CoinbaseCapture()
    counts = Counter({mark: sum(line.count(mark) for line in lines) for mark in ",;\t"})
    delimiter = counts.most_common(1)[0][0]
    first = [_text(field) for field in lines[0].split(delimiter)]
    named = _named_columns(first)
    rest = lines[1:] if named else lines
    if not rest:
        return None
    for form_name, form in _FORMS.items():
        if name in (None, form_name):
            layout = _fit(form_name, form, named, delimiter, rest, strict=name is None)
            if layout is not None:
                header = lines[0].strip() if named else None
                return msgspec.structs.replace(layout, header=header)
    return None


def _fit(
    name: str,
    form: _Form,
    named: _Columns | None,
    delimiter: str,
    lines: Sequence[str],
    *,
    strict: bool,
) -> ColumnLayout | None:
    columns = named or form.columns
    widths = Counter(line.count(delimiter) + 1 for line in lines)
    width = widths.most_common(1)[0][0]
    if width <= max(index for index in columns if index is not None):
        return None
    if strict and named is None and width not in form.widths:
        return None
    for line in lines:
        fields = line.split(delimiter)
        if len(fields) != width:
            continue
        try:
            reader = form.reader(_text(fields[columns.time]))
            layout = ColumnLayout(name, delimiter, columns, width, reader)
            layout.parse(line)
        except ValueError:
            continue
        rows = _readable(layout, lines)
        sane = sum(0.0 < row.bid <= row.ask < 2 * row.bid for row in rows)
        if not strict or 2 * sane >= len(lines):
            return layout
    return None


def _readable(layout: ColumnLayout, lines: Sequence[str]) -> list[Row]:
    rows = []
    for line in lines:
        try:
            rows.append(layout.parse(line))
        except ValueError:
            continue
    return rows


def _named_columns(fields: Sequence[str]) -> _Columns | None:
    names = [_LETTERS.sub("", field.lower()) for field in fields]

    def find(known: set[str]) -> int | None:
        return next((index for index, name in enumerate(names) if name in known), None)

    time, bid, ask = find(_TIME_NAMES), find(_BID_NAMES), find(_ASK_NAMES)
    if time is None or bid is None or ask is None:
        return None
    return _Columns(time, bid, ask, find(_SYMBOL_NAMES))
