"""What a process says of itself: timings, feeds, bounded labels, and the small server for them."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

import rtx
from rtx.errors import SettingsError
from rtx.feeds import Pump, SimulatedFeed
from rtx.monitoring import ServerMetrics, render, serve_metrics
from rtx.monitoring.families import Families
from rtx.monitoring.server_facts import Facts, write
from rtx.settings import Settings
from rtx.tick_meter import TickMeter
from rtx.timing import BOUNDS, Timing
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.monitoring.conftest import Samples, samples


def of(layer: rtx.DataLayer) -> Samples:
    return samples(render(layer)[0].decode())


def count(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


# --- timings ---------------------------------------------------------------------------------


def test_a_time_is_counted_in_the_bucket_that_ends_at_or_above_it() -> None:
    timing = Timing()
    for seconds in (-1.0, 0.0, 0.00005, 0.00006, 30.0, 31.0):
        timing.take(seconds)
    assert timing.counts[0] == 3
    assert timing.counts[1] == 1
    assert timing.counts[-2] == 1
    assert timing.counts[-1] == 1
    assert timing.total == pytest.approx(61.00011)
    assert len(timing.counts) == len(BOUNDS) + 1


async def test_of_hits_one_in_16_is_timed_and_every_miss(layer: rtx.DataLayer) -> None:
    await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
    hits = 0
    while hits < 1600:
        found = await asyncio.gather(*(layer.prices.get("EURUSD") for _ in range(100)))
        hits += sum(price is not None for price in found)
        await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
    for _ in range(7):
        assert await layer.prices.get("NOTHING") is None
    found = of(layer)
    timed = count(found, "rtx_cache_read_seconds_count", cache="prices", outcome="hit")
    assert hits / 24 < timed < hits / 10, f"{timed} of {hits}"
    spent = count(found, "rtx_cache_read_seconds_sum", cache="prices", outcome="hit")
    assert 0 < spent < 60
    misses = count(found, "rtx_cache_misses_total", cache="prices")
    assert misses >= 7
    assert count(found, "rtx_cache_read_seconds_count", cache="prices", outcome="miss") == misses


async def test_reads_in_place_of_the_server_are_timed_as_fallbacks(
    own_server: ServerProcess,
) -> None:
    settings = Settings.load(url=own_server.url, database_url="sqlite+aiosqlite://")
    async with rtx.open(settings) as layer:
        own_server.kill()
        assert await layer.symbols.get("EURUSD") is None
        labels = {"cache": "symbols", "outcome": "fallback"}
        assert count(of(layer), "rtx_cache_read_seconds_count", **labels) == 1


async def test_the_age_of_executions_at_their_subscriber_is_counted(layer: rtx.DataLayer) -> None:
    name = "rtx_channel_lag_seconds"
    async with layer.executions.subscribe(1) as subscription:
        await subscription.ready()
        fill = rtx.Execution(1, 2, "EURUSD", "BUY", 1.0, 1.1)
        await layer.executions.publish(1, fill)
        assert await anext(aiter(subscription))
        await eventually(lambda: count(of(layer), f"{name}_count", channel="executions") == 1)
    assert count(of(layer), f"{name}_sum", channel="executions") < 30


# --- feeds -----------------------------------------------------------------------------------


async def test_a_feed_is_counted_by_provider_and_symbol(layer: rtx.DataLayer) -> None:
    feed = SimulatedFeed(seed=7, symbols=["EURUSD"], rate=1000.0)
    pump = Pump(feed, layer.market_data.publish_many, layer.feeds)
    task = asyncio.create_task(pump.run())
    await eventually(lambda: pump.report.published > 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    found, streams = of(layer), layer.feeds.streams
    assert {symbol for _, symbol in streams} == {"EURUSD"}
    assert sum(stream.count for stream in streams.values()) == feed.stats.ticks
    for (provider, symbol), stream in streams.items():
        labels = {"provider": provider, "symbol": symbol}
        assert provider
        assert count(found, "rtx_feed_ticks_total", **labels) == stream.count > 0
        assert count(found, "rtx_feed_last_tick_timestamp_seconds", **labels) == stream.came_at
        assert 0 <= count(found, "rtx_feed_lag_seconds", **labels) < 30


def test_symbols_beyond_500_are_counted_together() -> None:
    meter = TickMeter()
    meter.came([rtx.Tick(f"S{number}", bid=1.0, ask=2.0) for number in range(700)])
    meter.came([rtx.Tick("S3", bid=1.0, ask=2.0), rtx.Tick("S650", bid=1.0, ask=2.0)])
    assert len(meter.streams) == 501
    assert meter.streams["other", "other"].count == 201
    assert meter.streams["", "S3"].count == 2


# --- the number of series --------------------------------------------------------------------


async def test_accounts_users_and_keys_make_no_series(layer: rtx.DataLayer) -> None:
    async def use(first: int) -> None:
        for account in range(first, first + 20):
            await layer.limits.orders.hit(account)
            await layer.executions.publish(account, rtx.Execution(1, 2, "A", "BUY", 1.0, 1.1))
            await layer.market_data.publish(rtx.Tick(f"S{account}", bid=1.0, ask=2.0))
            await layer.accounts.get(account)

    await use(0)
    before = set(of(layer))
    await use(100)
    assert set(of(layer)) == before


def test_a_server_with_endless_commands_and_databases_makes_no_endless_series() -> None:
    info = {f"cmdstat_c{number}": "calls=1,usec=1" for number in range(5000)}
    info |= {f"errorstat_E{number}": "count=1" for number in range(5000)}
    info |= {f"db{number}": "keys=1,expires=0,avg_ttl=0" for number in range(5000)}
    out = Families()
    write(out, Facts(info=info), {"instance": "s", "group": "all"})
    assert max(len(family.samples) for family in out) == 500


# --- the small server ------------------------------------------------------------------------


async def test_it_serves_metrics_and_nothing_else(layer: rtx.DataLayer) -> None:
    async with serve_metrics(layer, 0) as url, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url}/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert ("rtx_info", (("version", rtx.__version__),)) in samples(answer.text)
        assert "redis_up" in (await http.get(f"{url}/metrics/servers")).text
        assert (await http.get(f"{url}/health/live")).json() == {"status": "live"}
        assert (await http.get(f"{url}/")).status_code == 404
        assert (await http.post(f"{url}/metrics")).status_code == 405
        address = httpx.URL(url)
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection(address.host, address.port)


async def test_clients_that_send_nothing_or_too_much_keep_nobody_out(layer: rtx.DataLayer) -> None:
    async with serve_metrics(layer, 0) as url, httpx.AsyncClient(trust_env=False) as http:
        port = httpx.URL(url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"x" * 20_000)
        assert await reader.read() == b""
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        assert (await http.get(f"{url}/metrics")).status_code == 200
        for _, open_writer in silent:
            open_writer.close()
        writer.close()


async def test_a_port_in_use_names_the_remedy(layer: rtx.DataLayer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = serve_metrics(layer, taken.getsockname()[1])
        with pytest.raises(SettingsError, match="--metrics-port"):
            await endpoint.__aenter__()


# --- the servers -----------------------------------------------------------------------------


async def test_scrapes_within_a_second_are_one_look(own_server: ServerProcess) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        collector = ServerMetrics(layer)
        texts = await asyncio.gather(*(collector.text() for _ in range(20)))
        assert len(set(texts)) == 1
        labels = {"instance": f"127.0.0.1:{own_server.port}", "group": "all", "cmd": "info"}
        later = ServerMetrics(layer)
        asked = count(samples((await later.text()).decode()), "redis_commands_total", **labels)
        assert asked <= 2
        await collector.close()
        await later.close()


async def test_a_user_who_may_not_ask_is_told_from_a_server_that_is_gone(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        await layer._roles.pool(rtx.topology.Role.CACHE).call(
            "ACL", "SETUSER", "blind", "on", ">secret", "+ping", "+hello", "+client|setname"
        )
    settings = Settings.load(
        url=own_server.url, metrics_login={"username": "blind", "password": "secret"}
    )
    async with rtx.open(settings) as layer:
        collector = ServerMetrics(layer)
        found = samples((await collector.text()).decode())
        await collector.close()
    where = {"instance": f"127.0.0.1:{own_server.port}", "group": "all"}
    assert count(found, "redis_up", **where) == 0
    assert count(found, "redis_exporter_last_scrape_error", err="AccessDenied", **where) == 1
