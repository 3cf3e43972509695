"""The parts joined: `open()` gives a `DataLayer`, and takes it down again."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from rtx import codecs
from rtx.cache import AccountCache, Loader, PositionCache, PriceCache, SessionCache, SymbolCache
from rtx.database import AccountUpdate, Database
from rtx.errors import RtxError
from rtx.keys import Keys
from rtx.models import Account, Alert, Execution, Position, SymbolSpec
from rtx.pubsub import Hub, Journal, MarketData
from rtx.ratelimit import Limits
from rtx.settings import Settings
from rtx.topology import Role, Roles

_HEALTH_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class PartHealth:
    """Whether a part answers; `latency_ms` in milliseconds, `error` empty when it is up."""

    up: bool
    error: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """State of the layer.

    `ready`: all of it works. `degraded`: Redis is away in part or whole, so that reads come from
    the database while the rest waits.
    """

    ready: bool
    degraded: bool
    roles: dict[str, PartHealth]
    database: PartHealth | None
    subscriber: PartHealth


class _Counters(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class DataLayer:
    """Typed caches, channels and limits over one set of servers; made by `rtx.open`."""

    def __init__(self, settings: Settings, roles: Roles, database: Database | None) -> None:
        self.settings = settings
        self.keys = keys = Keys(settings.namespace)
        self.database = database
        self._roles = roles
        cache, pubsub = roles.pool(Role.CACHE), roles.pool(Role.PUBSUB)
        ttl = settings.ttl
        load_accounts: Loader[int, Account] | None = None
        load_positions: Loader[int, tuple[Position, ...]] | None = None
        load_symbols: Loader[str, SymbolSpec] | None = None
        if database is not None:
            load_accounts, load_positions = database.accounts, database.positions
            load_symbols = database.symbols
        self.positions = PositionCache(cache, keys, ttl.positions, load_positions)
        self.accounts: AccountCache[AccountUpdate] = AccountCache(
            cache,
            keys,
            ttl.account,
            self.positions,
            load_accounts,
            database.update_account if database is not None else None,
        )
        self.symbols = SymbolCache(cache, keys, ttl.symbol, load_symbols)
        self.prices = PriceCache(cache, keys, ttl.price)
        self.sessions = SessionCache(cache, keys, ttl.session)
        self.hub = Hub(roles.homes(Role.PUBSUB))
        self.market_data = MarketData(
            cache,
            pubsub,
            self.hub,
            keys,
            ttl.price,
            settings.channels,
            one_server=roles.share_server(Role.CACHE, Role.PUBSUB),
        )
        self.executions: Journal[Execution] = Journal(
            pubsub,
            self.hub,
            lambda id: keys.executions(int(id)),
            codecs.decode_execution,
            settings.channels,
        )
        self.alerts: Journal[Alert] = Journal(
            pubsub, self.hub, keys.alerts, codecs.decode_alert, settings.channels
        )
        self.limits = Limits(roles.pool(Role.LIMITS), keys, settings.named_limits)

    async def _close(self) -> None:
        await self.market_data.close()
        await self.executions.close()
        await self.alerts.close()
        await self.hub.close()

    @property
    def embedded_url(self) -> str | None:
        """Address of the embedded server for other programs, if this layer runs one."""
        embedded = self._roles.embedded
        return embedded.public_url if embedded is not None else None

    @property
    def embedded_pid(self) -> int | None:
        """Process id of the embedded server while it runs."""
        embedded = self._roles.embedded
        return embedded.process.pid if embedded is not None else None

    async def health(self) -> Health:
        """Ask every part whether it answers, all at once; takes at most 1 s, never raises."""
        names = [role.value for role in Role]
        *roles, database = await asyncio.gather(
            *(self._ask_role(role) for role in Role), self._ask_database()
        )
        parts = dict(zip(names, [part for part in roles if part is not None], strict=True))
        subscriber = PartHealth(up=True)
        if self.hub.down is not None and not self.hub.idle:
            since, cause = self.hub.down
            subscriber = PartHealth(False, f"{cause} (for {time.monotonic() - since:.1f} s)")
        redis_up = all(part.up for part in parts.values()) and subscriber.up
        return Health(
            ready=redis_up and (database is None or database.up),
            degraded=not redis_up,
            roles=parts,
            database=database,
            subscriber=subscriber,
        )

    async def _ask_role(self, role: Role) -> PartHealth:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await self._roles.pool(role).call("PING", timeout=_HEALTH_TIMEOUT)
        except (RtxError, TimeoutError) as error:
            return PartHealth(False, str(error) or "no answer within 1 s")
        return PartHealth(True, latency_ms=(time.perf_counter() - started) * 1000)

    async def _ask_database(self) -> PartHealth | None:
        if self.database is None:
            return None
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await self.database.ping()
        except (RtxError, TimeoutError) as error:
            return PartHealth(False, str(error) or "no answer within 1 s")
        return PartHealth(True, latency_ms=(time.perf_counter() - started) * 1000)

    def stats(self) -> dict[str, dict[str, int | float | Mapping[str, int]]]:
        """Counters of every part, by part, such as `cache.prices` and `limit.orders`."""
        parts: dict[str, _Counters] = {
            "cache.accounts": self.accounts.stats,
            "cache.prices": self.prices.stats,
            "cache.positions": self.positions.stats,
            "cache.symbols": self.symbols.stats,
            "cache.sessions": self.sessions.stats,
            "hub": self.hub.stats,
            "channel.market_data": self.market_data.stats,
            "channel.executions": self.executions.stats,
            "channel.alerts": self.alerts.stats,
        }
        parts.update({f"limit.{name}": limit.stats for name, limit in self.limits.items()})
        parts.update({f"wire.{role.value}": self._roles.pool(role).stats for role in Role})
        return {name: _as_dict(counters) for name, counters in parts.items()}


def _as_dict(counters: _Counters) -> dict[str, int | float | Mapping[str, int]]:
    return {item.name: getattr(counters, item.name) for item in dataclasses.fields(counters)}


@asynccontextmanager
async def open(
    settings: Settings | None = None, *, database: Database | None = None
) -> AsyncIterator[DataLayer]:
    """Open the data layer; everything it started is gone when the context ends.

    Without settings they are loaded from `rtx.toml` and the environment, and without a URL there a
    server is started in this process's care. A `database` that is passed in is opened and closed
    too. Without one, `database_url` names the built-in one, and without that there is none: the
    caches are then only what is put into them.

    Raises `SettingsError`, `ConnectFailed`, `AccessDenied`, `DatabaseUnavailable`.
    """
    settings = settings or Settings.load()
    if database is None and settings.database_url is not None:
        from rtx.database.sql import SqlDatabase

        database = SqlDatabase(settings.database_url.get_secret_value())
    async with AsyncExitStack() as stack:
        if database is not None:
            stack.push_async_callback(database.close)
            await database.open()
        roles = Roles(settings)
        stack.push_async_callback(roles.close)
        await roles.open()
        layer = DataLayer(settings, roles, database)
        stack.push_async_callback(layer._close)
        yield layer
