"""What the routes of one gateway share, and the tasks behind them."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

from rtx.errors import DatabaseUnavailable, ServerError, Unavailable
from rtx.gateway.auth import Caller
from rtx.gateway.client import Client
from rtx.gateway.counters import Counters
from rtx.gateway.orders import OrderDesk
from rtx.gateway.passwords import Passwords
from rtx.gateway.problems import Refused
from rtx.gateway.state import StateWatch
from rtx.gateway.symbols import KnownSymbols
from rtx.gateway.ticks import TickHub
from rtx.layer import DataLayer
from rtx.monitoring import ServerMetrics
from rtx.setting_groups import GatewaySettings
from rtx.web import by_address

_log = logging.getLogger("rtx.gateway")

SESSION_ENDED = 4001
"""Close code: the session behind the connection has ended."""

GOING_AWAY = 1001
TRY_LATER = 1013


class Gateway:
    """The open layer, the desk, the streams and the counters; entered while the app runs.

    Raises `SettingsError` when a user's password hash is malformed.
    """

    def __init__(self, layer: DataLayer, desk: OrderDesk | None, settings: GatewaySettings) -> None:
        self.layer = layer
        self.desk = desk
        self.settings = settings
        self.counters = Counters()
        self.address_of = by_address(settings.trusted_proxies)
        """Whom to count a request without a session for, by its ASGI scope."""
        self.passwords = Passwords(settings.users)
        self.symbols = KnownSymbols(layer)
        self.ticks = TickHub(layer, self.symbols)
        self.servers = ServerMetrics(layer)
        self.state = StateWatch(layer, settings.heartbeat, self._tell)
        self._clients: set[Client] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def __aenter__(self) -> Gateway:
        self._tasks = [
            asyncio.create_task(self.state.run(), name="rtx-gateway-state"),
            asyncio.create_task(self._watch_sessions(), name="rtx-gateway-sessions"),
        ]
        for task in self._tasks:
            task.add_done_callback(_log_failure)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end_streams()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in list(self._clients):
            await self.disconnect(client)
        await self.ticks.close()
        await self.servers.close()

    def check_room(self) -> None:
        """Raise `Refused` when there are too many streams for one more."""
        if self._closing or len(self._clients) >= self.settings.max_connections:
            self.counters.connections_refused += 1
            raise Refused(
                503,
                "too_many_connections",
                "the gateway has all the streams it takes; try again later",
                retryable=True,
                retry_after=5.0,
            )

    def connect(self, caller: Caller) -> Client:
        """A new client of the streams; raises `Refused` when there are too many."""
        self.check_room()
        client = Client(self, caller)
        self._clients.add(client)
        self.counters.connections_opened += 1
        self.counters.connections = len(self._clients)
        return client

    async def disconnect(self, client: Client) -> None:
        """Forget a client, and end what it followed."""
        self._clients.discard(client)
        self.counters.connections = len(self._clients)
        await client.close()

    def end_streams(self) -> None:
        """Ask every stream to end, and take no new ones: the first step of a shutdown."""
        self._closing = True
        for client in self._clients:
            client.outbox.end(GOING_AWAY, "the gateway stops; connect again in a moment")

    def stats(self) -> dict[str, int]:
        """The counters, and `market_channels` as of now."""
        names = Counters.__dataclass_fields__
        found = {name: int(getattr(self.counters, name)) for name in names}
        return {**found, "market_channels": self.ticks.channels}

    def _tell(self, text: str) -> None:
        for client in self._clients:
            client.outbox.put(text)

    async def _watch_sessions(self) -> None:
        """End the streams whose session was revoked or has expired."""
        while True:
            await asyncio.sleep(self.settings.heartbeat)
            for client in list(self._clients):
                if not client.token:
                    continue
                try:
                    session = await self.layer.sessions.get(client.token)
                except (Unavailable, ServerError, DatabaseUnavailable):
                    break  # nobody knows; asked again at the next heartbeat
                if session is None:
                    client.refuse(
                        Refused(401, "session_ended", "the session has ended; log in again")
                    )
                    client.outbox.end(SESSION_ENDED, "the session has ended")


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s has failed", task.get_name(), exc_info=error)
