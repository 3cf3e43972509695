"""Where a server is: URLs parsed into one frozen type per topology.

redis://[user:password@]host[:6379][/db]        valkey:// says the same
rediss://…                                      the same over TLS
unix://[user:password@]/path/to.sock[?db=0]
redis+sentinel://[user:password@]h1:26379,h2:26379/service[/db]
redis+cluster://[user:password@]h1:6379,h2:6379
embedded://[directory]                          a server of our own, gone with us if no directory
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from rtx.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password sent at connect; the repr shows neither secret nor its length."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.password is None:
            return ""
        return f"{self.username or ''}:***@"


NO_CREDENTIALS = Credentials()


@dataclass(frozen=True, slots=True)
class Address:
    """A server's place: host and port, or the path of a unix socket."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A server started by this process; with a directory its data outlives the process."""

    directory: str | None = None

    def __str__(self) -> str:
        return f"embedded://{self.directory or ''}"


@dataclass(frozen=True, slots=True)
class Standalone:
    """One server; `db` None leaves each role its own database number."""

    address: Address
    credentials: Credentials = NO_CREDENTIALS
    db: int | None = None
    tls: bool = False

    def __str__(self) -> str:
        db = "" if self.db is None else f"/{self.db}"
        if self.address.path is not None:
            query = "" if self.db is None else f"?db={self.db}"
            return f"unix://{self.credentials}{self.address.path}{query}"
        return f"redis{'s' if self.tls else ''}://{self.credentials}{self.address}{db}"


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A primary found through sentinels by its service name."""

    sentinels: tuple[Address, ...]
    service: str
    credentials: Credentials = NO_CREDENTIALS
    db: int | None = None
    tls: bool = False

    def __str__(self) -> str:
        hosts = ",".join(map(str, self.sentinels))
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}+sentinel://{self.credentials}{hosts}/{self.service}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, entered through any of its nodes."""

    nodes: tuple[Address, ...]
    credentials: Credentials = NO_CREDENTIALS
    tls: bool = False

    def __str__(self) -> str:
        hosts = ",".join(map(str, self.nodes))
        return f"redis{'s' if self.tls else ''}+cluster://{self.credentials}{hosts}"


Location: TypeAlias = Embedded | Standalone | Sentinel | Cluster


def with_credentials(location: Location, credentials: Credentials) -> Location:
    """The location with this login, unless it has one or is embedded."""
    if isinstance(location, Embedded) or location.credentials != NO_CREDENTIALS:
        return location
    return replace(location, credentials=credentials)


FORMS = (
    "redis://host:6379, rediss://host:6379, unix:///path, redis+sentinel://h1:26379,h2:26379/name, "
    "redis+cluster://h1:6379,h2:6379 or embedded://[directory]"
)


def parse(url: str) -> Location:
    """Parse a URL; raise `SettingsError`, which never repeats a password, when it is malformed."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        raise SettingsError(f"a URL begins with a scheme and ://; use {FORMS}")
    scheme = scheme.replace("valkey", "redis", 1)
    if scheme == "embedded":
        return Embedded(directory=rest or None)
    if scheme not in _SCHEMES:
        raise SettingsError(f"unknown URL scheme {scheme!r}; use {FORMS}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
    except ValueError:
        raise SettingsError(f"malformed {scheme} URL; use {FORMS}") from None
    if scheme != "unix" and "@" in parts.path + parts.query + parts.fragment:
        raise SettingsError(
            f"malformed login in a {scheme} URL; write / ? # in a user or password as %2F %3F %23"
        )
    query = dict(parse_qsl(parts.query))
    db = _db(query.pop("db", ""), scheme)
    if query or parts.fragment:
        what = ", ".join(query) or "a fragment"
        raise SettingsError(f"unknown part in a {scheme} URL: {what}; only ?db= is understood")
    login, hosts = _login(parts)
    return _SCHEMES[scheme](scheme, hosts, parts.path, login, db)


def _standalone(
    scheme: str, hosts: str, path: str, login: Credentials, db: int | None
) -> Standalone:
    addresses = _addresses(hosts or "127.0.0.1", 6379, scheme)
    if len(addresses) != 1:
        raise SettingsError(
            f"a {scheme}:// URL names one host; for several use redis+sentinel:// or redis+cluster://"
        )
    if path.strip("/"):
        db = _db(path.strip("/"), scheme)
    return Standalone(addresses[0], login, db, tls=scheme == "rediss")


def _unix(scheme: str, hosts: str, path: str, login: Credentials, db: int | None) -> Standalone:
    if hosts or len(path) < 2:
        raise SettingsError("a unix URL is unix:///absolute/path.sock[?db=0]")
    return Standalone(Address(host="", port=0, path=unquote(path)), login, db)


def _sentinel(scheme: str, hosts: str, path: str, login: Credentials, db: int | None) -> Sentinel:
    service, _, number = path.strip("/").partition("/")
    if not hosts or not service:
        raise SettingsError(
            "a sentinel URL names sentinels and a service: redis+sentinel://h1:26379,h2:26379/name"
        )
    tls = scheme.startswith("rediss")
    db = _db(number, scheme) if number else db
    return Sentinel(_addresses(hosts, 26379, scheme), service, login, db, tls)


def _cluster(scheme: str, hosts: str, path: str, login: Credentials, db: int | None) -> Cluster:
    if not hosts or path.strip("/"):
        raise SettingsError("a cluster URL names nodes only: redis+cluster://h1:6379,h2:6379")
    return Cluster(_addresses(hosts, 6379, scheme), login, tls=scheme.startswith("rediss"))


_SCHEMES: dict[str, Callable[[str, str, str, Credentials, int | None], Location]] = {
    "redis": _standalone,
    "rediss": _standalone,
    "unix": _unix,
    "redis+sentinel": _sentinel,
    "rediss+sentinel": _sentinel,
    "redis+cluster": _cluster,
    "rediss+cluster": _cluster,
}


def _login(parts: SplitResult) -> tuple[Credentials, str]:
    """Split `user:password@hosts`; the hosts keep their case and their commas."""
    userinfo, _, hosts = parts.netloc.rpartition("@")
    if not userinfo:
        return NO_CREDENTIALS, hosts
    user, _, password = userinfo.partition(":")
    return Credentials(unquote(user) or None, unquote(password)), hosts


def _addresses(hosts: str, default_port: int, scheme: str) -> tuple[Address, ...]:
    return tuple(_address(item, default_port, scheme) for item in hosts.split(","))


def _address(item: str, default_port: int, scheme: str) -> Address:
    try:
        parts = urlsplit(f"//{item}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        # What follows the colon is not repeated: it may be the password of a URL without its @.
        raise SettingsError(
            f"malformed host or port in a {scheme} URL, at {item.partition(':')[0]!r}; "
            "write host or host:port"
        )
    return Address(host, port or default_port)


def _db(text: str, scheme: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise SettingsError(f"the database in a {scheme} URL is a number, not {text!r}")
    return int(text)
