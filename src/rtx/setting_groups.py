"""The groups of settings, one for each part of the layer; durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from rtx.security import Part

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> object:
    """Accept `1.5`, `"250ms"`, `"1s"`, `"5m"`, `"1h"`, `"1d"`."""
    if isinstance(value, str):
        for unit, factor in _UNITS.items():
            number = value.removesuffix(unit)
            if number != value:
                try:
                    return float(number) * factor
                except ValueError:
                    continue
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]


class PoolSettings(Part):
    """Connections to one server for one role; times in seconds.

    A connection carries many calls at once, so few are open at most times: the next is opened when
    the others are full.
    """

    size: int = Field(100, ge=1)
    min_idle: int = Field(10, ge=0)
    max_age: Seconds = 300.0
    pool_timeout: Seconds = 4.0
    idle_timeout: Seconds = 300.0
    connect_timeout: Seconds = 3.0
    read_timeout: Seconds = 3.0
    write_timeout: Seconds = 3.0
    max_retries: int = Field(3, ge=0)
    max_in_flight: int = Field(10_000, ge=1, description="calls awaiting replies, a connection")
    max_reply: int = Field(64 * 2**20, ge=2**20, description="bytes of one reply")


class TTLSettings(Part):
    """How long each cached value is fresh, in seconds."""

    account: Seconds = 60.0
    price: Seconds = 1.0
    positions: Seconds = 30.0
    symbol: Seconds = 3600.0
    session: Seconds = 86_400.0


class SessionSettings(Part):
    """How sessions expire; times in seconds.

    `fixed`: `ttl.session` after the login. `sliding`: `ttl.session` after the last use, and at the
    latest `max_age` after the login.
    """

    expiry: Literal["fixed", "sliding"] = "fixed"
    max_age: Seconds = 7 * 86_400.0


class CacheSettings(Part):
    """How the caches read, fill and fall back; times in seconds.

    `read_timeout` is what the server gets to answer a read that the database could answer too.
    `near` names the caches whose values this process keeps decoded, in `near_bytes` for all.
    """

    read_timeout: Seconds = 0.1
    absent_ttl: Seconds = 2.0
    lease: Seconds = 2.0
    max_loads: int = Field(4, ge=1, description="reads of the database at once, each kind of value")
    near: tuple[Literal["accounts", "positions", "symbols"], ...] = ()
    near_bytes: int = Field(64 * 2**20, ge=2**20, description="memory of the near cache, about")
    decoded: int = Field(4_096, ge=0, description="values kept decoded by their bytes, each cache")
    stale_if_error: tuple[str, ...] = ()

    @field_validator("stale_if_error")
    @classmethod
    def _no_money(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name != "symbols":
                why = {
                    "accounts": "a balance that may be wrong is no balance",
                    "positions": "a position that may be closed is no position",
                    "prices": "an old price is no price",
                    "sessions": "a session may have been revoked",
                }.get(name, "there is no such cache")
                raise ValueError(f'{why}; leave {name!r} out, only "symbols" may be stale')
        return value


class ReadSettings(Part):
    """Which servers may answer plain reads of the caches.

    With `replica` an answer may be up to `max_lag` seconds old.
    """

    cache_from: Literal["primary", "replica"] = "primary"
    max_lag: Seconds = 1.0


class LimitSettings(Part):
    """At most `limit` hits in any window of `per` seconds; `when_down` decides without a server."""

    limit: int = Field(ge=1, le=1_000_000_000)
    per: Seconds
    algorithm: Literal["sliding_log", "sliding_counter"] = "sliding_log"
    when_down: Literal["closed", "open", "local"] = "closed"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm == "sliding_log" and self.limit > 100_000:
            raise ValueError(
                "the exact log keeps a time for each hit, so its limit is at most 100,000; "
                'set algorithm = "sliding_counter" for more'
            )
        return self


class ConcurrencySettings(Part):
    """At most `limit` at once for an id; a holder that dies keeps its place for `lease` seconds."""

    limit: int = Field(ge=1, le=100_000)
    lease: Seconds = Field(30.0, ge=0.1)
    when_down: Literal["closed", "open", "local"] = "closed"


class LimiterSettings(Part):
    """What all limits share; times in seconds.

    `deadline` is what the server gets to decide a hit; after it `when_down` does. `processes` and
    `local_for` are for `when_down = "local"`.
    """

    deadline: Seconds = 0.2
    processes: int = Field(1, ge=1, description="processes that share the limits")
    local_for: Seconds = Field(30.0, gt=0, le=30)


class ChannelSettings(Part):
    """Pub/Sub: capped logs and the bound of each local subscriber's queue; times in seconds.

    With `durable` a publish of executions and alerts waits until `durable_replicas` have it, for
    `durable_timeout` at most. One with a key is tried for `publish_deadline`. Logs are compared
    with what their subscribers have every `poll_interval`.
    """

    log_size: int = Field(10_000, ge=1, description="executions or alerts kept per account")
    log_ttl: Seconds = 7 * 86_400.0
    durable: bool = False
    durable_replicas: int = Field(1, ge=1)
    durable_timeout: Seconds = 1.0
    publish_deadline: Seconds = 10.0
    poll_interval: Seconds = 0.8
    queue_size: int = Field(10_000, ge=1, description="messages a local subscriber may lag")
    probe_interval: Seconds = 1.0


class MarketDataSettings(Part):
    """Which ticks are refused, and how a publisher waits; times in seconds.

    `in_order` is whose ticks must not step back in time: all of a symbol, or those that one
    provider has of it. Jumps are fractions of the last good mid: 0.1 is 10 %. `max_jump_of` has
    those of single symbols. See `rtx.pubsub.guard` for the rules.
    """

    in_order: Literal["symbol", "provider", "off"] = "symbol"
    max_jump: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_jump_of: Mapping[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    agree: int = Field(3, ge=1, description="ticks in a row that make a jump a new level")
    settle: Seconds = 1.0
    queue_size: int = Field(10_000, ge=1, description="ticks that may wait in a publisher")
    close_timeout: Seconds = 3.0


class TelemetrySettings(Part):
    """OpenTelemetry, with the SDK that the program has set up; see `rtx.telemetry`.

    `children` makes a span of a call where a span that is recorded is active, `all` of every call.
    """

    spans: Literal["off", "children", "all"] = "off"
    metrics: bool = False


class AlertSettings(Part):
    """Alert rules; times in seconds.

    `enabled` lets `rtx serve` evaluate them. A margin level is checked once in `margin_every` at
    most.
    """

    enabled: bool = False
    per_account: int = Field(1_000, ge=1, description="rules that an account may have")
    margin_every: Seconds = 1.0
    owed: int = Field(10_000, ge=1, description="firings kept while the server is away")


class UserSettings(Part):
    """A login of the gateway; `password_hash` comes from `rtx config hash-password`."""

    password_hash: SecretStr
    accounts: tuple[int, ...] = ()


class GatewaySettings(Part):
    """HTTP, WebSocket and SSE for clients that do not speak Redis."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    auth: Literal["required", "open"] = "required"
    users: Mapping[str, UserSettings] = {}
    max_connections: int = Field(10_000, ge=1)
    send_queue: int = Field(1_000, ge=1, description="messages a slow client may lag")
    heartbeat: Seconds = 15.0
    trusted_proxies: tuple[str, ...] = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                _ = name == "unix" or ip_network(name, strict=False)
            except ValueError:
                raise ValueError(
                    f"{name!r} is no address and no network; write 10.0.0.7 or 10.0.0.0/8, or unix "
                    "for a proxy on a Unix socket"
                ) from None
        return value
