"""The way to the server: one multiplexed, pipelined RESP3 connection, and a pool of them."""

from rtx.wire.backoff import Backoff
from rtx.wire.caller import Caller
from rtx.wire.connection import Connection, Dial
from rtx.wire.options import ConnectOptions
from rtx.wire.pool import Pool, PoolStats
from rtx.wire.replies import Reply
from rtx.wire.scripts import Script

__all__ = [
    "Backoff",
    "Caller",
    "ConnectOptions",
    "Connection",
    "Dial",
    "Pool",
    "PoolStats",
    "Reply",
    "Script",
]
