"""The hours of a week in which a market is open."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rtx.errors import BadRule

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SPAN = re.compile(r"(\w{3}) (\d\d):(\d\d)-(\w{3}) (\d\d):(\d\d)")
_DAY, _WEEK = 86_400, 7 * 86_400
_MONDAY = 4 * _DAY  # of the epoch's first week, which began on a Thursday


@dataclass(frozen=True, slots=True)
class Hours:
    """From one second of the week to another, UTC, Monday 00:00 being 0."""

    begin: int = 0
    end: int = _WEEK

    @classmethod
    def parse(cls, text: str) -> Hours:
        """`Sun 22:00-Fri 22:00`; empty is always. Raises `BadRule`."""
        if not text:
            return cls()
        found = _SPAN.fullmatch(text)
        moments: list[int] = []
        for day, hour, minute in (found.groups()[:3], found.groups()[3:]) if found else ():
            if day in _DAYS and int(hour) < 24 and int(minute) < 60:
                moments.append(_DAYS.index(day) * _DAY + int(hour) * 3600 + int(minute) * 60)
        if len(moments) < 2 or moments[0] == moments[1]:
            raise BadRule("hours", f"{text!r} is not of the form Sun 22:00-Fri 22:00, in UTC")
        return cls(*moments)

    def open_for(self, time: float) -> float:
        """Seconds since the opening at an epoch time in seconds; negative while closed."""
        if self.end - self.begin == _WEEK:
            return time
        since = (time - _MONDAY - self.begin) % _WEEK
        return since if since < (self.end - self.begin) % _WEEK else -1.0
