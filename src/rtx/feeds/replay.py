"""Replay of a tick file: its quotes in its order, at its pace, N times faster, or at once."""

from __future__ import annotations

import asyncio
import gzip
import math
import time
import zlib
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rtx.errors import FeedError
from rtx.feeds.base import Clock, FeedStats, Sleep, plain_symbol
from rtx.feeds.layouts import LAYOUTS, Layout, detect
from rtx.models import Tick

BATCH = 500
SAMPLE_LINES = 40
LINE_LIMIT = 8 * 2**20
"""Bytes of one line, so that a file without line ends cannot fill the memory; the order-book
snapshots in a capture are a few megabytes long."""
RESTART_MS = 60_000
"""A step back in time by more than this is another recording in the same file: its pace starts
afresh, where smaller steps are passed on without a wait."""
_UNSEEN_LINES = 1_000  # lines without a tick after which the loop's other tasks get their turn


class _Line(NamedTuple):
    number: int
    text: str
    position: int  # bytes of the file on disk that have been read


class ReplayFeed:
    """Ticks of a file, plain or gzipped, read as they are needed.

    `symbol` names the ticks of a file that has no symbol column; in one that has, it picks the
    lines of that symbol (others count as `other_symbol`), and None takes them all. `speed` 1.0
    keeps the file's own pace, N is N times faster, `math.inf` is as fast as the publisher takes
    batches of 500; `max_wait` seconds cut short a longer silence, such as a weekend. `layout` is
    one of `LAYOUTS`, recognised when None. A tick's time is the file's, in epoch milliseconds.

    Broken lines count as `malformed`; quotes are passed on as they are, for the publisher to refuse
    the bad ones. A tick older than the one before of its symbol is counted in `stats.steps_back`
    and passed on without a wait. Raises `FeedError` at once when the file is no tick file.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        symbol: str | None = None,
        speed: float = 1.0,
        lp: str = "REPLAY",
        *,
        layout: str | None = None,
        max_wait: float = math.inf,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not speed > 0.0:
            raise FeedError(f"speed is a number above 0, not {speed}; 1 is real time, inf at once")
        if not max_wait > 0.0:
            raise FeedError(f"max_wait is seconds above 0, not {max_wait}; inf waits like the file")
        if layout is not None and layout not in LAYOUTS:
            raise FeedError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
        self.path = Path(path)
        self.symbol = symbol
        self.speed = speed
        self.max_wait = max_wait
        self.lp = lp
        self.name = f"replay {self.path.name}"
        self.stats = FeedStats()
        self.bytes_read = 0
        self.bytes_total = 0
        self.layout = self._recognise(layout)
        if symbol is None and not self.layout.names_symbol:
            raise FeedError(
                f"{self.path} ({self.layout.name}) does not say which symbol it is of; "
                "name it, such as --symbol EURUSD"
            )
        self._clock = clock
        self._sleep = sleep

    @property
    def progress(self) -> float:
        """How much of the file has been read, 0.0 to 1.0, by its bytes on disk."""
        return min(self.bytes_read / self.bytes_total, 1.0) if self.bytes_total else 0.0

    @property
    def total(self) -> int | None:
        """Estimated ticks of the whole file, exact at its end; None before the first."""
        return round(self.stats.ticks / self.progress) if self.bytes_read else None

    async def batches(self) -> AsyncIterator[Sequence[Tick]]:
        """Yield at most 500 ticks at once, each when its time has come.

        Times are kept against the start, so that delays do not add up. Raises `FeedError` when the
        file breaks off, as a damaged gzip file does.
        """
        batch: list[Tick] = []
        pace = _Pace(self.speed, self.max_wait)
        unseen = 0
        with closing(self._ticks()) as ticks:
            for item in ticks:
                if item is None:
                    unseen += 1
                    if unseen % _UNSEEN_LINES == 0:
                        await asyncio.sleep(0)
                    continue
                tick, moment = item
                due = pace.due(moment, self._clock())
                if batch and (len(batch) == BATCH or due > self._clock()):
                    yield self._counted(batch)
                    batch = []
                    await asyncio.sleep(0)
                if (wait := due - self._clock()) > 0:
                    await self._sleep(wait)
                batch.append(tick)
            if batch:
                yield self._counted(batch)
            self.bytes_read = self.bytes_total

    def _counted(self, batch: list[Tick]) -> list[Tick]:
        self.stats.ticks += len(batch)
        return batch

    def _ticks(self) -> Generator[tuple[Tick, int] | None, None, None]:
        """Every line as a tick and the epoch ms to pace it by; None for a line that gives none."""
        latest: dict[str, int] = {}
        wanted = None if self.symbol is None else plain_symbol(self.symbol)
        header = self.layout.header
        with closing(self._lines()) as lines:
            for line in lines:
                self.bytes_read = line.position
                text = line.text.strip(" \r\n")
                if not text or text.startswith("#"):
                    yield None
                    continue
                if header is not None and text == header:
                    yield None
                    continue
                try:
                    row = self.layout.parse(text)
                except ValueError:
                    self.stats.malformed(f"{self.path.name} line {line.number}", text)
                    yield None
                    continue
                if row is None:
                    yield None
                    continue
                if row.symbol is not None and wanted not in (None, row.symbol):
                    self.stats.refuse("other_symbol")
                    yield None
                    continue
                symbol = self.symbol or row.symbol or ""
                if row.time < latest.get(symbol, row.time):
                    self.stats.steps_back += 1
                latest[symbol] = row.time
                moment = row.time if row.received is None else row.received
                yield Tick(symbol, time=row.time, bid=row.bid, ask=row.ask, lp=self.lp), moment

    def _lines(self) -> Generator[_Line, None, None]:
        number = 0
        try:
            with self._opened() as (raw, stream):
                while data := stream.readline(LINE_LIMIT):
                    number += 1
                    encoding = "utf-8-sig" if number == 1 else "utf-8"
                    yield _Line(number, data.decode(encoding, "replace"), raw.tell())
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FeedError(
                f"{self.path} is a damaged gzip file after line {number} ({error}); "
                "fetch or pack it again"
            ) from error
        except OSError as error:
            raise FeedError(
                f"{self.path} cannot be read: {error.strerror or error}; "
                "check the path and its permissions"
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        with self.path.open("rb") as raw:
            magic = raw.read(2)
            raw.seek(0)
            if magic == b"\x1f\x8b":
                with gzip.open(raw, "rb") as stream:
                    yield raw, stream  # type: ignore[misc]
            else:
                yield raw, raw

    def _recognise(self, name: str | None) -> Layout:
        path = self.path
        if not path.exists():
            raise FeedError(f"no such file: {path}; check the path")
        if not path.is_file():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise FeedError(f"{path} is {what}; name a tick file")
        self.bytes_total = path.stat().st_size
        sample: list[str] = []
        with closing(self._lines()) as lines:
            for line in lines:
                if line.number == 1 and line.text.startswith("PK\x03\x04"):
                    raise FeedError(f"{path} is a zip archive; unpack it and replay what is inside")
                text = line.text.strip(" \r\n")
                if text and not text.startswith("#"):
                    sample.append(text)
                if len(sample) == SAMPLE_LINES:
                    break
        if not sample:
            raise FeedError(f"{path} is empty; name a file with ticks")
        layout = detect(sample, name)
        if layout is None:
            what = "a tick file in a known layout" if name is None else f"a {name} tick file"
            raise FeedError(
                f"{path} is not {what}: its first line is {sample[0][:80]!r}; wanted are lines of "
                f"time, bid and ask, or one of the layouts {', '.join(LAYOUTS)}"
            )
        return layout


class _Pace:
    """When each event time is due by the clock; the first one is due at once."""

    def __init__(self, speed: float, max_wait: float) -> None:
        self._scale = 1 / (1000 * speed)  # 0 for an infinite speed: all is due at once
        self._max_wait = max_wait
        self._anchor: tuple[float, int] | None = None
        self._last = 0

    def due(self, time: int, now: float) -> float:
        if self._anchor is None or time < self._last - RESTART_MS:
            self._anchor = (now, time)
        self._last = time
        start, first = self._anchor
        due = start + (time - first) * self._scale
        if due - now > self._max_wait:
            due = now + self._max_wait
            self._anchor = (due, time)
        return due


def parse_speed(text: str) -> float:
    """`1`, `60` or `max` as a speed; raises `FeedError` for anything else."""
    if text.strip().lower() in ("max", "inf"):
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < math.inf:
        raise FeedError(f"speed is a number above 0 or max, not {text!r}; 1 is real time")
    return speed
