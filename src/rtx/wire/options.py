"""How a connection is made and bounded, and the kinds of value that pass over it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TypeAlias

from rtx.urls import NO_CREDENTIALS, Credentials
from rtx.wire.replies import Reply

Argument: TypeAlias = str | bytes | int | float
Push: TypeAlias = "list[Reply]"


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """How to connect and when to give a connection up; times in seconds."""

    credentials: Credentials = NO_CREDENTIALS
    db: int = 0
    client_name: str = "rtx"
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    connect_timeout: float = 3.0
    read_timeout: float = 3.0
    heartbeat: float = 1.0
    """A silent connection is pinged this often, and its answer is compared."""
    max_in_flight: int = 10_000
    max_reply: int = 64 * 2**20
    leave_if_readonly: bool = False
    """Retire when the server says that it is a read-only replica."""
