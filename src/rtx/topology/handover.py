"""A planned failover: a replica takes the primary's place, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace

from rtx.errors import AccessDenied, RtxError, Unavailable
from rtx.topology.standing import standing_of
from rtx.urls import Address
from rtx.wire.connection import Connection
from rtx.wire.options import ConnectOptions

_TRY_EVERY = 0.005
LOOK_EVERY = 0.05
"""Seconds between questions whether a failover has ended."""


@dataclass(frozen=True, slots=True)
class Handover:
    """A failover that was carried out.

    `held_up` are the seconds between the last write that the old primary took and the first that
    the new one did; None where that was not seen, because the user may not write. `lossless` is
    whether the servers hold writes until the replica has them all.
    """

    old: Address
    new: Address
    held_up: float | None
    lossless: bool


class WriteProbe:
    """Tries a write that changes nothing on several servers: the DEL of a key that is not there."""

    def __init__(self, servers: Iterable[Address], key: str) -> None:
        self.primaries: set[Address] = set()
        """The servers whose last word was that they are primaries."""
        self._servers = tuple(servers)
        self._key = key
        self._took: dict[Address, list[float]] = {}  # first and last moment of a write

    def held_up(self, old: Address, new: Address) -> float | None:
        """See `Handover`."""
        before, after = self._took.get(old), self._took.get(new)
        return None if before is None or after is None else max(0.0, after[0] - before[1])

    @asynccontextmanager
    async def running(self, options: ConnectOptions) -> AsyncIterator[None]:
        """Try every 5 ms until the end of the context."""
        options = replace(options, connect_timeout=min(0.5, options.connect_timeout))
        tasks = [
            asyncio.create_task(self._try(address, options), name=f"rtx-probe-{address}")
            for address in self._servers
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _try(self, address: Address, options: ConnectOptions) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(RtxError):  # sentinels end connections when they see the promotion
                connection = await Connection.dial(address, options)
                try:
                    while True:
                        role, deleted = await connection.batch([("ROLE",), ("DEL", self._key)])
                        if isinstance(role, list) and standing_of(role).is_primary:
                            self.primaries.add(address)
                            if isinstance(deleted, int):
                                now = loop.time()
                                self._took.setdefault(address, [now, now])[1] = now
                        else:
                            self.primaries.discard(address)
                        await asyncio.sleep(_TRY_EVERY)
                finally:
                    await connection.close()
            await asyncio.sleep(_TRY_EVERY)


@asynccontextmanager
async def connected(
    addresses: Iterable[Address], options: ConnectOptions
) -> AsyncIterator[tuple[dict[Address, Connection], dict[Address, RtxError]]]:
    """Connections to those that answer, and why others do not; raises `AccessDenied`."""
    async with AsyncExitStack() as stack:
        connections: dict[Address, Connection] = {}
        errors: dict[Address, RtxError] = {}
        several = tuple(addresses)
        outcomes = await asyncio.gather(
            *(Connection.dial(address, options) for address in several), return_exceptions=True
        )
        for address, outcome in zip(several, outcomes, strict=True):
            if isinstance(outcome, Connection):
                connections[address] = outcome
                stack.push_async_callback(outcome.close)
            elif isinstance(outcome, RtxError):
                errors[address] = outcome
            else:
                raise outcome
        for error in errors.values():
            if isinstance(error, AccessDenied):
                raise error
        yield connections, errors


@contextmanager
def nothing_begun() -> Iterator[None]:
    """While a failover has not been asked for, no error may say that it may have begun."""
    try:
        yield
    except Unavailable as error:
        if not error.maybe_applied:
            raise
        raise Unavailable(str(error)) from None


def unfinished(what: str, within: float) -> Unavailable:
    """The error of a failover that was begun, and whose end was not seen."""
    return Unavailable(
        f"the failover was begun, but within {within:g} s {what}; it may yet go on, so look "
        "before you begin another",
        maybe_applied=True,
    )
