"""Programs of their own for tests that kill them: `python -m tests.pubsub.child FOLLOW|WORK …`.

They tell what they do as lines: what they say has happened before they are killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import rtx
from rtx.settings import Settings
from tests.conftest import ROOT


async def follow(url: str, namespace: str, directory: str, accounts: str) -> None:
    """Follow accounts; note each message and its position in a file for each, as one line."""
    settings = Settings.load(url=url, namespace=namespace)

    async def one(layer: rtx.DataLayer, account: int) -> None:
        path = Path(directory) / str(account)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(whole))
        after = ":0"
        for line in whole:
            noted = json.loads(line)
            if "position" in noted:
                after = noted["position"]
        with path.open("a") as file:
            async with layer.executions.subscribe(account, after=after) as fills:
                async for item in fills:
                    if isinstance(item, rtx.Gap):
                        note = {"gap": item.cause, "recovered": item.recovered}
                    else:
                        note = {"order": item.order_id, "position": f"{item.epoch}:{item.seq}"}
                    file.write(json.dumps(note) + "\n")
                    file.flush()

    async with rtx.open(settings) as layer, asyncio.TaskGroup() as group:
        for account in json.loads(accounts):
            group.create_task(one(layer, account))
        print("following", flush=True)


async def work(url: str, namespace: str, consumer: str, accounts: str, holds: str) -> None:
    """Work in a group; hold on for ever in the middle of the `holds`th message."""
    settings = Settings.load(url=url, namespace=namespace)
    async with (
        rtx.open(settings) as layer,
        layer.executions.work(
            json.loads(accounts), "backoffice", consumer=consumer, idle=1.0, batch=4
        ) as workers,
    ):
        count = 0
        async for item in workers:
            if isinstance(item, rtx.Gap):
                print(f"gap {item.skipped}", flush=True)
                continue
            async with item as fill:
                count += 1
                print(f"begun {item.account_id} {fill.order_id} {item.deliveries}", flush=True)
                if count == int(holds):
                    await asyncio.Event().wait()
            print(f"done {item.account_id} {fill.order_id}", flush=True)


class Child:
    """A running child, and the lines that it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(line.decode().strip())

    async def kill(self) -> None:
        """SIGKILL, and read what it had said by then."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader


@asynccontextmanager
async def started(*args: str) -> AsyncIterator[Child]:
    """A child that is killed at the end at the latest."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.pubsub.child", *args),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.kill()


if __name__ == "__main__":
    asyncio.run({"follow": follow, "work": work}[sys.argv[1]](*sys.argv[2:]))
