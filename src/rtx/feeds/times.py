"""The ways tick files write a time, each read into epoch milliseconds (UTC).

Every reader raises `ValueError` for a text it does not know. Finer parts of a millisecond are cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

ReadTime = Callable[[str], int]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_MS = timedelta(milliseconds=1)
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_END = 253_402_300_800_000  # year 10000, which no ISO 8601 text can say

_NEW_YORK_MS = 5 * _HOUR_MS
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d) (\d\d)(\d\d)(\d\d)(\d{3})?", re.ASCII)
_COLONS = re.compile(r"(\d{4})(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?", re.ASCII)
_DAY_FIRST = re.compile(
    r"(\d\d)\.(\d\d)\.(\d{4}) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?: (?:GMT|UTC)([+-]\d{4})?)?",
    re.ASCII,
)
_YEAR_FIRST = re.compile(
    r"(\d{4})\.(\d\d)\.(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?: (?:GMT|UTC)([+-]\d{4})?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"(\d{9,20})(?:\.(\d+))?", re.ASCII)


@lru_cache(maxsize=64)
def _day_ms(year: str, month: str, day: str) -> int:
    return (date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY) * _DAY_MS


def _clock_ms(hour: str, minute: str, second: str, fraction: str | None) -> int:
    h, m, s = int(hour), int(minute), int(second)
    if h > 23 or m > 59 or s > 59:
        raise ValueError(f"no such time of day: {hour}:{minute}:{second}")
    ms = int(f"{fraction}00"[:3]) if fraction else 0
    return ((h * 60 + m) * 60 + s) * 1000 + ms


def histdata_ms(text: str) -> int:
    """`20200101 170000065` or `20200101 170000`: New York standard time, UTC-5 in summer too."""
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a HistData time: {text!r}")
    year, month, day, *clock = match.groups()
    return _day_ms(year, month, day) + _clock_ms(*clock) + _NEW_YORK_MS


def truefx_ms(text: str) -> int:
    """`20200101 00:00:00.123`, UTC."""
    match = _COLONS.fullmatch(text)
    if match is None:
        raise ValueError(f"not a TrueFX time: {text!r}")
    year, month, day, *clock = match.groups()
    return _day_ms(year, month, day) + _clock_ms(*clock)


def dukascopy_ms(text: str) -> int:
    """`01.01.2020 22:00:00.123`, also `2020.01.01 …`: UTC unless `GMT+0100` follows."""
    match = _DAY_FIRST.fullmatch(text)
    if match is not None:
        day, month, year, hour, minute, second, fraction, offset = match.groups()
    else:
        match = _YEAR_FIRST.fullmatch(text)
        if match is None:
            raise ValueError(f"not a Dukascopy time: {text!r}")
        year, month, day, hour, minute, second, fraction, offset = match.groups()
    ms = _day_ms(year, month, day) + _clock_ms(hour, minute, second, fraction)
    if offset:
        shift = (int(offset[1:3]) * 60 + int(offset[3:])) * 60_000
        ms -= shift if offset[0] == "+" else -shift
    return ms


def iso_ms(text: str) -> int:
    """ISO 8601 with date and time of day; UTC when it names no offset."""
    if len(text) < 12 or not ("T" in text or "-" in text):
        raise ValueError(f"not an ISO 8601 date and time: {text!r}")
    moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return valid((moment - _EPOCH) // _MS)


def epoch_reader(sample: str) -> ReadTime:
    """A reader of epoch numbers in the unit that fits the sample: s, ms, us or ns.

    The unit is settled once, so that a number cut short is an error and not another year.
    """
    match = _NUMBER.fullmatch(sample)
    if match is None:
        raise ValueError(f"not an epoch number: {sample!r}")
    whole = int(match[1])
    # Each bound is the year 5138 of its unit, and the year 1973 of the next finer one.
    unit = next((unit for unit in (1, 10**3, 10**6) if whole < unit * 10**11), 10**9)

    def read(text: str) -> int:
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise ValueError(f"not an epoch number: {text!r}")
        whole = int(match[1])
        if not unit * 10**8 <= whole < unit * 10**11:
            raise ValueError(f"an epoch number of another unit than the lines before: {text!r}")
        if unit == 1:
            return whole * 1000 + int(f"{match[2] or ''}000"[:3])
        return whole // (unit // 1000)

    return read


def valid(ms: int) -> int:
    """The time itself when it lies in the years 1970 to 9999; else raises `ValueError`."""
    if not 0 <= ms < _END:
        raise ValueError(f"a time outside the years 1970 to 9999: {ms} ms")
    return ms
