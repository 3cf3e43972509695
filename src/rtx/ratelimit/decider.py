"""The way to the script: hits that are made at the same time share a call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import TypeAlias, cast

from rtx.errors import ConnectionLost, RtxError, ServerError, anew
from rtx.ratelimit.rules import split
from rtx.wire import Caller, Script

_MOST = 32  # keys of one call, some 0.1 ms of the server's time

_Waiting: TypeAlias = "tuple[asyncio.Future[bytes], str, bytes]"


def decide_script() -> Script:
    """The script that decides hits, made of its three files."""
    folder = resources.files("rtx.ratelimit") / "lua"

    def included(line: re.Match[str]) -> str:
        return (folder / f"{line[1]}.lua").read_text("utf-8")

    text = (folder / "decide.lua").read_text("utf-8")
    whole = re.sub(r"^ *-- include (\w+)$", included, text, flags=re.MULTILINE)
    return Script(whole, "ratelimit.decide")


class Decider:
    """Sends keys and their rules to the server, each once.

    A hit leaves at once, by `call`, while no other waits for its answer. Those that come meanwhile
    leave together, by `gather`, at the end of their turn of the event loop: the script then reads
    the clock once for all of them. On a cluster, where their keys have different slots, each goes
    alone.

    Raises as `Caller.call`; `deadline` in seconds bounds a call.
    """

    def __init__(self, caller: Caller, deadline: float, *, one_server: bool) -> None:
        self.in_flight = 0
        """Hits that wait for their answers; counted by who awaits them."""
        self.gathers = one_server
        self.call: Callable[..., Awaitable[bytes]] = cast(
            Callable[..., Awaitable[bytes]], caller.call
        )
        self.deadline = deadline
        self._caller = caller
        self._script = decide_script()
        self.sha = self._script.sha
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the calls that are under way; their hits may have been counted."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def gather(self, key: str, rule: bytes) -> asyncio.Future[bytes]:
        """The record for one key, by a call that it shares with others."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)
        future: asyncio.Future[bytes] = loop.create_future()
        self._waiting.append((future, key, rule))
        if len(self._waiting) == _MOST:
            self._send()
        return future

    async def again(self, error: ServerError, key: str, rule: bytes) -> bytes:
        """The record from a server that had forgotten the script; raises any other error."""
        if error.prefix != "NOSCRIPT":
            raise error
        return await self.decide_together((key,), (rule,))

    async def decide_together(self, keys: Sequence[str], rules: Sequence[bytes]) -> bytes:
        """The records for keys of one slot, by one call of the script."""
        reply = await self._script.run(self._caller, keys, *rules, timeout=self.deadline)
        return cast(bytes, reply)

    def _send(self) -> None:
        if not self._waiting:
            return
        task = asyncio.create_task(self._decide_all(self._waiting), name="rtx-limits")
        self._waiting = []
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _decide_all(self, waiting: list[_Waiting]) -> None:
        # Who was cancelled meanwhile has not hit: nothing of it has left this process.
        waiting = [one for one in waiting if not one[0].done()]
        keys, rules = [key for _, key, _ in waiting], [rule for _, _, rule in waiting]
        try:
            records = await self.decide_together(keys, rules) if waiting else b""
        except RtxError as error:
            self._fail(waiting, error)
        except asyncio.CancelledError:
            self._fail(waiting, ConnectionLost("the data layer was closed", maybe_applied=True))
            raise
        else:
            for (future, _, _), record in zip(waiting, split(records), strict=True):
                if not future.done():
                    future.set_result(record)

    @staticmethod
    def _fail(waiting: list[_Waiting], error: RtxError) -> None:
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(anew(error))
