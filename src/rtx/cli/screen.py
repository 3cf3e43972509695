"""The full screen of `rtx watch`: servers, traffic, limits, and as many prices as fit."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import rtx
from rtx.cli.board import Board
from rtx.cli.histogram import short
from rtx.cli.servers import Server, Servers, behind
from rtx.cli.terminal import count
from rtx.timing import BOUNDS
from rtx.topology.base import DATABASES, Role
from rtx.topology.nodes import SENTINEL

_LOOKS = 10  # seconds that rates and ages are of
_LEAST_PRICES = 4  # lines that the servers leave to them


class Screen:
    """What the screen shows; `look` asks the servers, once a second, `render` draws.

    `limits` are the ids whose hits left are shown, such as `("orders", "1")`.
    """

    def __init__(
        self, layer: rtx.DataLayer, board: Board, limits: Sequence[tuple[str, str]]
    ) -> None:
        self._layer = layer
        self._board = board
        self._limits = limits
        self._ask = Servers(layer)
        self._servers: list[Server] = []
        self._worst: dict[str, deque[float]] = {}
        self._hits: dict[str, deque[tuple[int, int]]] = {}
        self._left: list[Text] = []
        self._began = time.monotonic()
        self._ticks: deque[tuple[float, int, list[int]]] = deque(maxlen=_LOOKS + 1)
        self._note_ticks()

    async def close(self) -> None:
        """Close the connections to the servers."""
        await self._ask.close()

    async def look(self) -> None:
        """Ask servers and limits how they are; takes two seconds at most, never raises."""
        servers, left = await asyncio.gather(
            self._ask.look(), asyncio.gather(*(self._peek(*one) for one in self._limits))
        )
        self._servers, self._left = servers, left
        for server in servers:
            if server.round_trip is not None:
                worst = self._worst.setdefault(server.name, deque(maxlen=_LOOKS))
                worst.append(server.round_trip)
            if server.info:
                counts = server.number("keyspace_hits"), server.number("keyspace_misses")
                self._hits.setdefault(server.name, deque(maxlen=_LOOKS + 1)).append(counts)
        self._note_ticks()

    def _note_ticks(self) -> None:
        counts = self._layer.timings()["channel.market_data"][""].counts
        self._ticks.append((time.monotonic(), self._board.ticks, list(counts)))

    async def _peek(self, name: str, id: str) -> Text:
        found = await self._layer.limits[name].peek(id)
        if found.degraded:
            return Text(f"{name} {id}: no answer ({found.reason})", style="red")
        after = f", free in {found.retry_after:.1f} s" if found.retry_after else ""
        return Text(
            f"{name} {id}: {found.remaining} of {found.limit} left{after}",
            style="" if found.allowed else "yellow",
        )

    # --- drawing ---------------------------------------------------------------------------

    def render(self, height: int) -> RenderableType:
        """All of it in at most `height` lines."""
        nodes = [server for server in self._servers if server.group != SENTINEL]
        sentinels = self._sentinels()
        below = [*sentinels, *self._traffic(), *self._limit_lines(), Text("")]
        room = height - len(below) - 4  # the line on top, both heads, the line at the bottom
        shown = nodes
        if len(nodes) > room - _LEAST_PRICES:
            shown = nodes[: max(room - _LEAST_PRICES - 1, 1)]
        parts: list[RenderableType] = [self._head()]
        if nodes:
            parts.append(self._table(shown))
        fit = room - len(shown)
        if len(shown) < len(nodes):
            fit -= 1
            parts.append(
                Text(f"… and {count(len(nodes) - len(shown), 'more server')}", style="dim")
            )
        parts += [*below, self._board.table(fit), self._foot(len(self._board) - max(fit, 0))]
        return Group(*parts)

    def _head(self) -> Text:
        away = [server for server in self._servers if server.error]
        down = self._layer.hub.down
        if down is not None and not self._layer.hub.idle:
            state = Text(f"not connected: {down[1]}", style="bold red")
        elif away:
            state = Text(f"{away[0].name}: {away[0].error}", style="bold red")
        else:
            state = Text("ready" if self._servers else "connecting", style="green")
        for_s = int(time.monotonic() - self._began)
        since = f"{for_s // 3600}:{for_s // 60 % 60:02}:{for_s % 60:02}"
        return _line(Text.assemble(("rtx watch", "bold"), f"  {since}  ", state))

    def _table(self, servers: Sequence[Server]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("server", no_wrap=True, max_width=22)
        for name in ("for", "role"):
            table.add_column(name, no_wrap=True)
        for name in ("ping", "worst", "ops/s", "hits", "memory", "behind"):
            table.add_column(name, justify="right", no_wrap=True)
        for server in servers:
            table.add_row(*self._cells(server))
        return table

    def _cells(self, server: Server) -> list[Text]:
        head = [Text(server.name), Text(server.group), Text(server.kind)]
        if server.round_trip is None:
            return [*head, Text("away", style="bold red")]
        ping = [Text(_ms(server.round_trip)), Text(_ms(max(self._worst[server.name])))]
        if not server.info:
            return [*head, *ping, Text("no INFO", style="yellow")]
        ops = Text(f"{server.number('instantaneous_ops_per_sec'):,}")
        full, used = server.number("maxmemory"), server.number("used_memory")
        memory = f"{_size(used)}/{_size(full)}" if full else _size(used)
        tight = full and used > 0.9 * full
        return [
            *head,
            *ping,
            ops,
            Text(self._hit_rate(server.name)),
            Text(memory, style="yellow" if tight else ""),
            self._behind(server),
        ]

    def _hit_rate(self, name: str) -> str:
        looks = self._hits[name]
        hits, misses = (late - early for late, early in zip(looks[-1], looks[0], strict=True))
        return f"{hits / (hits + misses):.0%}" if hits + misses > 0 else "–"

    def _behind(self, server: Server) -> Text:
        if server.kind == "primary":
            replicas = server.number("connected_slaves")
            return Text(count(replicas, "replica"), style="dim")
        if server.info.get("master_link_status") != "up":
            return Text("link down", style="bold red")
        lacks = behind(server, self._servers)
        return Text("?" if lacks is None else _size(lacks))

    def _sentinels(self) -> list[Text]:
        found = [server for server in self._servers if server.group == SENTINEL]
        if not found:
            return []
        up = [server for server in found if server.round_trip is not None]
        wrong = next((server.error for server in up if server.error), "")
        text = f"sentinels: {len(up)} of {len(found)} answer"
        style = "" if len(up) == len(found) and not wrong else "bold red"
        return [_line(Text(f"{text}; {wrong}" if wrong else f"{text}, enough agree", style=style))]

    def _traffic(self) -> list[Text]:
        (began, before, early), (ended, after, late) = self._ticks[0], self._ticks[-1]
        rate = (after - before) / (ended - began) if ended > began else 0.0
        text = f"ticks: {rate:,.0f}/s, {self._board.ticks:,} in all"
        counts = [new - old for new, old in zip(late, early, strict=True)]
        if sum(counts):
            text += f", age p50 {_within(counts, 0.5)}, p99 {_within(counts, 0.99)}"
        lines = [_line(Text(text))]
        if self._board.gaps:
            gaps = count(self._board.gaps, "gap")
            lines.append(_line(Text(f"{gaps}, the last: {self._board.last_gap}", style="yellow")))
        return lines

    def _limit_lines(self) -> list[Text]:
        if self._left:
            return [_line(Text.assemble("limits: ", *_joined(self._left)))]
        named = self._layer.settings.named_limits.items()
        text = ", ".join(f"{name} {one.limit} in {one.per:g} s" for name, one in named)
        db = f"db{DATABASES[Role.LIMITS]}"
        keys = [
            server.info[db].partition(",")[0].removeprefix("keys=")
            for server in self._servers
            if server.kind == "primary" and server.group != "cache" and db in server.info
        ]
        text += f"; {count(int(keys[0]), 'key')} in {db}" if len(keys) == 1 else ""
        return [_line(Text(f"limits: {text}"))]

    def _foot(self, hidden: int) -> Text:
        if not len(self._board):
            return _line(
                Text("waiting for the first price; `rtx feed` sends some; q ends", style="dim")
            )
        more = f"… and {hidden} more symbols: name those to see; " if hidden > 0 else ""
        return _line(Text(f"{more}q or Ctrl-C ends", style="dim"))


def _line(text: Text) -> Text:
    """On one line, however narrow the terminal."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _joined(texts: Sequence[Text]) -> list[Text]:
    found: list[Text] = []
    for text in texts:
        found += [Text(" · "), text] if found else [text]
    return found


def _within(counts: Sequence[int], share: float) -> str:
    """The end of the bucket that holds the quantile."""
    left = sum(counts) * share
    for bound, number in zip(BOUNDS, counts, strict=False):
        left -= number
        if left <= 0:
            return f"≤ {short(bound)}"
    return f"> {short(BOUNDS[-1])}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}ms" if seconds < 0.1 else f"{seconds * 1000:.0f}ms"


def _size(number: int) -> str:
    """`512`, `1.2M`: bytes in powers of 1,024, in five columns."""
    value = float(number)
    for unit in ("", "K", "M", "G"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 100 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"
