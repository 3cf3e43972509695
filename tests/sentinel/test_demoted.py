"""A primary that is none any more, while no sentinel can be heard."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

import rtx
from rtx.errors import ConnectFailed, ConnectionLost, NotWritable, Unavailable
from rtx.settings import Settings
from rtx.topology.local import LocalSentinels
from tests.conftest import eventually
from tests.sentinel.load import SLACK, client_of, clients_on, pool_of, topology_of

pytestmark = pytest.mark.timeout(60)


async def test_read_only_replies_make_the_pool_leave(small_group: LocalSentinels) -> None:
    primary, other = small_group.servers
    async with rtx.open(Settings.load(url=small_group.url)) as layer:
        pool = pool_of(layer)
        await pool.call("SET", "before", "1")
        small_group.sentinels[0].kill(signal.SIGSTOP)
        async with client_of(primary) as witness:
            await witness.replicaof("127.0.0.1", str(other.port))
            lost = pool.stats.lost
            with pytest.raises(NotWritable, match="this is a replica; write to the primary"):
                await pool.call("SET", "after", "1")
            assert pool.stats.lost == lost + 1 or await eventually(lambda: pool.stats.lost > lost)
            # Whoever calls next learns that there is no primary, not that it hangs.
            begun = time.monotonic()
            with pytest.raises((NotWritable, ConnectFailed, ConnectionLost)):
                while True:
                    await pool.call("SET", "after", "2")
            assert time.monotonic() - begun < 4.0 * SLACK
            assert not await witness.exists("after")
            await eventually(lambda: nobody_on(primary))
