"""Denials that are known to last: the server said until when, so it need not be asked again."""

from __future__ import annotations

from typing import NamedTuple

from rtx.ratelimit.base import Id

_MOST = 10_000  # ids of one limit; each is some 300 bytes


class KnownDenial(NamedTuple):
    """A denial of a cost; times by this process's monotonic clock.

    The server decided between the question and the answer. Until the question + wait (`until`) it
    would surely deny again; from the answer + wait on (`retry_at`) it surely allows, if nobody else
    was quicker.
    """

    cost: int
    until: float
    retry_at: float
    reset_at: float
    limit: int
    remaining: int


class KnownDenials(dict[Id, KnownDenial]):
    """The latest denial of each id; when there are too many, the oldest goes."""

    def note(self, id: Id, denial: KnownDenial) -> None:
        """Remember a denial."""
        if len(self) >= _MOST and id not in self:
            del self[next(iter(self))]
        self[id] = denial

    def forget(self, id: Id) -> None:
        """An id has hits left again; 1 and "1" are the same id."""
        self.pop(id, None)
        self.pop(str(id), None)
        if isinstance(id, str) and id.isdecimal():
            self.pop(int(id), None)
