"""Executions of many publishers, through a subscriber that is killed and a server that restarts."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.pubsub.child import started
from tests.pubsub.journals import fill

ACCOUNTS = 50
PUBLISHERS = 8


def noted(directory: Path, account: int) -> list[dict[str, object]]:
    """What the subscriber has noted of an account; a line that its end cut off does not count."""
    path = directory / str(account)
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.parametrize(
    "each",
    [
        250,
        pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)]),
    ],
)
async def test_each_execution_is_seen_once_and_in_order_whoever_dies_meanwhile(
    durable_server: ServerProcess, tmp_path: Path, namespace: str, each: int
) -> None:
    settings = Settings.load(
        url=durable_server.url,
        namespace=namespace,
        channels={"publish_deadline": 60, "log_size": PUBLISHERS * each},
    )
    total = PUBLISHERS * each
    given: list[dict[int, rtx.Offset]] = [{} for _ in range(ACCOUNTS)]
    count = 0
    killed = asyncio.Event()

    async with rtx.open(settings) as one, rtx.open(settings) as other:

        async def publish(publisher: int) -> None:
            nonlocal count
            layer = (one, other)[publisher % 2]
            for start in range(0, each, 20):
                if start >= each // 2:
                    await killed.wait()
                numbers = range(start, min(start + 20, each))

                async def send(number: int) -> None:
                    order = publisher * each + number
                    offset = await layer.executions.publish(
                        order % ACCOUNTS, fill(order), key=f"order-{order}"
                    )
                    given[order % ACCOUNTS][order] = offset

                await asyncio.gather(*map(send, numbers))
                count += len(numbers)

        def arguments() -> tuple[str, ...]:
            accounts = json.dumps(list(range(ACCOUNTS)))
            return ("follow", durable_server.url, namespace, str(tmp_path), accounts)

        def seen() -> int:
            files = [tmp_path / str(account) for account in range(ACCOUNTS)]
            return sum(f.read_bytes().count(b'"order"') for f in files if f.exists())

        began = time.monotonic()
        publishing = [asyncio.create_task(publish(number)) for number in range(PUBLISHERS)]
        async with started(*arguments()) as first:
            await eventually(lambda: seen() > 0, within=30)
            await first.kill()
        before = seen()
        async with started(*arguments()) as second:
            await eventually(lambda: second.said, within=30)
            await eventually(lambda: count >= total // 2, within=60 + each / 100)
            killed.set()  # it dies with publishes under way
            await eventually(lambda: count > total // 2)
            durable_server.kill()
            await durable_server.wait()
            await durable_server.start()
            await asyncio.gather(*publishing)
            took = time.monotonic() - began
            await eventually(
                lambda: seen() >= total, within=60 + each / 100, every=max(0.1, each / 20_000)
            )
        stats = [layer.executions.stats for layer in (one, other)]

    for account in range(ACCOUNTS):
        notes = noted(tmp_path, account)
        got = [note["order"] for note in notes if "order" in note]
        by_log = sorted(given[account], key=lambda order: given[account][order].seq)
        assert got == by_log
        seqs = [given[account][order].seq for order in by_log]
        assert seqs == list(range(1, len(seqs) + 1))
        positions = [note["position"] for note in notes if "order" in note]
        assert positions == [str(given[account][order]) for order in by_log]
        assert len({offset.epoch for offset in given[account].values()}) <= 2
        assert all(note["recovered"] for note in notes if "gap" in note)
    assert sum(map(len, given)) == total
    print(
        f"{total} executions in {took:.1f} s; {before} seen before the subscriber was killed; "
        f"{sum(one.retries for one in stats)} publishes tried again, "
        f"{sum(one.repeated for one in stats)} of them had been done"
    )
