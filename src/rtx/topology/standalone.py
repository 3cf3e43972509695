"""One server at a fixed address."""

from __future__ import annotations

from collections.abc import Callable

from rtx import urls
from rtx.topology.base import Manner
from rtx.wire.connection import Connection, OnPush


class StandaloneTopology:
    """Dials one address; a database in the URL takes the place of the role's own number."""

    def __init__(self, location: urls.Standalone, manner: Manner) -> None:
        self._location = location
        self._manner = manner

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
        location = self._location
        options = self._manner.options(
            location.credentials,
            db=db if location.db is None else location.db,
            tls=location.tls,
            liveness=liveness,
        )
        return await Connection.dial(location.address, options, on_push, on_close)
