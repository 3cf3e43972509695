"""A bounded look at the keys of a server: their names, whether they expire, and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rtx.errors import ServerError
from rtx.wire import Connection

KEYS = 300
"""Keys that are looked at in each database."""

_DATABASES = 16
_PER_SCAN = 100
_SCANS = 10  # an empty table is walked in vain for no longer


@dataclass(frozen=True, slots=True)
class Key:
    """A key: its database, its bytes with all that belongs to it, and whether it expires."""

    db: int
    name: str
    size: int
    expires: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the keys, and how many there are in each database."""

    keys: tuple[Key, ...] = ()
    counts: tuple[tuple[int, int], ...] = ()

    @property
    def told(self) -> str:
        """How much of how much was seen."""
        return f"{len(self.keys):,} of {sum(count for _, count in self.counts):,} keys looked at"


def counts_of(info: Mapping[str, str]) -> tuple[tuple[int, int], ...]:
    """The keys in each database, by INFO."""
    found = []
    for name, value in info.items():
        if name.startswith("db") and name[2:].isdecimal() and value.startswith("keys="):
            found.append((int(name[2:]), int(value[5:].partition(",")[0])))
    return tuple(found)


async def take(connection: Connection, counts: tuple[tuple[int, int], ...]) -> Sample:
    """Look at up to `KEYS` keys of each database; raises `ServerError` where that is refused.

    SCAN, PTTL and MEMORY USAGE change nothing, and do not count as a use of the key.
    """
    keys: list[Key] = []
    for db, _ in counts[:_DATABASES]:
        if len(counts) > 1 or db:
            await connection.call("SELECT", db)
        names = await _some(connection)
        questions = [("PTTL", name) for name in names] + [
            ("MEMORY", "USAGE", name) for name in names
        ]
        replies = await connection.batch(questions)
        for name, left, size in zip(
            names, replies[: len(names)], replies[len(names) :], strict=True
        ):
            for reply in (left, size):
                if isinstance(reply, ServerError):
                    raise reply
            if isinstance(left, int) and left != -2 and isinstance(size, int):
                keys.append(Key(db, name.decode("utf-8", "replace"), size, left >= 0))
    return Sample(tuple(keys), counts)


async def _some(connection: Connection) -> list[bytes]:
    cursor = b"0"
    names: dict[bytes, None] = {}
    for _ in range(_SCANS):
        match await connection.call("SCAN", cursor, "COUNT", _PER_SCAN):
            case [bytes(after), [*found]]:
                names.update((name, None) for name in found if isinstance(name, bytes))
                cursor = after
        if cursor == b"0" or len(names) >= KEYS:
            break
    return list(names)[:KEYS]
