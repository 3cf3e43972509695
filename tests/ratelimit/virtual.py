"""The production scripts, byte for byte, under a clock that the test sets.

A prelude puts another `redis` before the text: TIME says what the test says, and a key lives a day
longer, as it must not expire by the server's real clock meanwhile. Everything else is the server's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

from rtx.ratelimit.decider import decide_script
from rtx.ratelimit.rules import NONE, NOT_TAKEN, TAKEN
from rtx.wire import Script

PRELUDE = """\
local real = redis
local redis = {pcall = real.pcall, call = function(...)
  local words = {...}
  if words[1] == 'TIME' then return {ARGV[#ARGV - 1], ARGV[#ARGV]} end
  if words[1] == 'PSETEX' or words[1] == 'PEXPIRE' then words[3] = words[3] + 86400000 end
  return real.call(unpack(words))
end}
"""

Call = tuple[str | bytes | int, ...]


class VirtualServer:
    """Sends many calls at once to one server, each with a time of its own."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        refund = Script.load("rtx.ratelimit", "refund").text
        self._decide = client.script_load(PRELUDE + decide_script().text)
        self._refund = client.script_load(PRELUDE + refund)

    def decide(self, now: int, keys: Sequence[str], rules: Sequence[bytes]) -> Call:
        """A call of the script that decides."""
        return ("EVALSHA", self._decide, len(keys), *keys, *rules, *divmod(now, 1_000_000))

    def refund(self, now: int, key: str, cost: int, at: int, window: int) -> Call:
        """A call of the script that gives back."""
        return ("EVALSHA", self._refund, 1, key, cost, at, window, *divmod(now, 1_000_000))

    def send(self, calls: Sequence[Call]) -> list[object]:
        """The replies, in order; raises the first error among them."""
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            pipe.execute_command(*call)
        return pipe.execute()


@contextmanager
def virtual(url: str) -> Iterator[VirtualServer]:
    """The shared server, to be used with keys of the test's own."""
    with redis.Redis.from_url(url, db=2) as client:
        yield VirtualServer(client)


def told(reply: object, window: int) -> list[tuple[float, int, float, float]]:
    """Wait, hits left, until none counts, and time, of each key, as an oracle says them."""
    assert isinstance(reply, bytes)
    found, at = [], 0
    while at < len(reply):
        time, left = TAKEN.unpack_from(reply, at)
        at += TAKEN.size
        if left != NONE:
            found.append((0.0, left, float(window), time))
            continue
        time, _, wait, left, reset = NOT_TAKEN.unpack_from(reply, at - TAKEN.size)
        at += NOT_TAKEN.size - TAKEN.size
        found.append((wait, left, reset, time))
    return found


def head_of(log: bytes) -> tuple[bool, int]:
    """Whether a log is in parts, and the bytes of each of its times."""
    in_parts = len(log) > 512
    (size,) = struct.unpack("B", log[-1:] if in_parts else log[7:8])
    return in_parts, size
