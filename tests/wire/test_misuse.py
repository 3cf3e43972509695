"""Commands that change or block a connection which many callers share: refused before they leave.

Sent, they would give other callers wrong replies (MONITOR, CLIENT REPLY, UNSUBSCRIBE, MULTI),
another database or protocol (SELECT, RESET, HELLO), or none in time (BLPOP, XREAD BLOCK).
"""

from __future__ import annotations

import asyncio

import pytest

from rtx.errors import UnsafeCommand
from rtx.urls import Address
from tests.wire.conftest import PoolMaker

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

MISUSES = [
    ("SUBSCRIBE", "c"),
    ("PSUBSCRIBE", "c*"),
    ("SSUBSCRIBE", "c"),
    ("UNSUBSCRIBE",),
    ("MONITOR",),
    ("CLIENT", "REPLY", "OFF"),
    ("CLIENT", "REPLY", "SKIP"),
    ("client", "reply", "skip"),
    ("SELECT", 5),
    (b"select", b"5"),
    ("Select", "5"),
    ("MULTI",),
    ("WATCH", "k"),
    ("HELLO", 2),
    ("RESET",),
    ("QUIT",),
    ("BLPOP", "l", 0),
    ("BLMOVE", "l", "m", "LEFT", "LEFT", 0),
    ("BZPOPMIN", "z", 0),
    ("XREAD", "COUNT", 1, "BLOCK", 0, "STREAMS", "x", "$"),
]


@pytest.mark.parametrize("command", MISUSES, ids=lambda each: " ".join(map(str, each)))
async def test_a_command_that_would_harm_other_callers_is_refused(
    address: Address, open_pool: PoolMaker, command: tuple[str | bytes | int, ...]
) -> None:
    pool = await open_pool(address, size=1, min_idle=0, read_timeout=0.3, heartbeat=0.2)
    others = [asyncio.ensure_future(pool.call("ECHO", n)) for n in range(2)]
    with pytest.raises(UnsafeCommand):
        await pool.call(*command)
    others += [asyncio.ensure_future(pool.call("ECHO", n)) for n in range(2, 4)]
    assert await asyncio.gather(*others) == [b"0", b"1", b"2", b"3"]
    info = await pool.call("CLIENT", "INFO")
    assert isinstance(info, bytes)
    assert b" db=0 " in info
    assert b" name=rtx " in info
    assert pool.stats.lost == 0


async def test_a_transaction_in_one_batch_is_no_misuse(
    address: Address, open_pool: PoolMaker, namespace: str
) -> None:
    """It leaves in one write, so that no other caller's command comes in between."""
    pool = await open_pool(address, size=1, min_idle=0)
    transaction = [("MULTI",), ("INCR", namespace), ("INCR", namespace), ("EXEC",)]
    replies, other = await asyncio.gather(pool.batch(transaction), pool.call("ECHO", "other"))
    assert replies[-1] == [1, 2]
    assert other == b"other"


@pytest.mark.parametrize(
    "command",
    [("XREAD", "COUNT", 1, "STREAMS", "x", "0"), ("CLIENT", "ID"), ("WAIT", 0, 10), ("PING",)],
    ids=lambda each: " ".join(map(str, each)),
)
async def test_their_harmless_relatives_are_sent(
    address: Address, open_pool: PoolMaker, command: tuple[str | int, ...]
) -> None:
    pool = await open_pool(address, size=1, min_idle=0)
    await pool.call(*command)
    assert await pool.call("ECHO", "mine") == b"mine"
