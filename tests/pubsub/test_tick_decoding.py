"""Ticks decoded together are the ticks decoded one by one, whatever is among them."""

from __future__ import annotations

import random

import pytest

import rtx
from rtx import codecs

_GOOD = b'{"type":"tick","symbol":"A","time":1,"bid":1.0,"ask":2.0,"lp":"X"}'
_ODD = (
    _GOOD,
    _GOOD.replace(b'"A"', b'"B"'),
    _GOOD.replace(b'"lp":"X"', b'"lp":"{}"'),
    _GOOD.replace(b'"lp":"X"', b'"unknown":{"a":[1,{}]}'),
    _GOOD.replace(b'"time":1', b'"time":"2026-01-18T10:30:45.123Z"'),
    _GOOD.replace(b",", b",\n"),
    b" " + _GOOD,
    _GOOD + b" ",
    _GOOD + b"\n" + _GOOD,
    _GOOD + _GOOD,
    _GOOD + b"," + _GOOD,
    _GOOD[:20],
    _GOOD[20:],
    b'{"type":"tick","symbol":"A',
    b'B","time":1,"bid":1.0,"ask":2.0}',
    b"",
    b"\n",
    b"{",
    b"}",
    b"null",
    b"[]",
    b'"',
    b"\xff\xfe",
    b'{"type":"gap"}',
)


def _one_by_one(raws: list[bytes]) -> list[rtx.Tick] | None:
    try:
        return [codecs.decode_tick(raw) for raw in raws]
    except codecs.DecodeError:
        return None


def _together(raws: list[bytes]) -> list[rtx.Tick] | None:
    try:
        return codecs.decode_ticks(raws)
    except codecs.DecodeError:
        return None


def test_ticks_decoded_together_are_those_decoded_one_by_one(seeded: random.Random) -> None:
    for _ in range(20_000):
        few = seeded.sample(_ODD, seeded.randint(1, 4))
        raws = [seeded.choice([_GOOD, *few]) for _ in range(seeded.randint(1, 6))]
        assert _together(raws) == _one_by_one(raws), raws


@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_each_message_gives_the_tick_in_its_place(count: int) -> None:
    sent = [rtx.Tick(f"S{number}", time=number, bid=1.0, ask=2.0) for number in range(count)]
    assert codecs.decode_ticks([codecs.encode(one) for one in sent]) == sent


def test_two_in_one_message_and_one_over_two_do_not_add_up() -> None:
    """So nobody who may publish to one channel is heard on another."""
    raws = [
        _GOOD + b"\n" + _GOOD,
        _GOOD,
        b'{"type":"tick","symbol":"A","time":1,"bid":1.0,',
        b'"ask":2.0}',
    ]
    assert b"\n".join(raws).count(b"{") == len(raws)
    with pytest.raises(codecs.DecodeError):
        codecs.decode_ticks(raws)
