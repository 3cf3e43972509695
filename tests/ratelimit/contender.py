"""A process of contenders: each takes a place, says so in a sorted set, and leaves.

Arguments: URL, namespace, contenders, seconds. `hold` instead of the contenders holds one place for
good, and says so on its standard output.
"""

from __future__ import annotations

import asyncio
import sys

import rtx
from rtx.settings import Settings


async def main(url: str, namespace: str, contenders: str, seconds: float) -> None:
    settings = Settings.load(
        url=url,
        namespace=namespace,
        concurrency={"reports": {"limit": 5, "lease": 30.0}, "brief": {"limit": 1, "lease": 1.0}},
        limiter={"deadline": 10.0},
    )
    async with rtx.open(settings) as layer:
        if contenders == "hold":
            async with layer.limits.concurrency["brief"].hold("ann"):
                print("held", flush=True)
                await asyncio.sleep(seconds)
            return
        caller, key = layer.limits._caller, f"{namespace}:concurrency:inside"

        async def contend() -> int:
            rounds, most = 0, 0
            while rounds < 3:
                async with layer.limits.concurrency["reports"].hold("ann", wait=60.0) as lease:
                    assert lease.held
                    most = max(most, int(await caller.call("HINCRBY", key, "all", 1)))  # type: ignore[arg-type]
                    await asyncio.sleep(seconds)
                    await caller.call("HINCRBY", key, "all", -1)
                    rounds += 1
            return most

        print(max(await asyncio.gather(*(contend() for _ in range(int(contenders))))))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
