"""Slots and routing agree with the server's own."""

from __future__ import annotations

import random

import hiredis
import pytest

from rtx.keys import Keys
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.routing import slot_of, slot_of_packed
from rtx.topology.slots import key_slot
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions


async def test_the_slot_of_a_key_is_the_servers(
    cluster: LocalCluster, seeded: random.Random
) -> None:
    alphabet = b"{}ab\r\n\x00\xff:1"
    keys = [bytes(seeded.choices(alphabet, k=seeded.randrange(12))) for _ in range(2_000)]
    keys += [b"{}", b"a{}b", b"{a}", b"{{a}}", b"a{b}c{d}", b"}{", b"{", b""]
    address = Address("127.0.0.1", cluster.servers[0].port)
    connection = await Connection.dial(address, ConnectOptions())
    theirs = await connection.batch([("CLUSTER", "KEYSLOT", key) for key in keys])
    assert [key_slot(key) for key in keys] == theirs
    await connection.close()


@pytest.mark.parametrize("key", [b"price:EURUSD", b"a\r\nb", b"{x}\r\n$3\r\n", b""])
def test_a_packed_command_is_routed_by_its_first_argument(key: bytes) -> None:
    assert slot_of_packed(hiredis.pack_command(("SET", key, b"\r\n1"))) == key_slot(key)


def test_a_script_is_routed_by_its_first_key() -> None:
    args = ("EVALSHA", "0" * 40, 2, "{executions:1}:meta", "{executions:1}:log", "x")
    assert slot_of("EVALSHA", args) == key_slot(b"executions:1")
    assert slot_of("EVAL", ("EVAL", "return 1", 0)) is None
    assert slot_of("PING", ("PING",)) is None


def test_a_log_is_in_the_slot_of_its_channel() -> None:
    keys = Keys("staging")
    channel = keys.executions(7)
    slots = {key_slot(Keys.companion(channel, what).encode()) for what in ("meta", "log")}
    assert slots == {key_slot(channel.encode())}


async def test_a_local_cluster_serves_every_slot(cluster: LocalCluster) -> None:
    facts = await cluster.info(cluster.servers[0].port)
    assert facts["cluster_slots_ok"] == "16384"
    assert len(await cluster.primaries()) == 3
    assert await ask(cluster.servers[0].port, "PING") == b"PONG"
