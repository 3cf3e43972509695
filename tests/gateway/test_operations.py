"""Health, metrics, the page, the documentation, and running and stopping the server."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import rtx
import rtx.gateway
from rtx.errors import SettingsError
from rtx.gateway import create_app, serve
from rtx.monitoring import render
from tests.gateway.conftest import Message, Running, assert_problem, gateway_settings, running

GATEWAY = Path(rtx.gateway.__file__).parent


# --- health ----------------------------------------------------------------------------------


async def test_health_says_which_part_works(gateway: Running) -> None:
    assert (await gateway.http.get("/health/live")).json() == {"status": "live"}
    answer = await gateway.http.get("/health/ready")
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["ready", "degraded", "roles", "database", "subscriber"]
    assert (body["ready"], body["degraded"]) == (True, False)
    assert set(body["roles"]) == {"cache", "pubsub", "limits"}
    for part in (*body["roles"].values(), body["database"]):
        assert list(part) == ["up", "error", "latency_ms"]
        assert (part["up"], part["error"]) == (True, "")
        assert 0 <= part["latency_ms"] < 1000


# --- metrics ---------------------------------------------------------------------------------


async def test_metrics_are_prometheus_text_of_layer_and_gateway(gateway: Running) -> None:
    await gateway.layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
    await gateway.http.get("/v1/prices/EURUSD")
    with pytest.raises(rtx.BadTick):
        await gateway.layer.market_data.publish(rtx.Tick("EURUSD", bid=2.0, ask=1.0))
    async with gateway.stream() as stream:
        await stream.subscribe("market_data:EURUSD")
        answer = await gateway.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): (sample.value, family.type)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["rtx_cache_hits_total", (("cache", "prices"),)] == (1, "counter")
    assert samples["rtx_limit_allowed_total", (("limit", "api"),)] == (1, "counter")
    assert samples["rtx_wire_connections", (("role", "cache"),)][1] == "gauge"
    refused = (("channel", "market_data"), ("reason", "crossed"))
    assert samples["rtx_channel_refused_total", refused] == (1, "counter")
    assert samples["rtx_hub_channels", ()] == (1, "gauge")
    assert samples["rtx_gateway_connections", ()] == (1, "gauge")
    assert samples["rtx_gateway_market_channels", ()] == (1, "gauge")
    assert samples["rtx_gateway_frames_total", ()][0] >= 1
    for name in ("messages", "conflated", "closed_overflow", "limited", "responses_2xx"):
        assert (f"rtx_gateway_{name}_total", ()) in samples


async def test_every_number_of_the_layer_is_in_the_metrics(layer: rtx.DataLayer) -> None:
    text, _ = render(layer)
    families = {family.name for family in text_string_to_metric_families(text.decode())}
    for part, numbers in layer.stats().items():
        for name in numbers:
            assert f"rtx_{part.partition('.')[0]}_{name}" in families


async def test_metrics_can_be_rendered_for_two_layers_in_one_process(
    layer: rtx.DataLayer,
) -> None:
    assert render(layer)[0]
    assert render(layer)[0]


# --- the page --------------------------------------------------------------------------------


async def test_the_page_and_its_files_are_served_as_what_they_are(gateway: Running) -> None:
    types = {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
    }
    files = [path for path in (GATEWAY / "page").iterdir() if path.suffix in types]
    assert files
    for path in files:
        answer = await gateway.http.get(f"/page/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"] == types[path.suffix]
        assert answer.headers["cache-control"] == "no-cache"
    answer = await gateway.http.get("/")
    assert answer.content == (GATEWAY / "page" / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "../gateway.py", "..%2fgateway.py", "%2e%2e/gateway.py", "..%5cgateway.py", "/etc/passwd",
        "%2fetc%2fpasswd", "", ".", "nothing.js", "index.html%00.js", "....//gateway.py",
        "%2e%2e%2f%2e%2e%2fmodels.py", "../docs/index.html", "x" * 5000,
    ],
)  # fmt: skip
async def test_nothing_outside_the_page_can_be_had(gateway: Running, path: str) -> None:
    address = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET /page/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]


async def test_answers_carry_headers_that_keep_browsers_careful(gateway: Running) -> None:
    for path in ("/", "/docs", "/v1/prices", "/nothing", "/v1/accounts/99"):
        headers = (await gateway.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


# --- the documentation -----------------------------------------------------------------------


async def test_the_documentation_needs_no_other_host(gateway: Running) -> None:
    for path in ("/docs", "/docs/docs.js", "/docs/docs.css"):
        answer = await gateway.http.get(path)
        assert answer.status_code == 200
        assert not re.search(r"(https?:)?//[\w.-]+\.\w", answer.text.replace("// ", ""))
    assert "<script>" not in (await gateway.http.get("/docs")).text


async def test_the_description_knows_every_route_and_its_errors(gateway: Running) -> None:
    description: Message = (await gateway.http.get("/docs/openapi.json")).json()
    assert description["openapi"].startswith("3.1")
    paths = description["paths"]
    assert set(paths) == {
        "/v1/prices",
        "/v1/prices/{symbol}",
        "/v1/symbols/{symbol}",
        "/v1/accounts/{account_id}",
        "/v1/accounts/{account_id}/positions",
        "/v1/accounts/{account_id}/alert-rules",
        "/v1/accounts/{account_id}/alert-rules/{rule_id}",
        "/v1/accounts/{account_id}/alert-rules/{rule_id}/rearm",
        "/v1/accounts/{account_id}/executions",
        "/v1/accounts/{account_id}/orders",
        "/v1/sessions",
        "/v1/sessions/current",
        "/v1/stream/sse",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/metrics/servers",
    }
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    limit_schema = {"schema": {"$ref": "#/components/schemas/LimitProblem"}}
    limit_problem = {"application/problem+json": limit_schema}
    fields = description["components"]["schemas"]["LimitProblem"]["properties"]
    assert set(fields) == {
        *("type", "title", "status", "detail", "violated-policies"),
        *("code", "reason", "retryable"),
    }
    for path, operations in paths.items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")) and not path.startswith("/health"):
                    expected = limit_problem if status == "429" else problem
                    assert answer["content"] == expected, (path, status)
            if path.startswith("/v1/"):
                assert {"429", "503"} <= set(operation["responses"]), path
    schemas = description["components"]["schemas"]
    assert schemas["Account"]["properties"]["balance"] == {"type": "number"}
    order = paths["/v1/accounts/{account_id}/orders"]["post"]
    assert {"201", "400", "401", "403", "404", "409", "422"} <= set(order["responses"])
    assert description["components"]["securitySchemes"]["session"]["scheme"] == "bearer"


# --- running and stopping --------------------------------------------------------------------


async def test_a_port_in_use_names_the_remedy(layer: rtx.DataLayer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} .* in use; .*--port"):
            await serve(create_app(layer), "127.0.0.1", port, stop=asyncio.Event())


async def test_an_address_of_another_machine_names_the_remedy(layer: rtx.DataLayer) -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(SettingsError, match=r"gateway\.host must be an address"):
            await serve(create_app(layer), host, 0, stop=asyncio.Event())


async def test_it_stops_in_time_with_streams_open_and_leaves_nothing(layer: rtx.DataLayer) -> None:
    before = asyncio.all_tasks()
    async with running(layer) as gateway, gateway.stream() as stream:
        await stream.subscribe("market_data:A", "executions:1")
        sse = gateway.http.stream("GET", "/v1/stream/sse?channels=market_data:A")
        async with sse as response:
            lines = response.aiter_lines()
            await anext(lines)
            started = time.monotonic()
            stop = asyncio.create_task(_stop(gateway))
            assert await stream.closed() in (1001, 1012)
            async for _ in lines:  # ends by itself
                pass
            await stop
        assert time.monotonic() - started < 1.5
    names = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not {name for name in names if name.startswith("rtx-gateway")}


async def _stop(gateway: Running) -> None:
    gateway.stop.set()
    await gateway.server


async def test_ipv6_and_all_addresses_are_reported_as_a_url_to_open(layer: rtx.DataLayer) -> None:
    for host, expected in (("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")):
        if host == "::1" and not _has_ipv6():
            continue
        stop = asyncio.Event()
        urls: list[str] = []

        def ready(url: str, urls: list[str] = urls, stop: asyncio.Event = stop) -> None:
            urls.append(url)
            stop.set()

        app = create_app(layer, settings=gateway_settings())
        await serve(app, host, 0, ready=ready, stop=stop)
        assert urls[0].startswith(expected)


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_forwarded_addresses_count_from_trusted_proxies_only(gateway: Running) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    assert (await gateway.http.get("/v1/prices", headers=headers)).status_code == 200
    assert (await gateway.layer.limits.api.peek("203.0.113.9")).remaining == 100_000
    assert (await gateway.layer.limits.api.peek("127.0.0.1")).remaining == 99_999


async def test_an_unknown_file_type_is_not_served(gateway: Running) -> None:
    assert_problem(await gateway.http.get("/page/__init__.py"), 404, "not_found")


async def test_it_stops_in_time_when_a_client_has_stopped_reading(
    layer: rtx.DataLayer, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(layer) as gateway, gateway.stream(max_queue=1) as stream:
        await stream.subscribe("market_data:*")
        while not gateway.gateway.counters.conflated:
            await layer.market_data.publish_many(
                rtx.Tick(f"S{n}", bid=1.0, ask=2.0) for n in range(500)
            )
        started = time.monotonic()
        await _stop(gateway)
        assert time.monotonic() - started < 1.5
    assert "Traceback" not in "".join(capfd.readouterr())
