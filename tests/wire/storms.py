"""Random faults, seeded: what befalls single connections, and what befalls all of them at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.wire.faults import HEALTHY, Faults, Proxy


def random_faults(chance: random.Random) -> Faults:
    """What the next connection suffers; its greeting takes about 170 bytes of the replies."""
    if chance.random() < 0.3:
        return HEALTHY
    return Faults(
        cut_replies_after=chance.choice([None, chance.randrange(3000)]),
        cut_requests_after=chance.choice([None, None, chance.randrange(3000)]),
        black_hole_after=chance.choice([None, None, None, chance.randrange(3000)]),
        reset=chance.random() < 0.5,
        half_close=chance.random() < 0.2,
        slice=chance.choice([1, 3, 17, 65536]),
        delay=chance.choice([0.0, 0.0, 0.001]),
        hang_up=chance.random() < 0.1,
    )


@asynccontextmanager
async def raging(
    proxy: Proxy, chance: random.Random, *, pause: float, freeze: float
) -> AsyncIterator[None]:
    """Faults that befall every connection at once, until the context ends; see `calm`.

    `pause` and `freeze` in seconds: at most so long between two of them, and the longest freeze.
    """
    ending = asyncio.Event()

    async def sleep(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ending.wait()

    async def rage() -> None:
        # Never cancelled: in the midst of listening that would leave a socket behind.
        while not ending.is_set():
            await sleep(chance.uniform(0.0, pause))
            match chance.randrange(4):
                case 0:
                    proxy.cut_all(reset=chance.random() < 0.5)
                case 1:
                    proxy.freeze()
                    await sleep(chance.choice([0.01, 0.01, freeze]))
                    proxy.thaw()
                case 2:
                    await proxy.refuse()
                    await sleep(chance.uniform(0.0, 0.02))
                    await proxy.listen()

    storm = asyncio.create_task(rage())
    try:
        yield
    finally:
        ending.set()
        await storm


async def calm(proxy: Proxy) -> None:
    """End the faults of single connections, and with them every connection there is."""
    proxy.faults = lambda: HEALTHY
    proxy.cut_all()
