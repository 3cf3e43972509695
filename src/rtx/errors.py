"""Every error that RTX raises, with the cause and the remedy in its message.

`RtxError` is the base. The facts a program may act on are attributes:

- `code`: a stable word for logs and for clients of the gateway;
- `retryable`: whether the same call can succeed later without a change by the caller;
- `maybe_applied` (on `Unavailable` and `DatabaseUnavailable`): whether the server may have carried
  the command out.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class RtxError(Exception):
    """Base of every error raised on purpose by this package."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class SettingsError(RtxError):
    """A setting is missing, malformed or contradicts another."""

    code = "settings"


class MissingExtra(RtxError):
    """A part was used whose optional dependency is not installed."""

    code = "missing_extra"

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(
            f"{module} is not installed; install it with: pip install 'rtx-datalayer[{extra}]'"
        )
        self.extra = extra


# --- reaching the server -------------------------------------------------------------------


class Unavailable(RtxError):
    """Redis or Valkey could not be reached, or did not answer in time.

    `maybe_applied` is False when the command never left this process, so that sending it again
    cannot do it twice; True when it was sent and its reply is unknown.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class ConnectFailed(Unavailable):
    """No connection could be opened: refused, unreachable, timed out, or TLS failed."""

    code = "connect_failed"


class ConnectionLost(Unavailable):
    """The connection broke while the command waited for its reply."""

    code = "connection_lost"


class CallTimeout(Unavailable):
    """The reply did not come before the call's deadline."""

    code = "timeout"


class PoolExhausted(Unavailable):
    """Every connection was full and none had room within `pool_timeout`."""

    code = "pool_exhausted"


class NotReplicated(Unavailable):
    """Too few replicas have what a durable publish wrote, or are there to have it.

    `acknowledged` of the `wanted` replicas had it in time. With `maybe_applied` the message is
    published and may be lost in a failover; without it nothing was done.
    """

    code = "not_replicated"

    def __init__(
        self, message: str, *, maybe_applied: bool = False, acknowledged: int = 0, wanted: int = 0
    ) -> None:
        super().__init__(message, maybe_applied=maybe_applied)
        self.acknowledged = acknowledged
        self.wanted = wanted


class ProtocolViolation(ConnectionLost):
    """The peer sent bytes that are not RESP3, or a reply nobody asked for."""

    code = "protocol"


class UnsafeCommand(RtxError):
    """A command that would harm the other callers of a shared connection; it was not sent."""

    code = "unsafe_command"


class NotInCluster(RtxError):
    """Asked of a cluster what only a single server can do."""

    code = "not_in_cluster"


# --- replies that are errors ---------------------------------------------------------------


class ServerError(RtxError):
    """The server answered with an error; `prefix` is its first word, such as `WRONGTYPE`."""

    code = "server_error"

    def __init__(self, message: str, prefix: str = "ERR") -> None:
        super().__init__(message)
        self.prefix = prefix


class AccessDenied(ServerError):
    """The server refused the credentials, asked for some, or the ACL forbids the command."""

    code = "access_denied"


class NotWritable(ServerError):
    """The server takes no writes now: a read-only replica, or too few replicas to write."""

    code = "not_writable"
    retryable = True


class ServerBusy(ServerError):
    """The server is loading its data, is in a long script, or its master is down."""

    code = "server_busy"
    retryable = True


class OutOfMemory(ServerError):
    """The server is at `maxmemory` and may evict nothing for this write."""

    code = "out_of_memory"
    retryable = True


# --- the system of record ------------------------------------------------------------------


class DatabaseUnavailable(RtxError):
    """The database behind the caches could not answer.

    `maybe_applied` is True when a commit failed whose outcome is unknown, such as when the
    connection was lost meanwhile; False when nothing was stored.
    """

    code = "database_unavailable"
    retryable = True

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class NotFound(RtxError):
    """The thing asked for does not exist in the system of record."""

    code = "not_found"


class Duplicate(RtxError):
    """What was to be stored is already there, such as an order id recorded before."""

    code = "duplicate"


class Conflict(RtxError):
    """What was to be changed has been changed by somebody else since it was read."""

    code = "conflict"
    retryable = True


class UnknownName(RtxError):
    """There is no such field or kind of key; the message names those that there are."""

    code = "unknown_name"


# --- market data ---------------------------------------------------------------------------


class BadTick(RtxError):
    """A tick was refused; `reason` is a stable word such as `crossed` or `jump`."""

    code = "bad_tick"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotPublished(RtxError):
    """A publisher could not write ticks that were given to it; `lost` counts them by reason."""

    code = "not_published"
    retryable = True

    def __init__(self, message: str, lost: Mapping[str, int]) -> None:
        super().__init__(message)
        self.lost = lost


class BadRule(RtxError):
    """An alert rule cannot be one; `field` names what is wrong with it."""

    code = "bad_rule"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class FeedError(RtxError):
    """A price source cannot be read: no such file, an unknown layout, refused credentials."""

    code = "feed"


class SubscriptionClosed(RtxError):
    """The subscriber fell behind and its policy is to be disconnected."""

    code = "subscription_closed"
    retryable = True


def anew(error: E) -> E:
    """The same error for one more caller; an object of all would gather everyone's traceback."""
    try:
        another = copy(error)
    except Exception:  # an error of somebody else's, which cannot be made from its own arguments
        return error
    another.__cause__ = error.__cause__
    return another
