"""Replies that are too large: refused while memory stays bounded, and the pool lives on."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtx.errors import CallTimeout, ConnectionLost, ProtocolViolation, Unavailable
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from tests.conftest import eventually
from tests.wire.conftest import Opener, PoolMaker
from tests.wire.faults import Peer, scripted

MEGABYTE = 2**20
HALF_A_GIGABYTE = 512 * MEGABYTE

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")


class Memory:
    """How much memory this process came to use; in bytes."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._read("VmRSS")
        self._mapped = self._read("VmSize")

    @property
    def grown(self) -> int:
        """The most that was resident at once, over what was at the beginning."""
        return self._read("VmHWM") - self._before

    @property
    def mapped(self) -> int:
        """What is mapped now, resident or not, over what was at the beginning."""
        return self._read("VmSize") - self._mapped

    @staticmethod
    def _read(field: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.partition(f"{field}:")[2].split()[0]) * 1024


@linux_only
async def test_a_reply_of_512_megabytes_is_refused_and_the_pool_lives_on(
    own_server: ServerProcess, open_pool: PoolMaker
) -> None:
    pool = await open_pool(Address("127.0.0.1", own_server.port), size=2, read_timeout=30.0)
    await pool.call("SETRANGE", "large", HALF_A_GIGABYTE - 1, "x")
    for turn in range(1, 3):
        memory = Memory()
        started = time.monotonic()
        before, large = await asyncio.gather(
            pool.call("ECHO", "before"), pool.call("GET", "large"), return_exceptions=True
        )
        took = time.monotonic() - started
        assert before == b"before"
        assert isinstance(large, ProtocolViolation)
        assert f"over {64 * MEGABYTE} bytes; ask for less, or raise pool.max_reply" in str(large)
        assert large.maybe_applied
        assert await pool.call("STRLEN", "large") == HALF_A_GIGABYTE
        assert pool.stats.lost == turn
        assert pool.down is None
        print(f"512 MB refused after {took:.2f} s, with {memory.grown / MEGABYTE:.0f} MB at most")
        # The bound itself, and what a buffer that grows by being copied may take besides.
        assert memory.grown < 2.5 * 64 * MEGABYTE


async def oversized(peer: Peer) -> None:
    """Answers every call with half a gigabyte, as far as anyone reads it."""
    await peer.greet()
    await peer.command()
    peer.send(b"$%d\r\n" % HALF_A_GIGABYTE)
    while not peer.gone:
        await peer.send_bytewise(bytes(MEGABYTE), MEGABYTE)


@linux_only
async def test_what_was_read_of_a_refused_reply_is_let_go_at_once(connect: Opener) -> None:
    bound = 8 * MEGABYTE
    async with scripted(oversized) as address:
        memory = Memory()
        with gc_paused():
            for _ in range(8):
                connection = await connect(address, max_reply=bound)
                with pytest.raises(ProtocolViolation):
                    await connection.call("X")
            print(f"8 replies refused, each after 8 MB: {memory.grown / MEGABYTE:.0f} MB at most")
        assert memory.grown < 4 * bound


@contextmanager
def gc_paused() -> Iterator[None]:
    """Memory comes back by reference counts alone, as it does between two rare collections."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


HEADERS = {
    "array": b"*50000000\r\n",
    "set": b"~50000000\r\n",
    "map": b"%50000000\r\n",
    "push": b">50000000\r\n",
    "array behind a reply": b"+mine\r\n*50000000\r\n",
    "nested array": b"*2\r\n:1\r\n*50000000\r\n",
}
UNBOUNDED = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="hiredis makes the list when it has read the header"
)


@linux_only
@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize(
    "kind",
    [kind if kind == "map" else pytest.param(kind, marks=UNBOUNDED) for kind in HEADERS],
)
async def test_a_header_of_more_elements_than_fit_takes_no_memory(
    open_pool: PoolMaker, kind: str
) -> None:
    """An element takes three bytes at least, so `max_reply` has room for 22 million."""
    broken = True

    async def script(peer: Peer) -> None:
        await peer.greet()
        while command := await peer.command():
            if command[0] == b"X" and broken:
                peer.send(HEADERS[kind] + b":1\r\n")
            else:
                peer.send(b"+fine\r\n")

    async with scripted(script) as address:
        memory = Memory()
        pool = await open_pool(address, size=1, min_idle=0, read_timeout=0.3, heartbeat=0.2)
        calls = asyncio.gather(pool.call("X"), pool.call("X"), return_exceptions=True)
        await asyncio.sleep(0.1)
        mapped = max(memory.mapped, memory.grown)
        error = (await calls)[1]
        print(f"{kind}: {mapped / MEGABYTE:.0f} MB mapped, {type(error).__name__}: {error}")
        assert isinstance(error, ConnectionLost | CallTimeout)
        broken = False

        async def answers() -> bool:
            try:
                return await pool.call("Y") == b"fine"
            except Unavailable:
                return False

        await eventually(answers)
        assert mapped < 256 * MEGABYTE
