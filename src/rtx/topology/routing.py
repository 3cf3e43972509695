"""Which slot a command belongs to, by the convention of `Caller`."""

from __future__ import annotations

from collections.abc import Sequence

from rtx.topology.slots import key_slot
from rtx.wire.options import Argument

SPLIT = frozenset({"MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"})
"""Commands of many keys, which are sent as one command for each key."""

_SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})
_KEYLESS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DBSIZE", "DEBUG", "ECHO", "INFO", "LATENCY"}
    | {"MEMORY", "MODULE", "PING", "PUBLISH", "ROLE", "SCRIPT", "SLOWLOG", "TIME", "WAIT"}
)


def name_of(args: Sequence[Argument]) -> str:
    """The command's name in capitals."""
    name = args[0]
    return (name.decode() if isinstance(name, bytes) else str(name)).upper()


def slot_of(name: str, args: Sequence[Argument]) -> int | None:
    """The slot of a command's first key; None when any node may take it."""
    place = 1
    if name in _SCRIPTS:
        place = 3
        if int(args[2]) == 0:
            return None
    elif name in _KEYLESS:
        return None
    if len(args) <= place:
        return None
    key = args[place]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def slot_of_packed(command: bytes) -> int:
    """The slot of a command that is RESP bytes: of its first argument, or of a script's one key."""
    # *5 CRLF $3 CRLF SET CRLF $10 CRLF price:EURU…; the key itself may have a CRLF in it.
    # *7 CRLF $7 CRLF EVALSHA CRLF $40 CRLF 0f5e… CRLF $1 CRLF 1 CRLF $10 CRLF price:EURU…
    name = command.index(b"\n") + 1
    place = 7 if command.startswith((b"$7\r\nEVALSHA", b"$4\r\nEVAL\r"), name) else 3
    parts = command.split(b"\r\n", place + 1)
    return key_slot(parts[place + 1][: int(parts[place][1:])])
