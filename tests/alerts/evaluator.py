"""An engine in a process of its own: `python -m tests.alerts.evaluator URL NAMESPACE`.

Says `ready`, evaluates until its input ends, and then says what it counted as JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import rtx
from rtx.settings import Settings
from tests.conftest import ROOT


@dataclass
class Evaluator:
    """One of the processes."""

    process: asyncio.subprocess.Process

    async def stop(self) -> dict[str, int]:
        """End it in good order; its counters."""
        output, _ = await self.process.communicate(b"")
        assert self.process.returncode == 0
        return json.loads(output)

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def evaluators(url: str, namespace: str, count: int) -> AsyncIterator[list[Evaluator]]:
    """Processes that all evaluate; they have the rules and follow their symbols."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.alerts.evaluator", url, namespace),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            stack.push_async_callback(_end, process)
            found.append(Evaluator(process))
        for one in found:
            assert one.process.stdout is not None
            async with asyncio.timeout(20):
                assert await one.process.stdout.readline() == b"ready\n"
        yield found


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()  # which closes its pipes


async def main(url: str, namespace: str) -> None:
    settings = Settings.load(url=url, namespace=namespace)
    async with rtx.open(settings) as layer, layer.alert_rules.engine() as engine:
        await engine.ready()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps(dataclasses.asdict(layer.alert_rules.stats)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
