"""One server at a fixed address."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from rtx import urls
from rtx.settings import PoolSettings
from rtx.wire.connection import Connection, ConnectOptions, OnPush


class StandaloneTopology:
    """Dials one address; a database in the URL takes the place of the role's own number."""

    def __init__(
        self, location: urls.Standalone, pool: PoolSettings, client_name: str = "rtx"
    ) -> None:
        self._location = location
        self._pool = pool
        self._client_name = client_name
        self._tls = ssl.create_default_context() if location.tls else None

    @property
    def public_url(self) -> str:
        return str(self._location)

    def on_change(self, told: Callable[[], None]) -> None:
        pass  # the address never changes, so there is never news

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def dial(
        self,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None = None,
        liveness: float | None = None,
    ) -> Connection:
        location, pool = self._location, self._pool
        options = ConnectOptions(
            credentials=location.credentials,
            db=db if location.db is None else location.db,
            client_name=self._client_name,
            tls=self._tls,
            connect_timeout=pool.connect_timeout,
            # A call waits in the write buffer and then for its reply: one clock for both.
            read_timeout=liveness or min(pool.read_timeout, pool.write_timeout),
            heartbeat=liveness or 1.0,
            max_in_flight=pool.max_in_flight,
            max_reply=pool.max_reply,
        )
        return await Connection.dial(location.address, options, on_push, on_close)
