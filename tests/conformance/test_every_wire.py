"""Bytes, errors, logins and pushes on every server."""

from __future__ import annotations

import asyncio
import random

import pytest

import rtx
from rtx.errors import AccessDenied, OutOfMemory, ServerError
from rtx.models import Price, Tick
from rtx.topology import Role
from rtx.wire import Caller
from rtx.wire.connection import Push
from tests.conformance.deployments import Deployment, client_of
from tests.conformance.servers import everywhere
from tests.conftest import eventually

pytestmark = everywhere

NASTY = [b"", b"\r\n", b"\x00\xff\xfe", b"|1\r\n+a\r\n+b\r\n", b"-ERR no\r\n", b"\n|", b">3\r\n"]


async def test_the_server_is_of_the_version_that_the_tests_name(deployment: Deployment) -> None:
    kind, major, minor = deployment.case.server.version
    async with client_of(deployment.servers[0]) as witness:
        facts = await witness.info("server")
    said = facts.get("valkey_version") or facts["redis_version"]
    assert facts.get("server_name", "redis") == kind
    assert said.startswith(f"{major}.{minor}.")
    count = len(deployment.servers)
    print(f"ran: {kind} {said}, {deployment.case.kind}, {count} servers in {deployment.took:.1f} s")


async def test_values_are_binary_safe_and_may_be_big(
    deployment: Deployment, caller: Caller, namespace: str, seeded: random.Random
) -> None:
    big = [seeded.randbytes(size) for size in (2**16 + 1, 2**20, 4 * 2**20)]
    values = {f"{namespace}:{place}": value for place, value in enumerate([*NASTY, *big])}
    await asyncio.gather(*(caller.call("SET", key, value) for key, value in values.items()))
    assert await caller.call("MGET", *values) == [*values.values()]
    async with deployment.client() as witness:
        for key, value in values.items():
            assert await witness.get(key) == value
    odd = b"\x00{" + namespace.encode() + b"}\r\n|\xff"
    await caller.call("SET", odd, b"odd")
    assert await caller.call("GET", odd) == b"odd"
    assert await caller.call("DEL", odd, *values) == len(values) + 1


async def test_errors_have_their_kinds(
    deployment: Deployment, layer: rtx.DataLayer, caller: Caller, namespace: str
) -> None:
    await caller.call("RPUSH", f"{namespace}:account:1", "no", "account")
    with pytest.raises(ServerError, match="WRONGTYPE") as wrong:
        await caller.call("GET", f"{namespace}:account:1")
    assert wrong.value.prefix == "WRONGTYPE"
    with pytest.raises(ServerError, match="unknown command"):
        await caller.call("NONESUCH", f"{namespace}:account:1")
    async with deployment.configured(maxmemory=1):
        with pytest.raises(OutOfMemory):
            await layer.prices.put(Price("EURUSD", bid=1.0, ask=2.0))
        decision = await layer.limits.orders.hit(1)
        assert (decision.allowed, decision.reason) == (False, "out_of_memory")
        with pytest.raises(OutOfMemory):
            await layer.market_data.publish(Tick("EURUSD", bid=1.0, ask=2.0))
        assert await layer.accounts.get(2) is None
    assert (await layer.limits.orders.hit(1)).allowed


async def test_a_refused_password_and_a_refused_command_are_told_apart(
    deployment: Deployment, namespace: str
) -> None:
    may = ["~*", "&*", "+@all", "-set", "-evalsha"]
    async with deployment.user("conformance", ">r1ght", *may):
        login = deployment.url.replace("://", "://conformance:{}@", 1)
        wrong = deployment.settings(namespace, url=login.format("wr0ng"))
        with pytest.raises(AccessDenied, match="WRONGPASS") as refused:
            async with rtx.open(wrong):
                pass
        assert "wr0ng" not in str(refused.value)
        async with rtx.open(deployment.settings(namespace, url=login.format("r1ght"))) as layer:
            assert await layer.prices.get("EURUSD") is None
            with pytest.raises(AccessDenied, match="NOPERM"):
                await layer.prices.put(Price("EURUSD", bid=1.0, ask=2.0))
            decision = await layer.limits.orders.hit(1)
            assert (decision.allowed, decision.reason) == (False, "access_denied")
            assert (await layer.health()).ready


async def test_pushes_and_replies_share_a_connection(
    deployment: Deployment, layer: rtx.DataLayer, namespace: str
) -> None:
    pushes: list[Push] = []
    topology = layer._roles.topology(Role.CACHE)
    connection = await topology.dial(0, lambda _: None, pushes.extend)
    try:
        channel = f"{namespace}:pushes"
        await connection.subscribe("SUBSCRIBE", [channel])
        for number in range(1, 51):
            echoed = connection.call("ECHO", number)
            assert await connection.call("PUBLISH", channel, number) == 1
            assert await echoed == b"%d" % number
        await eventually(lambda: len(pushes) == 51)
        heard = [push[2] for push in pushes if push[0] == b"message"]
        assert heard == [b"%d" % number for number in range(1, 51)]
        found = []
        for server in await deployment.primaries():
            async with client_of(server) as witness:
                clients = await witness.client_list()
            found += [each["resp"] for each in clients if each["name"] == "rtx"]
        assert set(found) == {"3"}
    finally:
        await connection.close()
