"""Whether what is published arrives on a subscriber's connection: asked by messages of our own.

A connection that answers PING may still be deaf: subscribed at a server that nobody publishes to
any more, subscribed to nothing, or behind something that swallows messages. PING tells that the
peer lives (`rtx.wire.heartbeat`), a probe that a message published now, where all are published,
comes out here.

The verdict rests on an order of events, not on time. A server hands a message to its subscribers
before it answers the publisher, and sends to one connection in order. So the answer to a PING that
is sent here after the publisher's answer comes behind the probe: when the PONG is here and the
probe is not, it never comes. No backlog, slow server or event loop that stood still looks like
that. A probe that cannot be published says nothing of the connection; that is reported, and
nothing is torn down for it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from rtx.errors import AccessDenied, ConnectionLost, RtxError
from rtx.keys import Keys
from rtx.pubsub.hub_stats import HubStats
from rtx.topology.base import Homes
from rtx.wire import Caller, Connection

_log = logging.getLogger("rtx.pubsub")

_GRACE = 0.25
"""Part of an interval that a probe may come after the PONG, behind proxies that keep no order."""
_UNPROVEN_AFTER = 2
_PATIENCE_AT_MOST = 32
_LOOKED_AT = 64  # channels, for one that is surely at this node


@dataclass(frozen=True, slots=True)
class Probing:
    """How a hub probes its connections: published with `caller`, every `interval` seconds."""

    caller: Caller
    keys: Keys
    interval: float


class Probe:
    """Probes the connections to one home, one after the other, and ends those that are deaf.

    The first deaf connection is replaced at once. If its successors are deaf too, replacing does
    not help (the publisher may be at the wrong server): then each is given twice as many probes as
    the one before, up to 32.
    """

    def __init__(
        self,
        probing: Probing,
        homes: Homes,
        home: Hashable,
        channels: Callable[[], Iterator[str]],
        stats: HubStats,
    ) -> None:
        self.key = b""
        """The channel that is subscribed for probes; empty while there is none."""
        self.trouble: tuple[float, str] | None = None
        """Since when and why it is not known that messages arrive; None while they do."""
        self.proven_at: float | None = None
        """When a probe came back last, or the first was due; None while there is no probing."""
        self._probing = probing
        self._homes = homes
        self._home = home
        self._channels = channels
        self._stats = stats
        self._prefix = "S" if homes.sharded else ""
        self._token = b""
        self._sent_at = 0.0
        self._came = asyncio.Event()
        self._unproven = 0  # probes in a row that told nothing
        self._missing = 0  # probes in a row that did not arrive
        self._patience = 1  # how many of these end a connection

    async def run(self, connection: Connection) -> None:
        """Probe a connection while anyone listens on it, until it ends or the ACL refuses."""
        loop, interval = asyncio.get_running_loop(), self._probing.interval
        self.key, self._missing = b"", 0
        due = loop.time()
        while connection.error is None:
            if next(self._channels(), None) is None:
                self.trouble = self.proven_at = None
            else:
                self.proven_at = self.proven_at or time.monotonic()
                try:
                    await self._probe(connection)
                except AccessDenied as error:
                    if error.prefix == "NOPERM":
                        self._refused(error)
                        return
                    self._unpublished(error)
                except RtxError as error:
                    if connection.error is None:
                        self._unpublished(error)
                except Exception:  # probing must outlive a fault in a topology
                    _log.exception("a probe failed in a new way")
            # Late probes are not made up for: a loop that stood still owes one, not many.
            due = max(due + interval, loop.time())
            await asyncio.sleep(due - loop.time())

    def heard(self, message: object) -> None:
        """A message on the probe channel has come."""
        now = time.monotonic()
        self.trouble, self.proven_at = None, now
        self._unproven = self._missing = 0
        self._patience = 1
        if message == self._token and not self._came.is_set():
            self._came.set()
            self._stats.took((now - self._sent_at) * 1000)

    def gone(self) -> None:
        """The server has ended the subscription to the probe channel: its slot has moved."""
        self.key = b""

    async def _probe(self, connection: Connection) -> None:
        if not self.key or self._homes.home(self.key) != self._home:
            await self._subscribe(connection)
            if not self.key:
                return
        name, self._token = self.key, secrets.token_hex(4).encode()
        self._came.clear()
        self._sent_at = time.monotonic()
        receivers = await self._probing.caller.call(
            f"{self._prefix}PUBLISH", name, self._token, timeout=self._probing.interval
        )
        self._stats.probes += 1
        if self._came.is_set():
            return
        try:
            await connection.call("PING")
        except RtxError:
            return  # whether the peer lives at all is for the heartbeat to say
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE * self._probing.interval):
                await self._came.wait()
        here = self.key == name and self._homes.home(name) == self._home
        if here and not self._came.is_set() and connection.error is None:
            self._deaf(connection, receivers)

    async def _subscribe(self, connection: Connection) -> None:
        self.key = b""
        name = self._new_name()
        if name is None:
            return  # every channel has moved away, and the hub is about to follow
        await connection.subscribe(f"{self._prefix}SUBSCRIBE", [name])
        self.key = name.encode()

    def _new_name(self) -> str | None:
        """A channel that nobody else has; in a cluster beside one that is at this node."""
        keys, token = self._probing.keys, secrets.token_hex(8)
        if not self._homes.sharded:
            return keys.probe(token)
        for channel in islice(self._channels(), _LOOKED_AT):
            name = keys.probe(token, beside=channel)
            if self._homes.home(name.encode()) == self._home:
                return name
        return None

    # --- what came of it -------------------------------------------------------------------

    def _deaf(self, connection: Connection, receivers: object) -> None:
        self._stats.probe_failures += 1
        self._missing += 1
        why = (
            "a probe reached nobody where it was published, so this connection is subscribed at "
            "another server, or at none"
            if receivers == 0
            else "a probe was delivered and did not arrive, so something on the way drops messages"
        )
        cause = f"{connection.address} is deaf: {why}"
        self._doubt(cause)
        if self._missing >= self._patience:
            self._patience = min(2 * self._patience, _PATIENCE_AT_MOST)
            connection.abort(ConnectionLost(cause))

    def _unpublished(self, error: RtxError) -> None:
        self._stats.probes_unpublished += 1
        self._unproven += 1
        if self._unproven >= _UNPROVEN_AFTER:
            self._doubt(f"not known whether messages arrive: no probe could be published: {error}")

    def _doubt(self, cause: str) -> None:
        if self.trouble is None:
            self.trouble = (time.monotonic(), cause)
            _log.warning("%s", cause)

    def _refused(self, error: AccessDenied) -> None:
        self._stats.probe_refusals += 1
        self.trouble = self.proven_at = None
        _log.warning("a subscriber goes without probes, which find deaf connections: %s", error)
