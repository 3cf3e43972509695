"""Which commands a connection that many callers share must not be sent.

Some change it for all of them (SELECT, MULTI, CLIENT REPLY), some answer otherwise than one reply
for one command (SUBSCRIBE, MONITOR), some hold up the replies of everyone behind (BLPOP).
"""

from __future__ import annotations

from rtx.errors import UnsafeCommand
from rtx.wire.options import Argument

_HARMFUL = frozenset(
    [
        *("AUTH", "HELLO", "RESET", "QUIT", "SELECT", "READONLY", "READWRITE", "MONITOR"),
        *("SYNC", "PSYNC", "MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"),
        *("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"),
        *("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"),
        *("BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX", "BZMPOP"),
    ]
)
_HARMFUL_WITH = {"CLIENT": ("REPLY", "TRACKING"), "XREAD": ("BLOCK",), "XREADGROUP": ("BLOCK",)}
_MOST = 1_000

harmless: set[Argument] = set()
"""Names that were found harmless whatever follows them, as they were written."""


def check(args: tuple[Argument, ...]) -> None:
    """Raise `UnsafeCommand` for a command that would harm other callers.

    A hot path looks into `harmless` first.
    """
    name = _upper(args[0])
    with_word = _HARMFUL_WITH.get(name)
    if name in _HARMFUL or (with_word and not _is_free_of(args, with_word)):
        raise UnsafeCommand(
            f"{name} changes or blocks a connection that many callers share; use a Connection of "
            "your own for it (Connection.dial), or batch() for a transaction"
        )
    if with_word is None and len(harmless) < _MOST:
        harmless.add(args[0])


def _is_free_of(args: tuple[Argument, ...], words: tuple[str, ...]) -> bool:
    """Whether none of the words is an option of the command."""
    for arg in args[1:]:
        word = _upper(arg)
        if word in words:
            return False
        if word == "STREAMS":  # what follows are names of keys
            break
    return True


def _upper(word: Argument) -> str:
    return (word.decode("latin-1") if isinstance(word, bytes) else str(word)).upper()
