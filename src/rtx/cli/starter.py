"""A starter rtx.toml, made from the settings themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap

from pydantic import BaseModel, SecretStr

from rtx.security import LoginSettings
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings

_HEAD = """\
# Settings of RTX. Every line that begins with "#" and a name is a setting at its default: take the
# "#" away to change it. The environment goes before this file: RTX_URL, RTX_POOL__SIZE=50.
# Times are seconds, or text such as "250ms", "5m", "1h". `rtx config check` checks this file,
# `rtx config show` shows what is in force.
"""

_COMMENTS = {
    "url": "server of all roles: redis://[user:password@]host:6379, rediss://, unix:///path, "
    "embedded://[directory] (one of our own)",
    "cache_url": "server of the caches, if it is another: allkeys-lru, no durability needed",
    "pubsub_url": "server of channels and their logs, if it is another: noeviction, AOF, replicas",
    "limits_url": "server of the rate limits, if it is another: noeviction",
    "namespace": "put before every key and channel, so that several systems can share a server",
    "database_url": "system of record: sqlite+aiosqlite:///file.db or "
    "postgresql+asyncpg://user:password@host/name; without one there is none",
    "client_name": "name of our connections in CLIENT LIST",
    "concurrency": "how many may hold a place at once for an id, by name",
    "pool": "connections to one server for one role; each carries many calls at once",
    "pool.size": "connections at most",
    "pool.min_idle": "spare connections kept warm",
    "pool.max_age": "a connection is replaced after this long",
    "pool.pool_timeout": "wait for room when all connections are full",
    "pool.idle_timeout": "a spare connection is closed after this long",
    "pool.connect_timeout": "wait for a new connection",
    "pool.read_timeout": "wait for a reply",
    "pool.write_timeout": "wait for a command to be sent",
    "pool.max_retries": "how often a call is sent again, where that cannot do it twice",
    "pool.max_in_flight": "calls that may await replies on one connection",
    "pool.max_reply": "bytes of the largest reply that is read",
    "login": "user and password for servers whose URL has none",
    "login.username": "the ACL user; without one it is the default user",
    "login.password": "its password, here or in the URL",
    "login.password_file": "or the file that has it, so that it is in no environment",
    "cache_login": "the caches' own user, where it is another",
    "pubsub_login": "the channels' own user, where it is another",
    "limits_login": "the rate limits' own user, where it is another",
    "sentinel_login": "user and password of the sentinels themselves",
    "metrics_login": "who looks at the servers for their metrics, where it is another",
    "tls": "TLS of rediss:// URLs; files are PEM",
    "tls.ca": "certificate of the authority that signed the server's, if it is your own",
    "tls.cert": "our certificate, where the server asks for one",
    "tls.key": "the key of our certificate, if it is not in the same file",
    "tls.verify": "false trusts any server: for experiments on one machine only",
    "ttl": "how long each cached value is fresh",
    "ttl.account": "accounts: account:{id}",
    "ttl.price": "latest prices: price:{symbol}",
    "ttl.positions": "open positions: positions:{account}",
    "ttl.symbol": "terms of trade: symbol:{symbol}",
    "ttl.session": "logins of the gateway: session:{token}",
    "reads": "which servers answer plain reads of the caches",
    "reads.cache_from": '"replica": one that is near enough to its primary, where the URL is that '
    "of sentinels or of a cluster",
    "reads.max_lag": "how old an answer of a replica may be",
    "cache": "how caches read, fill and fall back to the database",
    "cache.read_timeout": "the server's time to answer what the database could answer too",
    "cache.absent_ttl": "an id that the database does not have is known to be absent this long",
    "cache.lease": "who died while reading the database for all is replaced after this long",
    "cache.max_loads": "reads of the database at once, for each kind of value",
    "cache.near": 'caches kept decoded in this process: "accounts", "positions", "symbols"',
    "cache.near_bytes": "memory of what is kept near, about",
    "cache.decoded": "values of each cache kept decoded by their bytes; 0 for none",
    "cache.stale_if_error": '["symbols"]: specs last seen are served while all is away',
    "sessions": "when logins of the gateway end by themselves",
    "sessions.expiry": '"fixed": ttl.session after the login; "sliding": after the last use',
    "sessions.max_age": "sliding: the latest end, counted from the login",
    "channels": "market data, executions and alerts",
    "channels.log_size": "executions, or alerts, kept per account for subscribers who were away",
    "channels.log_ttl": "a log is dropped this long after its last message",
    "channels.durable": "whether each publish waits until replicas have it",
    "channels.durable_replicas": "how many must have it",
    "channels.durable_timeout": "how long they have for that",
    "channels.publish_deadline": "how long a publish with a key is tried",
    "channels.poll_interval": "how often a log is asked for what no message told of",
    "channels.queue_size": "messages that a subscriber in this process may lag",
    "channels.probe_interval": "how often a subscriber connection is asked if it lives and hears",
    "market_data": "which ticks are refused, and the queue of a feed's publisher",
    "market_data.in_order": 'no step back in time: of a "symbol", of each "provider" of it, "off"',
    "market_data.max_jump": "a mid may be so far from the last good one: 0.1 is 10 %",
    "market_data.max_jump_of": "the same for single symbols",
    "market_data.agree": "ticks in a row that make a jump the new level",
    "market_data.settle": "a symbol of which only refused ticks come for so long is believed",
    "market_data.queue_size": "ticks that may wait in a publisher",
    "market_data.close_timeout": "what a closing publisher gets to write what it still has",
    "limits": "rate limits: at most `limit` hits in any window of `per`; names of your own too",
    "limits.limit": "hits allowed in a window",
    "limits.per": "the window",
    "limits.algorithm": '"sliding_log" is exact; "sliding_counter", two numbers a key, is for '
    "very high limits",
    "limits.when_down": 'while the server is away: "closed" denies, "open" allows, "local" counts '
    "in this process",
    "limiter": "what all rate limits share",
    "limiter.deadline": "the server's time to decide a hit; after it `when_down` does",
    "limiter.processes": 'processes that share the limits, for `when_down = "local"`',
    "limiter.local_for": "how long `local` counts before it is closed",
    "alerts": "alert rules: evaluated by `rtx alerts run`, or by `rtx serve`",
    "alerts.enabled": "`rtx serve` evaluates them too",
    "alerts.per_account": "rules that an account may have",
    "alerts.margin_every": "a margin level is checked once in this time at most",
    "alerts.owed": "firings kept while the server is away",
    "gateway": "HTTP, WebSocket and SSE for clients that do not speak Redis",
    "gateway.host": "address to listen on; 0.0.0.0 is all of this machine",
    "gateway.port": "port to listen on; 0 takes a free one",
    "gateway.auth": '"required": accounts and orders need a login; "open": nothing does',
    "gateway.max_connections": "streams (WebSocket and SSE) at once",
    "gateway.send_queue": "messages that a slow client may lag",
    "gateway.heartbeat": "how often a stream is told the state, and asked if it lives",
    "gateway.trusted_proxies": "addresses whose X-Forwarded-For is believed, such as 10.0.0.0/8",
    "telemetry": "OpenTelemetry, with the SDK that the program has set up",
    "telemetry.spans": '"children" of spans that are recorded, of "all" calls, or "off"',
    "telemetry.metrics": "whether the durations of calls go there too",
}

# What is not set by default cannot be written down; these lines show the form.
_EXAMPLES = {
    "cache_url": "redis://cache.example:6379",
    "pubsub_url": "redis://state.example:6379",
    "limits_url": "redis://state.example:6379",
    "database_url": "sqlite+aiosqlite:///rtx.db",
    "concurrency": {"imports": {"limit": 2, "lease": 30.0}},
    "login.username": "app",
    "login.password": "secret",
    "login.password_file": "/run/secrets/redis",
    "tls.ca": "/etc/rtx/ca.pem",
    "tls.cert": "/etc/rtx/client.pem",
    "tls.key": "/etc/rtx/client.key",
    "market_data.max_jump": 0.1,
    "market_data.max_jump_of": {"BTCUSD": 0.2},
}

_USERS = """\
# Logins: the name, its password (from `rtx config hash-password`), and the accounts it may use.
#[gateway.users.alice]
#password_hash = "scrypt$…"
#accounts = [1, 2]
"""


def starter() -> str:
    """The text of the file; what it leaves out or comments out is a default."""
    settings = Settings.model_construct()
    lines = [_HEAD, *_section(settings, "")]
    for name in Settings.model_fields:
        part = getattr(settings, name)
        if isinstance(part, BaseModel):
            lines += ["", f"# {_COMMENTS[name]}", f"[{name}]", *_section(part, f"{name}.")]
        elif name == "limits":
            lines += ["", f"# {_COMMENTS[name]}"]
            lines += _limits(settings.named_limits)
    return "\n".join([*lines, "", _USERS])


def _section(part: BaseModel, prefix: str) -> Iterator[str]:
    if isinstance(part, LoginSettings):
        prefix = "login."
    for name in type(part).model_fields:
        value = getattr(part, name)
        example = _EXAMPLES.get(prefix + name)
        if isinstance(value, BaseModel | Mapping) and example is None:
            continue
        default = "" if example is None else " (not set by default)"
        yield from _comment(f"{_COMMENTS[prefix + name]}{default}")
        yield f"#{name} = {_toml(value if example is None else example)}"


def _comment(text: str) -> list[str]:
    return wrap(text, 98, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _limits(limits: Mapping[str, LimitSettings]) -> Iterator[str]:
    for name, limit in limits.items():
        yield f"[limits.{name}]"
        yield from (
            f"{field} = {_toml(getattr(limit, field))}" for field in LimitSettings.model_fields
        )


def _toml(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value:_}" if isinstance(value, int) and value >= 10_000 else f"{value}"
