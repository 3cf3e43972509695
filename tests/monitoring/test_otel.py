"""OpenTelemetry: a span and a duration for each call, with nothing secret in them; off, nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

import rtx
from rtx import urls
from rtx.errors import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    MissingExtra,
    ServerError,
    UnsafeCommand,
)
from rtx.models import Execution, Price, Tick
from rtx.settings import Settings
from rtx.telemetry import BUCKETS, ObservedCaller, server_attributes
from rtx.topology import Role
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from rtx.wire import Caller, Pool, Script
from tests.conftest import eventually
from tests.monitoring.otel_memory import durations, observed, recorded

FILL = Execution(order_id=1, position_id=1, symbol="EURUSD", side="BUY", volume=1.0, price=1.1)


@pytest.fixture
async def layer(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """An open layer that makes spans."""
    async with observed(settings) as opened:
        yield opened


@pytest.fixture
def caller(layer: rtx.DataLayer) -> Caller:
    return layer.pool(Role.CACHE)


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def check_failed(span: ReadableSpan, error: str, status: str | None = None) -> None:
    assert of(span)["error.type"] == error
    assert of(span).get("db.response.status_code") == status
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert not span.events


# --- off -------------------------------------------------------------------------------------


async def test_off_the_callers_are_the_plain_ones(settings: Settings) -> None:
    assert settings.telemetry.spans == "off"
    assert not settings.telemetry.metrics
    async with rtx.open(settings) as layer:
        assert {type(layer.pool(role)) for role in Role} == {Pool}


def test_off_opentelemetry_is_not_imported(shared_server: str) -> None:
    program = f"""if True:
        import asyncio, sys
        import rtx, rtx.monitoring

        async def main(**telemetry):
            async with rtx.open(rtx.Settings.load(url={shared_server!r}, **telemetry)) as layer:
                await layer.prices.get("EURUSD")

        def imported():
            return any(name.partition(".")[0] == "opentelemetry" for name in sys.modules)

        asyncio.run(main())
        assert not imported()
        asyncio.run(main(telemetry={{"metrics": True}}))
        assert imported()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr.decode()


async def test_without_the_package_the_extra_is_named(settings: Settings, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "rtx.telemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtra, match=r"rtx-datalayer\[otel\]"):
        async with observed(settings):
            pass


# --- which calls -----------------------------------------------------------------------------


async def test_without_a_parent_there_is_no_span(caller: Caller) -> None:
    with recorded(parent=False) as seen:
        await caller.call("GET", "a")
        await caller.batch([("GET", "a"), ("GET", "b")])
        await caller.execute("GET", "a", idempotent=True)
    assert not seen.all


async def test_all_makes_spans_without_a_parent_too(settings: Settings, namespace: str) -> None:
    with recorded(parent=False) as seen:
        async with observed(settings, spans="all") as layer:
            await layer.pool(Role.LIMITS).call("GET", f"{namespace}:a")
            assert "GET" in {span.name for span in seen.all if span.parent is None}


async def test_reads_writes_limits_and_publications_are_children(layer: rtx.DataLayer) -> None:
    async def use(number: int) -> None:
        await layer.prices.put(Price("EURUSD", bid=1.1, ask=1.2))
        await layer.prices.get("EURUSD")
        await layer.prices.get_many(["EURUSD", "GBPUSD"])
        await layer.limits["orders"].hit(1)
        await layer.market_data.publish(Tick("EURUSD", bid=1.1, ask=1.2))
        await layer.executions.publish(1, msgspec.structs.replace(FILL, order_id=number))

    await use(1)  # from here on the server knows the scripts
    with recorded() as seen:
        await use(2)
    spans = seen.take()
    assert [(span.name, of(span)["rtx.role"]) for span in spans] == [
        ("EVALSHA price", "cache"),
        ("GET", "cache"),
        ("MGET", "cache"),
        ("EVALSHA ratelimit.decide", "limits"),
        ("EVALSHA price", "cache"),
        ("EVALSHA pubsub.publish", "pubsub"),
    ]
    assert [of(span)["db.namespace"] for span in spans] == ["0", "0", "0", "2", "0", "1"]


# --- names and attributes --------------------------------------------------------------------


async def test_a_call_is_named_after_its_command(
    caller: Caller, settings: Settings, namespace: str
) -> None:
    server = urls.parse(settings.url.get_secret_value())
    assert isinstance(server, urls.Standalone)
    with recorded() as seen:
        await caller.call("SET", f"{namespace}:a", "1")
        assert await caller.execute("GET", f"{namespace}:a", idempotent=True) == b"1"
    first, second = seen.take()
    assert (first.name, second.name) == ("SET", "GET")
    assert first.kind is SpanKind.CLIENT
    assert first.status.status_code is StatusCode.UNSET
    assert of(first) == {
        "db.system.name": "redis",
        "db.operation.name": "SET",
        "db.namespace": "0",
        "server.address": server.address.host,
        "server.port": server.address.port,
        "rtx.role": "cache",
    }
    assert first.instrumentation_scope is not None
    assert first.instrumentation_scope.name == "rtx"


async def test_batches_say_what_they_have_in_common_and_how_many_they_are(
    caller: Caller, namespace: str
) -> None:
    key = f"{namespace}:a"
    script = Script("return 1", "test.one")
    packed = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key.encode())
    with recorded() as seen:
        await caller.batch([("GET", key)] * 3)
        await caller.batch([("SET", key, "1"), ("GET", key)])
        await caller.batch([("GET", key)])
        await caller.batch([])
        await caller.batch_packed([packed] * 2)
        await caller.batch_packed([packed])
        await caller.batch([("EVAL", script.text, 1, key)] * 2)
        await caller.batch([("EVAL", script.text, 1, key), ("EVAL", "return 2", 1, key)])
    spans = seen.take()
    assert [(span.name, of(span).get("db.operation.batch.size")) for span in spans] == [
        ("PIPELINE GET", 3),
        ("PIPELINE", 2),
        ("GET", None),
        ("PIPELINE", 0),
        ("PIPELINE GET", 2),
        ("GET", None),
        ("PIPELINE EVAL test.one", 2),
        ("PIPELINE EVAL", 2),
    ]
    assert of(spans[6])["db.operation.name"] == "PIPELINE EVAL"
    assert of(spans[6])["db.stored_procedure.name"] == "test.one"


@pytest.mark.parametrize(
    ("url", "db", "expected"),
    [
        ("redis://u:hush@h:7000", 2, {"server.address": "h", "server.port": 7000}),
        ("redis://u:hush@h/5", 2, {"server.address": "h", "server.port": 6379, "db": "5"}),
        ("unix://u:hush@/run/r.sock", 1, {"server.address": "/run/r.sock"}),
        ("redis+sentinel://u:hush@a:1,b:2/main", 1, {"server.address": "a:1,b:2/main"}),
        ("redis+cluster://u:hush@a:1,b:2", 1, {"server.address": "a:1,b:2", "db": "0"}),
        ("embedded://", 0, {"server.address": "/tmp/s"}),
    ],
)
def test_the_server_is_named_as_configured_without_its_login(
    url: str, db: int, expected: dict[str, Any]
) -> None:
    own = Address(host="", port=0, path="/tmp/s")
    found = server_attributes(urls.parse(url), db, own)
    namespace = expected.pop("db", str(db))
    assert found == {**expected, "db.namespace": namespace}
    assert "hush" not in str(found)


# --- errors ----------------------------------------------------------------------------------


async def test_what_the_server_refuses_is_an_error_without_its_words(
    caller: Caller, namespace: str
) -> None:
    key = f"{namespace}:hush"
    with recorded() as seen:
        await caller.call("SET", key, "hush-value")
        with pytest.raises(ServerError):
            await caller.call("LPUSH", key, "hush-value")
        with pytest.raises(ServerError, match="hush"):
            await caller.call("NOSUCH", "hush")
        with pytest.raises(ServerError):
            await caller.execute("LPUSH", key, "hush-value")
        replies = await caller.batch([("GET", key), ("LPUSH", key, "hush-value")])
        assert isinstance(replies[1], ServerError)
        with pytest.raises(UnsafeCommand):
            await caller.call("BLPOP", key, 0)
    fine, wrong, unknown, again, batch, unsafe = spans = seen.take()
    assert "error.type" not in of(fine)
    for span in (wrong, again, batch):
        check_failed(span, "WRONGTYPE", "WRONGTYPE")
    check_failed(unknown, "ERR", "ERR")
    check_failed(unsafe, "UnsafeCommand")
    assert not any("hush" in span.to_json() for span in spans)


async def test_a_lost_connection_is_an_error(own_server: ServerProcess) -> None:
    async with observed(Settings.load(url=own_server.url)) as layer:
        caller = layer.pool(Role.CACHE)
        with recorded() as seen:
            with pytest.raises(CallTimeout):
                await caller.call("DEBUG", "SLEEP", "20", timeout=0.05)
            waiting = asyncio.ensure_future(caller.call("GET", "a", timeout=30.0))
            given_up = asyncio.ensure_future(caller.call("GET", "b", timeout=30.0))
            await asyncio.sleep(0)
            given_up.cancel()
            own_server.kill()
            with pytest.raises(ConnectionLost):
                await waiting
            await eventually(lambda: isinstance(caller.down, ConnectFailed))
            with pytest.raises(ConnectFailed):
                await caller.call("GET", "c")
    errors = {of(span)["error.type"] for span in seen.take()}
    assert errors == {"CallTimeout", "CancelledError", "ConnectionLost", "ConnectFailed"}


# --- durations -------------------------------------------------------------------------------


async def test_durations_are_counted_by_what_was_called_and_how_it_ended(
    settings: Settings, namespace: str
) -> None:
    key = f"{namespace}:a"
    server = urls.parse(settings.url.get_secret_value())
    assert isinstance(server, urls.Standalone)
    port = server.address.port
    with recorded() as seen:
        async with observed(settings, metrics=True) as layer:
            caller = layer.pool(Role.CACHE)
            for _ in range(3):
                await caller.call("SET", key, "1")
            await caller.batch([("SET", key, "1"), ("SET", key, "2")])
            with pytest.raises(ServerError):
                await caller.call("LPUSH", key, "1")
    assert not seen.all
    [sets] = durations(server__port=port, db__operation__name="SET")
    assert sets.count == 3
    assert 0 < sets.sum < 3 * 60
    assert tuple(sets.explicit_bounds) == BUCKETS
    assert dict(sets.attributes or {}) == {
        "db.system.name": "redis",
        "db.operation.name": "SET",
        "db.namespace": "0",
        "server.address": server.address.host,
        "server.port": port,
        "rtx.role": "cache",
    }
    [pair] = durations(server__port=port, db__operation__name="PIPELINE SET")
    assert pair.count == 1
    [refused] = durations(server__port=port, db__operation__name="LPUSH")
    assert (refused.attributes or {})["error.type"] == "WRONGTYPE"
    assert (refused.attributes or {})["db.response.status_code"] == "WRONGTYPE"


async def test_a_program_that_makes_up_names_does_not_fill_the_memory(
    caller: ObservedCaller, namespace: str
) -> None:
    with recorded():
        calls = [caller.call(f"NOSUCH{n}", namespace) for n in range(1_100)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(reply, ServerError) for reply in replies)
    assert len(caller._singles) <= 1_000


async def test_a_call_that_nobody_awaits_is_sent_and_seen_all_the_same(
    caller: Caller, namespace: str
) -> None:
    with recorded() as seen:
        sent = caller.call("INCR", f"{namespace}:a")
        assert await caller.call("INCR", f"{namespace}:a") == 2
    del sent
    assert [span.name for span in seen.take()] == ["INCR", "INCR"]
