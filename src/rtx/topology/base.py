"""The contract of a topology: how connections to the server of a role are made.

A topology knows one location (one URL) and always dials the node that may be written to at that
moment. `Roles` joins the topologies of the three roles. Guarantees that every topology gives:

- `dial` returns a connection that has logged in and selected its database, or raises
  `ConnectFailed` or `AccessDenied` within `connect_timeout`;
- a connection is never moved to another server: when the right server changes, the old connection
  ends in a typed error, and the pool or subscriber that owned it dials again;
- after `close` nothing the topology started is left.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rtx import urls
from rtx.errors import ServerError
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings
from rtx.urls import NO_CREDENTIALS, Credentials
from rtx.wire.connection import Connection, OnPush
from rtx.wire.options import ConnectOptions


class Role(StrEnum):
    """What a server is used for."""

    CACHE = "cache"
    PUBSUB = "pubsub"
    LIMITS = "limits"


DATABASES = {Role.CACHE: 0, Role.PUBSUB: 1, Role.LIMITS: 2}
"""Each role's database number where one server has all three."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How this process connects, whatever it connects to."""

    pool: PoolSettings
    client_name: str = "rtx"
    tls: ssl.SSLContext | None = None
    sentinel_credentials: Credentials = NO_CREDENTIALS

    @classmethod
    def of(cls, settings: Settings, location: urls.Location) -> Manner:
        """The manner for one location; raises `SettingsError` when a file cannot be read."""
        return cls(
            settings.pool,
            settings.client_name,
            None if isinstance(location, urls.Embedded) else settings.tls.context(),
            settings.sentinel_login.credentials,
        )

    def options(
        self,
        credentials: Credentials,
        *,
        db: int = 0,
        tls: bool = False,
        liveness: float | None = None,
        leave_if_readonly: bool = False,
    ) -> ConnectOptions:
        """Options of one connection; `liveness` as in `Topology.dial`."""
        pool = self.pool
        return ConnectOptions(
            credentials=credentials,
            db=db,
            client_name=self.client_name,
            tls=(self.tls or ssl.create_default_context()) if tls else None,
            connect_timeout=pool.connect_timeout,
            # A call waits in the write buffer and then for its reply: one clock for both.
            read_timeout=liveness or min(pool.read_timeout, pool.write_timeout),
            # Asked every half of it and given all of it, a death is noticed within 1.5 of it.
            heartbeat=liveness / 2 if liveness else 1.0,
            max_in_flight=pool.max_in_flight,
            max_reply=pool.max_reply,
            leave_if_readonly=leave_if_readonly,
        )


class Homes(Protocol):
    """Where the channels of the pubsub role are: all at one place, or each at its cluster node.

    A home is any hashable value; channels with the same one share a connection.
    """

    @property
    def sharded(self) -> bool:
        """Whether channels are a cluster's: SPUBLISH and SSUBSCRIBE, and no patterns."""

    def home(self, channel: bytes) -> Hashable | None:
        """Where a channel is now; None while no node is known to have it."""

    async def dial(
        self, home: Hashable, on_push: OnPush, on_close: Callable[[Connection], None]
    ) -> Connection:
        """Open a connection for push messages; raises `ConnectFailed` or `AccessDenied`."""

    def moved(self, channel: bytes, error: ServerError) -> None:
        """A home did not take a channel, with this error: it may be elsewhere now."""

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` when channels may have new homes, or a home can be dialed again."""


class Topology(Protocol):
    """Connections to the server at one location."""

    async def open(self) -> None:
        """Start or find the server; raises `ConnectFailed` when there is none."""

    async def close(self) -> None:
        """Stop whatever `open` started; connections are closed by their owners before."""

    async def dial(
        self,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None = None,
        liveness: float | None = None,
    ) -> Connection:
        """Open a connection to the node that takes writes, with database `db` selected.

        `liveness` (seconds) is how long a connection may take to answer when it is asked whether it
        lives, which it is twice in that time: a death is noticed within 1.5 of it. By default it is
        asked every second and has `read_timeout` to answer.
        """

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` when a server can be dialed that could not be before."""

    @property
    def public_url(self) -> str:
        """A URL for other programs on this machine, passwords masked."""
