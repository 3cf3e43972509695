"""A publisher in a process of its own, so that a receiver is measured alone.

It speaks plain RESP on a blocking socket and asks for no replies, so it costs the machine as little
as can be; in the modes `offered` and `pipelined` it is a feed with a library of its own, the
batching publisher of RTX or redis-py. It takes orders on standard input, one a line: `MODE COUNT
SYMBOLS PER_SECOND`, which it answers with "ready"; and then `go`, which it answers with "done" when
the server has taken everything.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis.asyncio as redis_py
import uvloop

import rtx
from benchmarks import data
from benchmarks.resp import pack
from rtx import codecs
from rtx.models import Tick
from rtx.settings import Settings

STAMP = 1_000
"""Nanoseconds of the monotonic clock in one unit of a stamped tick's `time`."""

_ROOT = Path(__file__).resolve().parent.parent


class Publisher:
    """The receiver's side of the process: `prepare`, `go`, then wait until it is done."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def prepare(self, mode: str, count: int, symbols: int, per_second: int = 0) -> None:
        """Have it make `count` ticks ready: to go at once (`burst`), or to be stamped one by one
        at this rate (`paced`, `offered`, `pipelined`)."""
        self._say(f"{mode} {count} {symbols} {per_second}")
        await asyncio.to_thread(self._hear, "ready")

    def go(self) -> None:
        """Let it publish."""
        self._say("go")

    def wait_until_done(self) -> None:
        """Block this thread, event loop and all, until the server has taken every tick."""
        self._hear("done")

    def _say(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()

    def _hear(self, word: str) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if said != word:
            raise RuntimeError(f"the publisher said {said!r}, not {word!r}")


@contextmanager
def start_publisher(port: int) -> Iterator[Publisher]:
    """A publisher that waits for orders; it ends with the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.publisher", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    try:
        yield Publisher(process)
    finally:
        process.kill()
        process.communicate()


def _publish_command(tick: Tick) -> bytes:
    return pack("PUBLISH", f"market_data:{tick.symbol}", codecs.encode_tick(tick))


@functools.lru_cache(maxsize=2)
def _packed(count: int, symbols: int) -> bytes:
    return b"".join(map(_publish_command, data.ticks(count, symbols)))


def _send_paced(server: socket.socket, count: int, symbols: int, per_second: int) -> None:
    names = data.symbols(symbols)
    step = 1_000_000_000 // per_second
    due = time.monotonic_ns()
    for number in range(count):
        wait = due - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / 1e9)
        bid = data.bid(number)
        now = time.monotonic_ns()
        tick = Tick(
            names[number % symbols], time=now // STAMP, bid=bid, ask=bid + 0.001, lp="BENCH"
        )
        server.sendall(_publish_command(tick))
        due += step


Give = Callable[[list[Tick]], Awaitable[None]]


async def _feed(give: Give, count: int, symbols: int, per_second: int) -> None:
    """Every millisecond, the granularity of the loop's timers, give the ticks that are due."""
    names = data.symbols(symbols)
    began, given = time.monotonic(), 0
    while given < count:
        await asyncio.sleep(0.001)
        due = min(count, int((time.monotonic() - began) * per_second))
        ticks = []
        for number in range(given, due):
            bid, now = data.bid(number), time.monotonic_ns() // STAMP
            name = names[number % symbols]
            ticks.append(Tick(name, time=now, bid=bid, ask=bid + 0.001, lp="BENCH"))
        given = due
        if ticks:
            await give(ticks)


async def _offer(port: int, count: int, symbols: int, per_second: int) -> None:
    settings = Settings.load(url=f"redis://127.0.0.1:{port}")
    async with rtx.open(settings) as layer, layer.market_data.publisher() as out:

        async def give(ticks: list[Tick]) -> None:
            for tick in ticks:
                out.offer(tick)

        await _feed(give, count, symbols, per_second)


async def _pipeline(port: int, count: int, symbols: int, per_second: int) -> None:
    client = redis_py.Redis(port=port)

    async def give(ticks: list[Tick]) -> None:
        pipeline = client.pipeline(transaction=False)
        for tick in {tick.symbol: tick for tick in ticks}.values():
            raw = codecs.encode_price(tick.symbol, tick.bid, tick.ask, tick.time)
            pipeline.set(f"price:{tick.symbol}", raw, px=1_000)
        for tick in ticks:
            pipeline.publish(f"market_data:{tick.symbol}", codecs.encode_tick(tick))
        await pipeline.execute()

    try:
        await _feed(give, count, symbols, per_second)
    finally:
        await client.aclose()


_FEEDS = {"offered": _offer, "pipelined": _pipeline}


def _await_order() -> list[str]:
    return sys.stdin.readline().split()


def main(port: int) -> None:
    """Carry out orders until standard input ends."""
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while order := _await_order():
            count, symbols, per_second = map(int, order[1:])
            burst = _packed(count, symbols) if order[0] == "burst" else b""
            print("ready", flush=True)
            if not _await_order():
                return
            if order[0] in _FEEDS:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_FEEDS[order[0]](port, count, symbols, per_second))
                print("done", flush=True)
                continue
            server.sendall(pack("CLIENT", "REPLY", "OFF"))
            if burst:
                server.sendall(burst)
            else:
                _send_paced(server, count, symbols, per_second)
            server.sendall(pack("CLIENT", "REPLY", "ON"))
            server.recv(16)
            print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
