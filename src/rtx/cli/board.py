"""The table of live prices."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal

from rich.table import Table
from rich.text import Text

from rtx.models import Tick
from rtx.pubsub import Gap

_RATE_OVER = 5.0  # seconds
_TIMES_AT_MOST = 10_000  # per symbol; above 2,000 ticks a second the rate is of fewer seconds
_MOST_DECIMALS = 10


@dataclass(slots=True)
class _Row:
    tick: Tick
    rise: int = 0
    decimals: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES_AT_MOST))


class Board:
    """Latest tick of every symbol, with its age and how many came per second.

    A price is stale when none came for `stale_after` seconds: it has expired in the cache then.
    """

    def __init__(self, stale_after: float) -> None:
        self.ticks = 0
        self.gaps = 0
        self.last_gap = ""
        self._stale_after = stale_after
        self._rows: dict[str, _Row] = {}

    def __len__(self) -> int:
        """How many symbols have had a price."""
        return len(self._rows)

    def take(self, item: Tick | Gap) -> None:
        """Note a tick or a break."""
        if isinstance(item, Gap):
            self.gaps += 1
            self.last_gap = f"{item.cause}, {item.duration:.1f} s"
            return
        self.ticks += 1
        row = self._rows.get(item.symbol)
        if row is None:
            row = self._rows[item.symbol] = _Row(item)
        row.rise = (item.bid > row.tick.bid) - (item.bid < row.tick.bid)
        row.decimals = max(row.decimals, decimals(item.bid), decimals(item.ask))
        row.tick = item
        row.times.append(time.monotonic())

    def table(self, most: int) -> Table:
        """A head and the first `most` symbols by name, a line each."""
        now = time.monotonic()
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("symbol", no_wrap=True, min_width=8)
        for name in ("bid", "ask", "spread"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("lp", no_wrap=True, max_width=12)
        for name in ("age", "ticks/s"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for symbol in sorted(self._rows)[: max(most, 0)]:
            table.add_row(*self._cells(self._rows[symbol], now))
        return table

    def _cells(self, row: _Row, now: float) -> list[Text]:
        tick, age = row.tick, now - row.times[-1]
        stale = age > self._stale_after
        while len(row.times) > 1 and now - row.times[0] > _RATE_OVER:
            row.times.popleft()
        since = min(_RATE_OVER, max(now - row.times[0], 1.0))
        rate = 0.0 if age > _RATE_OVER else len(row.times) / since
        colour = "dim" if stale else {1: "green", -1: "red"}.get(row.rise, "")
        spread = round(tick.ask - tick.bid, _MOST_DECIMALS)
        return [
            Text(tick.symbol, style="dim" if stale else "bold"),
            Text(f"{tick.bid:.{row.decimals}f}", style=colour),
            Text(f"{tick.ask:.{row.decimals}f}", style=colour),
            Text(f"{spread:.{row.decimals}f}"),
            Text(tick.lp or "cached", style="" if tick.lp else "dim"),
            Text(f"{age:.1f} s"),
            Text(f"{rate:.1f}"),
            Text("stale", style="yellow") if stale else Text(""),
        ]


def decimals(price: float) -> int:
    """Decimals that a price is written with: 1.0955 has 4."""
    exponent = Decimal(repr(price)).as_tuple().exponent
    return min(max(-exponent, 0), _MOST_DECIMALS) if isinstance(exponent, int) else 0
