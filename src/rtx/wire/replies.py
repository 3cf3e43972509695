"""What a server answers: typed replies and errors, and calls that await several replies."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from rtx.errors import AccessDenied, NotWritable, OutOfMemory, ServerBusy, ServerError

Reply: TypeAlias = (
    "bool | int | float | bytes | list[Reply] | dict[Reply, Reply] | ServerError | None"
)

_REMEDIES: dict[str, tuple[type[ServerError], str]] = {
    "NOAUTH": (AccessDenied, "the server asks for a password; put it into the URL or settings"),
    "WRONGPASS": (AccessDenied, "check user and password in the URL or settings"),
    "NOPERM": (AccessDenied, "grant the command, key or channel to this ACL user"),
    "DENIED": (AccessDenied, "protected mode: set a password, or bind to a loopback address"),
    "READONLY": (NotWritable, "this is a replica; write to the primary"),
    "NOREPLICAS": (NotWritable, "too few replicas are in touch (min-replicas-to-write)"),
    "MISCONF": (NotWritable, "the server cannot save to disk; free space or fix its directory"),
    "LOADING": (ServerBusy, "it is loading its data; try again shortly"),
    "BUSY": (ServerBusy, "a script has been running too long; SCRIPT KILL stops it"),
    "MASTERDOWN": (ServerBusy, "this replica has lost its primary"),
    "OOM": (OutOfMemory, "raise maxmemory, or allow eviction where that is right"),
}


def server_error(text: str) -> ServerError:
    """The typed error of an error reply such as `WRONGTYPE Operation against…`."""
    prefix = text.partition(" ")[0]
    if "ACL failure in script" in text or "can't run this command or subcommand" in text:
        prefix = "NOPERM"  # inside a script the denial comes in other words
    kind, remedy = _REMEDIES.get(prefix, (ServerError, ""))
    return kind(f"{text} ({remedy})" if remedy else text, prefix if prefix.isupper() else "ERR")


class Batch:
    """Several commands with one future, which gets the list of their replies, errors included."""

    __slots__ = ("_expected", "future", "replies")

    def __init__(self, future: asyncio.Future[list[Reply]], expected: int) -> None:
        self.future = future
        self.replies: list[Reply] = []
        self._expected = expected

    def take(self, reply: Reply) -> bool:
        """Add a reply; True when it was the last."""
        self.replies.append(reply)
        if len(self.replies) < self._expected:
            return False
        if not self.future.done():
            self.future.set_result(self.replies)
        return True


class Confirmation:
    """A (P/S)SUBSCRIBE or (P/S)UNSUBSCRIBE: answered by one push per channel, or by one error."""

    __slots__ = ("_kind", "_missing", "future")

    def __init__(self, future: asyncio.Future[Reply], command: str, channels: frozenset[bytes]):
        self.future = future
        self._kind = command.lower().encode()
        self._missing = set(channels)

    def take(self, reply: Reply) -> bool:
        """The in-band answer, which can only be an error."""
        if not self.future.done():
            if isinstance(reply, ServerError):
                self.future.set_exception(reply)
            else:
                self.future.set_exception(ServerError(f"unexpected reply {reply!r}"))
        return True

    def confirm(self, kind: bytes, channel: object) -> bool | None:
        """A push came: True when it was the last awaited, None when it is not for this call."""
        if kind != self._kind or channel not in self._missing:
            return None
        self._missing.discard(channel)
        if self._missing:
            return False
        if not self.future.done():
            self.future.set_result(None)
        return True
