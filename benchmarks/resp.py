"""Commands as the bytes of the protocol."""

from __future__ import annotations

import hiredis


def pack(*args: str | bytes | int) -> bytes:
    """A command as RESP bytes."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed
