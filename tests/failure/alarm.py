"""Whether something ends before its deadline, told by the order of events and not by a clock.

A machine that is busy makes both late, the call and the alarm; their order stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

MARGIN = 0.05
_TURNS = 30  # of the loop, in which a call that was due before the alarm comes to its end


async def outcome_within(seconds: float, call: Awaitable[T]) -> tuple[T | BaseException, float]:
    """What a call returned or raised, and after how long; it must come before the alarm."""

    async def alarm() -> None:
        await asyncio.sleep(seconds + MARGIN)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    started = time.monotonic()
    calling, ringing = asyncio.ensure_future(call), asyncio.create_task(alarm())
    await asyncio.wait((calling, ringing), return_when=asyncio.FIRST_COMPLETED)
    took = time.monotonic() - started
    in_time = calling.done()
    calling.cancel()
    ringing.cancel()
    [outcome, _] = await asyncio.gather(calling, ringing, return_exceptions=True)
    assert in_time, f"not over within {seconds:g} s"
    return outcome, took  # type: ignore[return-value]
