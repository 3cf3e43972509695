"""The gateway while the servers behind it are away: typed errors, no tracebacks, and back again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import rtx
from rtx.database.sql import SqlDatabase
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.gateway.conftest import Desk, Running, assert_problem, running

ORDER = {"symbol": "EURUSD", "side": "BUY", "volume": 0.5}


@asynccontextmanager
async def on(
    server: ServerProcess, database: SqlDatabase | None, **changes: object
) -> AsyncIterator[Running]:
    settings = Settings.load(
        url=server.url,
        limits={"api": LimitSettings(limit=100_000, per=60.0)},
        pool={"pool_timeout": 0.5, "read_timeout": 0.5, "connect_timeout": 0.5},
    )
    async with (
        rtx.open(settings, database=database) as layer,
        running(layer, orders=Desk(), **{"heartbeat": 0.2, **changes}) as gateway,
    ):
        yield gateway


async def test_without_redis_accounts_come_from_the_database_and_the_rest_is_503(
    own_server: ServerProcess, database: SqlDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with on(own_server, database) as gateway:
        assert (await gateway.http.get("/v1/accounts/1")).status_code == 200
        await own_server.stop()
        for path in ("/v1/accounts/1", "/v1/accounts/2/positions", "/v1/symbols/EURUSD"):
            assert (await gateway.http.get(path)).status_code == 200, path
        assert_problem(await gateway.http.get("/v1/accounts/99"), 404, "unknown_account")
        assert gateway.gateway.stats()["limiter_away"] >= 4
        for path in ("/v1/prices/EURUSD", "/v1/prices", "/v1/accounts/1/executions"):
            answer = await gateway.http.get(path)
            body = assert_problem(answer, 503, "unavailable", retryable=True)
            assert "127.0.0.1" not in body["reason"], "addresses are not for clients"
        login = {"user": "ann", "password": "right"}
        answer = await gateway.http.post("/v1/sessions", json=login)
        assert_problem(answer, 503, "unavailable")

        assert (await gateway.http.get("/health/live")).status_code == 200

        async def not_ready() -> bool:
            return (await gateway.http.get("/health/ready")).status_code == 503

        await eventually(not_ready)
        answer = await gateway.http.get("/health/ready")
        assert int(answer.headers["retry-after"]) >= 1
        assert (answer.json()["ready"], answer.json()["degraded"]) == (False, True)
        assert answer.json()["roles"]["cache"]["up"] is False
        assert answer.json()["database"]["up"] is True
        assert (await gateway.http.get("/metrics")).status_code == 200

        await own_server.start()

        async def back() -> bool:
            return (await gateway.http.get("/v1/prices")).status_code == 200

        await eventually(back)
    assert "Traceback" not in caplog.text


async def test_accounts_that_need_a_session_wait_for_redis(
    own_server: ServerProcess, database: SqlDatabase
) -> None:
    async with on(own_server, database, auth="required") as gateway:
        token = await gateway.log_in()
        headers = {"Authorization": f"Bearer {token}"}
        await own_server.stop()
        answer = await gateway.http.get("/v1/accounts/1", headers=headers)
        assert_problem(answer, 503, "unavailable", retryable=True)
        answer = await gateway.http.delete("/v1/sessions/current", headers=headers)
        assert_problem(answer, 503, "unavailable")
        assert (await gateway.http.get("/v1/symbols/EURUSD", headers=headers)).status_code == 200
        async with gateway.stream(token) as stream:
            error = await stream.next("error")
            assert (error["code"], error["retryable"]) == ("unavailable", True)
            assert await stream.closed() == 1013


async def test_without_the_database_an_uncached_account_is_503(
    own_server: ServerProcess, database: SqlDatabase
) -> None:
    async with on(own_server, database) as gateway:
        await database.close()
        for path in ("/v1/accounts/1", "/v1/accounts/1/positions", "/v1/symbols/EURUSD"):
            answer = await gateway.http.get(path)
            assert_problem(answer, 503, "database_unavailable", retryable=True)
        assert (await gateway.http.get("/v1/prices")).status_code == 200


async def published(layer: rtx.DataLayer, *symbols: str) -> bool:
    """Publish a tick of each symbol; False while the server is not back yet."""
    try:
        await layer.market_data.publish_many(rtx.Tick(name, bid=1.0, ask=2.0) for name in symbols)
    except rtx.Unavailable:
        return False
    return True


async def test_streams_live_through_an_outage_and_are_told_of_it(
    own_server: ServerProcess,
) -> None:
    async with on(own_server, None) as gateway, gateway.stream() as stream:
        layer = gateway.layer
        await stream.subscribe("market_data:A", "executions:1")
        await layer.executions.publish(1, rtx.Execution(1, 9, "A", "BUY", 1.0, 1.0))
        assert (await stream.next())["order_id"] == 1
        await own_server.stop()
        while not (await stream.next("state"))["degraded"]:
            pass
        # Asked for while the server is away, it begins when the server is back.
        await stream.say("subscribe", channels=["market_data:B", "alerts:1"])
        await own_server.start()
        later = {(await stream.next("subscribed"))["channel"] for _ in "AB"}
        assert later == {"market_data:B", "alerts:1"}
        while (await stream.next("state"))["degraded"]:
            pass

        await eventually(lambda: published(layer, "A", "B"))
        assert {(await stream.next("tick"))["symbol"] for _ in "AB"} == {"A", "B"}


async def test_a_gap_in_the_market_data_is_reported_before_the_next_tick(
    own_server: ServerProcess,
) -> None:
    async with on(own_server, None) as gateway, gateway.stream() as stream:
        await stream.subscribe("market_data:A")
        await own_server.stop()
        await own_server.start()
        gap = await stream.next("gap", "tick")
        assert (gap["type"], gap["channel"]) == ("gap", "market_data:A")
        assert gap["recovered"] is False
        assert gap["duration"] >= 0
        await eventually(lambda: published(gateway.layer, "A"))
        assert (await stream.next())["type"] == "tick"


async def test_a_frozen_server_ends_requests_in_time(
    own_server: ServerProcess, database: SqlDatabase
) -> None:
    async with on(own_server, database) as gateway:
        await gateway.http.get("/v1/prices")
        own_server.kill(signal.SIGSTOP)
        try:
            async with asyncio.timeout(5.0):
                answer = await gateway.http.get("/v1/prices/EURUSD")
                assert_problem(answer, 503, "unavailable")
                assert (await gateway.http.get("/v1/accounts/1")).status_code == 200
        finally:
            own_server.kill(signal.SIGCONT)
