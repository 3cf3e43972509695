"""The parts joined: `open()` gives a `DataLayer`, and takes it down again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar

from rtx import codecs
from rtx.alerts import AlertEngine, AlertRules, AlertRuleStats
from rtx.alerts.store import RuleStore
from rtx.backing import Backing
from rtx.cache import (
    AccountCache,
    Breaker,
    Cache,
    PositionCache,
    PriceCache,
    SessionCache,
    SymbolCache,
)
from rtx.cache.fields import fields_of
from rtx.cache.near import NearCache
from rtx.database import Database, Outbox, Owed, Relay
from rtx.errors import Unavailable, UnknownName
from rtx.keys import Keys
from rtx.layer_health import Health, ask_health
from rtx.marking import Marked, PriceBoard
from rtx.models import Alert, Execution, Price, SymbolSpec
from rtx.pubsub import Hub, Journal, MarketData, Probing
from rtx.ratelimit import Limits
from rtx.setting_groups import CacheSettings
from rtx.settings import Settings
from rtx.tick_meter import TickMeter
from rtx.timing import Timing
from rtx.topology import Role, Roles
from rtx.topology.nodes import Nodes
from rtx.wire import Caller

K = TypeVar("K")
V = TypeVar("V")


class _Way(TypedDict):
    """How each cache reaches the server."""

    settings: CacheSettings
    breaker: Breaker
    near: NearCache | None
    reader: Caller


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
        self.breaker = Breaker(cache, settings.cache.read_timeout)
        roles.topology(Role.CACHE).on_change(self._follow)
        self._relay: Relay | None = None
        if isinstance(database, Outbox):
            self._relay = Relay(database, self._drop_owed)
        backing = Backing(database, self._told)
        self.near: NearCache | None = None
        if settings.cache.near:
            homes = roles.homes(Role.CACHE)
            self.near = NearCache(homes, max_bytes=settings.cache.near_bytes)

        def way(name: str) -> _Way:
            return _Way(
                settings=settings.cache,
                breaker=self.breaker,
                near=self.near if name in settings.cache.near else None,
                reader=roles.reader(Role.CACHE),
            )

        ttl = settings.ttl
        self.accounts = AccountCache(
            cache, keys, ttl.account, backing.updates, backing.accounts, **way("accounts")
        )
        self.positions = PositionCache(
            cache, keys, ttl.positions, backing.updates, backing.positions, **way("positions")
        )
        self.symbols = SymbolCache(
            cache, keys, ttl.symbol, backing.symbols, backing.save_symbols, **way("symbols")
        )
        self.prices = PriceCache(cache, keys, ttl.price, **way("prices"))
        self.sessions = SessionCache(
            cache, keys, ttl.session, settings.sessions, breaker=self.breaker
        )
        probing = Probing(pubsub, keys, settings.channels.probe_interval)
        self.hub = Hub(roles.homes(Role.PUBSUB), probing)
        self.market_data = MarketData(
            cache,
            pubsub,
            self.hub,
            keys,
            ttl.price,
            settings.channels,
            settings.market_data,
            one_server=roles.share_server(Role.CACHE, Role.PUBSUB),
            clustered=not all(roles.share_server(r, r) for r in (Role.CACHE, Role.PUBSUB)),
        )
        self.feeds = TickMeter()
        self.board = PriceBoard(self.market_data, cache, keys, ttl.price)
        self.marked = Marked(
            self.accounts,
            self.positions,
            self.symbols,
            self.prices,
            self.board,
            backed=database is not None,
        )
        homes, patience = roles.homes(Role.PUBSUB), settings.pool.read_timeout
        self.executions: Journal[Execution] = Journal(
            pubsub,
            homes,
            self.hub,
            lambda id: keys.executions(int(id)),
            codecs.decode_execution,
            settings.channels,
            patience,
        )
        self.alerts: Journal[Alert] = Journal(
            pubsub, homes, self.hub, keys.alerts, codecs.decode_alert, settings.channels, patience
        )
        self.alert_rules = AlertRules(pubsub, keys, settings.alerts, self._engine)
        self.limits = Limits(
            roles.pool(Role.LIMITS),
            keys,
            settings.named_limits,
            settings.limiter,
            one_server=roles.share_server(Role.LIMITS, Role.LIMITS),
            concurrency=settings.concurrency,
        )

    def _engine(self, store: RuleStore, stats: AlertRuleStats) -> AlertEngine:
        return AlertEngine(
            store,
            self.market_data,
            self.alerts,
            self.marked,
            self.symbols,
            self.prices,
            self.settings.alerts,
            stats,
            self.settings.ttl.price,
        )

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._close)
        await self.limits.open()
        if self.near is not None:
            await self.near.open()
        if self._relay is not None:
            await stack.enter_async_context(self._relay)

    async def _close(self) -> None:
        await self.alert_rules.close()
        await self.limits.close()
        for cache in (self.accounts, self.positions, self.symbols, self.prices, self.sessions):
            await cache.close()
        if self.near is not None:
            await self.near.close()
        await self.breaker.close()
        await self.board.close()
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

    def _follow(self) -> None:
        """The cache's servers have changed: what they were told may have to be told again."""
        self.breaker.doubt()
        self.breaker.hurry()

    def _told(self, debt: int) -> None:
        if self._relay is not None:
            self._relay.done(debt)

    async def _drop_owed(self, owed: Sequence[Owed]) -> None:
        """What an update that died, or another program, has left in the outbox."""
        drops: list[Awaitable[bool]] = []
        for one in owed:
            if one.entity == "symbol":
                drops.append(self.symbols.invalidate(str(one.key)))
            else:
                id = int(one.key)
                drops.append(self.accounts.invalidate(id, version=one.version))
                drops.append(self.positions.invalidate(id, version=one.version))
        if not all(await asyncio.gather(*drops)):
            raise Unavailable("the server of the caches is away; the outbox waits for it")

    async def read(self, key: str) -> object:
        """A cached value, or one field of it, by its key: `account:1` or `account:1:balance`.

        The general form is `{namespace}:{entity}:{id}:{field}`, with this layer's namespace. None
        when there is no value. Raises `UnknownName`, and as `get` of the cache.
        """
        entity, rest = self.keys.parts(key)
        if entity == "account":
            return await _read(self.accounts, *_numbered(key, rest))
        if entity == "positions":
            return await _read(self.positions, *_numbered(key, rest))
        if entity == "symbol":
            return await _read(self.symbols, *_named(rest, SymbolSpec))
        if entity == "price":
            return await _read(self.prices, *_named(rest, Price))
        raise UnknownName(
            f"{key!r} is no key that can be read here; there are account, positions, symbol and "
            f"price, such as {self.keys.account(1)!r}"
        )

    async def health(self) -> Health:
        """Ask every part whether it answers, all at once; takes at most 1 s, never raises."""
        return await ask_health(self._roles, self.hub, self.breaker, self.limits, self.database)

    def pool(self, role: Role) -> Caller:
        """What a role's commands are sent with: for caches and scripts of your own."""
        return self._roles.pool(role)

    def nodes(self, patience: float) -> Nodes:
        """The servers and sentinels behind the roles, each to be connected to within `patience` s.

        Raises `SettingsError` when a password file cannot be read.
        """
        return Nodes(self.settings, self._roles, patience)

    def timings(self) -> dict[str, dict[str, Timing]]:
        """How long things took, by part: `cache.prices` by how reads ended, `channel.executions`.

        Of a channel it is how old the messages are that come in, by the clock of their writer.
        """
        caches = {
            "accounts": self.accounts.times,
            "prices": self.prices.times,
            "positions": self.positions.times,
            "symbols": self.symbols.times,
            "sessions": self.sessions.times,
        }
        found = {
            f"cache.{name}": {"hit": each.hit, "miss": each.miss, "fallback": each.fallback}
            for name, each in caches.items()
        }
        found["channel.market_data"] = {"": self.market_data.lag}
        found["channel.executions"] = {"": self.executions.lag}
        found["channel.alerts"] = {"": self.alerts.lag}
        return found

    def stats(self) -> dict[str, dict[str, int | float | Mapping[str, int]]]:
        """Counters of every part, by part, such as `cache.prices` and `limit.orders`."""
        parts: dict[str, _Counters] = {
            "cache.accounts": self.accounts.stats,
            "cache.prices": self.prices.stats,
            "cache.positions": self.positions.stats,
            "cache.symbols": self.symbols.stats,
            "cache.sessions": self.sessions.stats,
            "board": self.board.stats,
            "marked": self.marked.stats,
            "breaker": self.breaker.stats,
            "hub": self.hub.stats,
            "channel.market_data": self.market_data.stats,
            "publisher": self.market_data.publisher_stats,
            "channel.executions": self.executions.stats,
            "channel.alerts": self.alerts.stats,
            "alert_rules": self.alert_rules.stats,
        }
        if self.near is not None:
            parts["near"] = self.near.stats
        parts.update({f"limit.{name}": limit.stats for name, limit in self.limits.items()})
        places = self.limits.concurrency
        parts.update({f"concurrency.{name}": limit.stats for name, limit in places.items()})
        parts.update({f"wire.{role.value}": self._roles.pool(role).stats for role in Role})
        found = {name: _as_dict(counters) for name, counters in parts.items()}
        for role in Role:
            found[f"topology.{role.value}"] = {"switches": self._roles.switches(role)}
        return found


async def _read(cache: Cache[K, V], id: K, name: str) -> object:
    return await (cache.field(id, name) if name else cache.get(id))


def _numbered(key: str, rest: str) -> tuple[int, str]:
    number, _, name = rest.partition(":")
    if not number.isdecimal():
        raise UnknownName(f"{key!r} has no number of an account in it")
    return int(number), name


def _named(rest: str, kind: type[Price | SymbolSpec]) -> tuple[str, str]:
    """A symbol, which may have colons in its name, and a field if the last part of it is one."""
    symbol, _, name = rest.rpartition(":")
    return (symbol, name) if symbol and name in fields_of(kind) else (rest, "")


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
        await layer._open(stack)
        yield layer
