"""Appending to logs: once for each key however often it is tried, and to replicas if asked for."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import Awaitable, Callable
from typing import cast

from rtx.errors import (
    CallTimeout,
    NotReplicated,
    NotWritable,
    ServerBusy,
    ServerError,
    Unavailable,
)
from rtx.keys import Keys
from rtx.pubsub.durable import DurableWriter, Elsewhere
from rtx.pubsub.journal_inbox import JournalStats
from rtx.pubsub.offset import Offset
from rtx.setting_groups import ChannelSettings
from rtx.topology.base import Homes
from rtx.wire import Backoff, Caller, Script
from rtx.wire.options import Argument

_DIGEST = 16  # bytes that stand for a key: two keys never share them by chance


class JournalWriter:
    """Appends encoded messages to logs and publishes them, by one script."""

    def __init__(
        self,
        pool: Caller,
        homes: Homes,
        settings: ChannelSettings,
        stats: JournalStats,
        read_timeout: float,
    ) -> None:
        self._pool = pool
        self._homes = homes
        self._settings = settings
        self._stats = stats
        self._had_replicas = False
        self._run, self._epochs = secrets.token_hex(6), itertools.count(0x1000)
        self._script = Script.load("rtx.pubsub", "publish")
        self._durable = DurableWriter(
            homes, self._script, read_timeout, settings.probe_interval / 4
        )

    async def close(self) -> None:
        """End the connection for durable messages."""
        await self._durable.close()

    async def append(
        self,
        channel: str,
        message: bytes,
        key: str | bytes | None,
        durable: bool | None,
        deadline: float | None,
    ) -> Offset:
        """See `Journal.publish`."""
        settings = self._settings
        durable = settings.durable if durable is None else durable
        replicas = settings.durable_replicas if durable else 0
        names = ("meta", "log") if key is None else ("meta", "log", "keys")
        keys = [Keys.companion(channel, what) for what in names]
        args: tuple[Argument, ...] = (
            channel,
            message,
            f"{self._run}{next(self._epochs):x}",
            settings.log_size,
            round(settings.log_ttl * 1000),
            "SPUBLISH" if self._homes.sharded else "PUBLISH",
            b"" if key is None else _digest(key),
            replicas,
        )

        if not durable and key is None:
            return self._taken(await self._script.run(self._pool, keys, *args))

        async def attempt() -> Offset:
            if not durable:
                return self._taken(await self._script.run(self._pool, keys, *args))
            within = settings.durable_timeout
            try:
                reply, acknowledged = await self._durable.run(
                    keys, args, replicas=replicas, within=within
                )
            except ServerError as error:
                if error.prefix == "TOOFEW":
                    raise _too_few(error, replicas) from None
                raise
            offset = self._taken(reply)
            self._had_replicas = True
            if acknowledged < replicas:
                self._stats.unreplicated += 1
                raise NotReplicated(
                    f"{offset} of {channel} is published, and {acknowledged} of {replicas} "
                    f"replicas had it within {within:g} s: a failover now may lose it. See "
                    "master_link_status and lag of the replicas (INFO replication); with a key it "
                    "can be published again, which waits again",
                    maybe_applied=True,
                    acknowledged=acknowledged,
                    wanted=replicas,
                )
            return offset

        limit = settings.publish_deadline if deadline is None else deadline
        return await self._until(limit, attempt, keyed=key is not None, durable=durable)

    async def _until(
        self,
        limit: float,
        attempt: Callable[[], Awaitable[Offset]],
        *,
        keyed: bool,
        durable: bool,
    ) -> Offset:
        """Try until it is done, or `limit` seconds have passed; only what cannot be done twice.

        Without a key that is what a node of a cluster passed on; with a key everything.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + limit
        bound = give_up if limit > 0 and (keyed or durable) else None
        backoff = Backoff()
        maybe = False
        short: NotReplicated | None = None
        while True:
            try:
                async with asyncio.timeout_at(bound):
                    return await attempt()
            except NotReplicated as error:
                # A server that took over is without replicas for a moment.
                missing = error.acknowledged == 0 and not error.maybe_applied
                maybe = error.maybe_applied = maybe or error.maybe_applied
                short = error
                if not keyed or loop.time() >= give_up or (missing and not self._had_replicas):
                    raise
            except TimeoutError:
                if short is not None:
                    raise short from None
                raise CallTimeout(
                    f"the message was not answered for within {limit:g} s; the server is busy, "
                    "frozen or cut off, and may yet publish it",
                    maybe_applied=True,
                ) from None
            except Unavailable as error:
                maybe = error.maybe_applied = maybe or error.maybe_applied
                if not (keyed or isinstance(error, Elsewhere)) or loop.time() >= give_up:
                    raise
            except (NotWritable, ServerBusy) as error:
                if not keyed or loop.time() >= give_up:
                    if maybe:
                        raise Unavailable(str(error), maybe_applied=True) from None
                    raise
            self._stats.retries += 1
            await _rest(backoff, give_up)

    def _taken(self, reply: object) -> Offset:
        seq, epoch, repeated = cast("tuple[int, bytes, int]", reply)
        if repeated:
            self._stats.repeated += 1
        else:
            self._stats.published += 1
        return Offset(epoch.decode(), seq)


def _too_few(error: ServerError, wanted: int) -> NotReplicated:
    return NotReplicated(
        f"nothing was published: the server has {str(error).partition(' ')[2]} replicas in touch "
        f"and {wanted} are asked for. Start replicas, lower channels.durable_replicas, or publish "
        "without durable",
        wanted=wanted,
    )


async def _rest(backoff: Backoff, give_up: float) -> None:
    try:
        async with asyncio.timeout_at(give_up):
            await backoff.rest()
    except TimeoutError:
        return


def _digest(key: str | bytes) -> bytes:
    raw = key.encode() if isinstance(key, str) else key
    return hashlib.blake2b(raw, digest_size=_DIGEST).digest()
