"""Publishing executions: numbered, appended to the log and published by one script.

All run the same script. redis-benchmark, which sends the same bytes over and over and reads nothing
but the kind of each reply, shows what the server gives.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from benchmarks import data
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Role,
    Run,
    Sample,
    Watch,
    WrongResult,
    throughput,
)
from benchmarks.clients import concurrently, open_redis_py, open_rtx
from rtx.models import Execution
from rtx.wire import Script

PUBLISHERS = 100
ACCOUNTS = 50
DB = 1
_BENCHMARK = shutil.which("valkey-benchmark") or shutil.which("redis-benchmark")
_IN_FLIGHT = ("-c", "2", "-P", str(PUBLISHERS // 2))  # as many as ours at a time
_TAIL = (10_000, 7 * 86_400_000, "PUBLISH")

Publish = Callable[[int], Awaitable[None]]


def _fill(number: int) -> Execution:
    return Execution(number, number, "EURUSD", "BUY", 1.0, 1.0951, timestamp=data.START)


def _run(arena: Arena, publish: Publish) -> Run:
    async def run(total: int) -> Sample:
        before = arena.calls_of("publish")
        sample = await concurrently(PUBLISHERS, total, publish)
        published = arena.calls_of("publish") - before
        if published != total:
            raise WrongResult(f"{published} executions were published, not {total}")
        return sample

    return run


def _ours(*, keyed: bool) -> Callable[[Arena], AbstractAsyncContextManager[Run]]:
    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with open_rtx(arena) as layer:
            publish, run_id = layer.executions.publish, secrets.token_hex(4)
            counted = iter(range(10**9))

            async def plain(number: int) -> None:
                await publish(number % ACCOUNTS, _fill(number))

            async def with_key(number: int) -> None:
                key = f"{run_id}-{next(counted)}"
                await publish(number % ACCOUNTS, _fill(number), key=key)

            yield _run(arena, with_key if keyed else plain)

    return opened


@asynccontextmanager
async def _redis_py(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, DB, connections=PUBLISHERS) as client:
        script = client.register_script(Script.load("rtx.pubsub", "publish").text)

        async def publish(number: int) -> None:
            channel = f"executions:{number % ACCOUNTS}"
            message = json.dumps({"type": "execution", **msgspec.structs.asdict(_fill(number))})
            keys = [f"{{{channel}}}:{what}" for what in ("meta", "log")]
            await script(keys, [channel, message, secrets.token_hex(8), *_TAIL, "", 0])

        yield _run(arena, publish)


@asynccontextmanager
async def _server(arena: Arena) -> AsyncIterator[Run]:
    sha = str(arena.witness.script_load(Script.load("rtx.pubsub", "publish").text))
    message = msgspec.json.encode(_fill(1)).decode()
    keys = [f"{{executions:1}}:{what}" for what in ("meta", "log")]
    command = ["EVALSHA", sha, "2", *keys, "executions:1", message, "0123456789abcdef"]
    command += [*map(str, _TAIL), "", "0"]

    async def run(total: int) -> Sample:
        before = arena.calls_of("publish")
        watch, started = Watch(), time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(str(_BENCHMARK), "-p", str(arena.port), "--dbnum", str(DB), "--csv"),
            *("-n", str(total), *_IN_FLIGHT, *command),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        seconds = time.perf_counter() - started
        published = arena.calls_of("publish") - before
        if published < total:
            raise WrongResult(f"{published} executions were published, not {total}")
        # The last line: the command, rate, and six latencies; the command's own quotes are bare.
        rate = float(out.decode().strip().splitlines()[-1].split('","')[-7])
        return Sample(total, seconds, {"rate": rate, "cpu": watch.sample(total).values["cpu"]})

    yield run


_CEILING = (
    [Contestant("redis-benchmark, as many in flight", Role.CEILING, _server)] if _BENCHMARK else []
)

CASES = (
    Case(
        name="publish.executions",
        title=f"publish one execution at a time (log + channel), {PUBLISHERS} publishers, "
        f"{ACCOUNTS} accounts",
        measures=throughput("execution", target=3.0),
        contestants=(
            Contestant("RTX executions.publish", Role.OURS, _ours(keyed=False)),
            Contestant("the same with a key each", Role.OURS, _ours(keyed=True)),
            Contestant("redis-py, the same script + json.dumps", Role.PEER, _redis_py),
            *_CEILING,
        ),
        amount=PUBLISHERS * 20,
        step=PUBLISHERS,
        note="No subscribers. redis-benchmark repeats one message on one account, and its "
        "processor time is not counted."
        if _BENCHMARK
        else "No subscribers. Neither valkey-benchmark nor redis-benchmark is installed.",
    ),
)
