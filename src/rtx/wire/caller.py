"""What caches, channels and limits call: one server, or a cluster that looks like one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rtx.errors import RtxError
from rtx.wire.options import Argument
from rtx.wire.pool import PoolStats
from rtx.wire.replies import Reply


class Caller(Protocol):
    """Sends commands to whoever has their keys; `Pool` is one, a cluster's caller another.

    The key of a command is its first argument; EVAL and EVALSHA name theirs after the count, all in
    one cluster slot; MGET, DEL, UNLINK, EXISTS and TOUCH may have keys of many slots.

    - `call` and `batch` send a command once. What never left this process may be sent again, what
      was sent never is.
    - Raises `Unavailable` kinds, of which `maybe_applied` says whether the server may have carried
      the command out, and `ServerError` kinds.
    - A batch that went to several nodes and failed at one raises with `maybe_applied` set.
    """

    def call(self, *args: Argument, timeout: float | None = None) -> Awaitable[Reply]:
        """Send one command; `timeout` in seconds, `read_timeout` if left out.

        It bounds all of the call: the wait for a connection and for the reply.
        """

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> Awaitable[list[Reply]]:
        """Send commands at once; the replies in the order given have the errors in them."""

    def batch_packed(
        self, commands: Sequence[bytes], *, patient: bool = True
    ) -> Awaitable[list[Reply]]:
        """The same for commands that are RESP bytes already, each with its key as first argument.

        Unless `patient`, a command whose node is away fails at once; it does not wait for another.
        """

    async def execute(
        self, *args: Argument, idempotent: bool = False, timeout: float | None = None
    ) -> Reply:
        """Send a command, and again where it never left or is `idempotent`."""

    @property
    def down(self) -> RtxError | None:
        """Why a server cannot be reached; None while all can."""

    @property
    def stats(self) -> PoolStats:
        """Counters since it was opened, over all servers."""

    def hurry(self) -> None:
        """Dial now rather than after a pause: there is news of the servers."""

    def on_loss(self, told: Callable[[], None]) -> None:
        """Call `told` whenever a connection broke or a server was left, and not for others.

        What was confirmed before may be unknown to the server that answers afterwards.
        """

    async def close(self) -> None:
        """End every connection; calls that wait end in `Unavailable`."""
