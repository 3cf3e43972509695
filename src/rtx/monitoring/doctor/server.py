"""What a server says of itself: the facts that the checks judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rtx import urls
from rtx.errors import RtxError, ServerError
from rtx.topology import Role
from rtx.wire import Caller, Reply


@dataclass(frozen=True, slots=True)
class Server:
    """One server and the roles it plays, as it was when it was looked at.

    `info` and `config` are the server's own names and texts; `config` is empty when it may not be
    read. `error` says why the server could not be looked at; then the rest is empty. `default_user`
    is the default user's ACL, as words such as `on`, `nopass` and `+@all`.
    """

    url: str
    location: urls.Location
    roles: frozenset[Role]
    error: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    default_user: tuple[str, ...] = ()

    @property
    def role_names(self) -> tuple[str, ...]:
        """Names of the roles, in their usual order."""
        return tuple(role.value for role in Role if role in self.roles)

    @property
    def has_state(self) -> bool:
        """Whether it has what no other place has: logs of executions, or limits."""
        return bool(self.roles & {Role.PUBSUB, Role.LIMITS})

    @property
    def has_cache(self) -> bool:
        return Role.CACHE in self.roles

    @property
    def is_valkey(self) -> bool:
        return "valkey_version" in self.info

    @property
    def version(self) -> str:
        """The product and its version, such as `Valkey 9.1.2`."""
        if self.is_valkey:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info['redis_version']}" if "redis_version" in self.info else ""

    def number(self, name: str) -> int:
        """A number of INFO; 0 when it is not there."""
        text = self.info.get(name, "0")
        return int(text) if text.isdecimal() else 0

    @property
    def loopback_only(self) -> bool:
        """Whether only programs on its own machine can connect."""
        if self.config.get("port") == "0" and self.config.get("tls-port", "0") == "0":
            return True
        bound = [word.removeprefix("-") for word in self.config.get("bind", "").split()]
        return bool(bound) and all(_is_loopback(word) for word in bound)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def is_remote(location: urls.Location) -> bool:
    """Whether the way to it may leave this machine."""
    addresses: tuple[urls.Address, ...]
    match location:
        case urls.Embedded():
            addresses = ()
        case urls.Standalone():
            addresses = (location.address,)
        case urls.Sentinel():
            addresses = location.sentinels
        case urls.Cluster():
            addresses = location.nodes
    return any(each.path is None and not _is_loopback(each.host) for each in addresses)


async def look_at(
    pool: Caller, url: str, location: urls.Location, roles: Iterable[Role]
) -> tuple[str, Server]:
    """The id of the server's run, and the facts; a server that says nothing has an `error`."""
    try:
        info = _info(await pool.call("INFO"))
    except RtxError as error:
        return "", Server(url, location, frozenset(roles), error=str(error))
    return info.get("run_id", ""), Server(
        url,
        location,
        frozenset(roles),
        info=info,
        config=_pairs(await _ask(pool, "CONFIG", "GET", "*")),
        default_user=_words(await _ask(pool, "ACL", "LIST")),
    )


async def _ask(pool: Caller, *command: str) -> Reply:
    """The reply, or None where this user may not ask or the server does not know."""
    try:
        return await pool.call(*command)
    except ServerError:
        return None


def _info(reply: Reply) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def _pairs(reply: Reply) -> dict[str, str]:
    """CONFIG GET as RESP3 has it (a map) or as RESP2 (names and values in turn)."""
    if isinstance(reply, dict):
        items = list(reply.items())
    elif isinstance(reply, list):
        items = list(zip(reply[::2], reply[1::2], strict=False))
    else:
        return {}
    return {_text(name): _text(value) for name, value in items}


def _words(reply: Reply) -> tuple[str, ...]:
    """The rules of the default user: `user default on nopass ~* &* +@all` without its name."""
    for line in reply if isinstance(reply, list) else ():
        words = _text(line).split()
        if words[:2] == ["user", "default"]:
            return tuple(words[2:])
    return ()


def _text(value: Reply) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
