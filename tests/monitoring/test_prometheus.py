"""A real Prometheus on a running system, and Debian's exporter beside the built-in collector."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import redis.asyncio as redis_py

import rtx
from rtx.monitoring import ServerMetrics, serve_metrics
from rtx.settings import Settings
from rtx.topology.local import LocalSentinels
from rtx.topology.process import ServerProcess, free_port
from tests.conftest import ROOT, eventually
from tests.monitoring.conftest import (
    RULES,
    Prometheus,
    answers,
    needed,
    program,
    prometheus,
    rtx_command,
    samples,
    yaml,
)

# What Grafana's dashboard 11835 asks for.
DASHBOARD_11835 = {
    "redis_up", "redis_uptime_in_seconds", "redis_connected_clients", "redis_blocked_clients",
    "redis_memory_used_bytes", "redis_memory_max_bytes", "redis_commands_processed_total",
    "redis_keyspace_hits_total", "redis_keyspace_misses_total", "redis_net_input_bytes_total",
    "redis_net_output_bytes_total", "redis_db_keys", "redis_db_keys_expiring",
    "redis_expired_keys_total", "redis_evicted_keys_total", "redis_commands_total",
    "redis_commands_duration_seconds_total", "redis_connected_slaves",
}  # fmt: skip
HURRY = 30.0


def generator() -> ModuleType:
    path = ROOT / "deploy" / "grafana" / "make_dashboard.py"
    spec = importlib.util.spec_from_file_location("make_dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expressions() -> list[str]:
    """Every expression of the dashboard, its variables filled in, and of the alert rules."""
    found = [
        target["expr"]
        for panel in generator().dashboard()["panels"]
        for target in panel.get("targets", [])
    ]
    found = [
        re.sub(r"\$(server|process|symbol)\b", ".*", expr).replace("$__rate_interval", "1m")
        for expr in found
    ]
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:redis|rtx)_[a-z0-9_]+", expression))


def test_the_dashboard_is_as_its_program_makes_it() -> None:
    made = generator()
    assert made.FILE.read_text("utf-8") == made.text(), "run deploy/grafana/make_dashboard.py"


@pytest.mark.parametrize(
    "compose", sorted((ROOT / "deploy").glob("compose*.yaml")), ids=lambda path: path.name
)
def test_a_deployment_has_the_dashboard_and_the_rules(compose: Path) -> None:
    parts = yaml.safe_load(compose.read_text("utf-8"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in parts["grafana"]["volumes"])
    provider = yaml.safe_load((compose.parent / "grafana" / "dashboards.yaml").read_text("utf-8"))
    assert mounts["./grafana/dashboards.yaml"].startswith("/etc/grafana/provisioning/dashboards/")
    assert mounts["./grafana/dashboards"] == provider["providers"][0]["options"]["path"]
    [config] = [
        word.rpartition("/")[2]
        for word in parts["prometheus"]["command"]
        if word.startswith("--config.file=")
    ]
    rules = yaml.safe_load((compose.parent / "prometheus" / config).read_text("utf-8"))
    assert rules["rule_files"] == ["alerts.yml"]
    groups = [
        target["labels"]["group"]
        for job in rules["scrape_configs"]
        if job["job_name"] == "redis"
        for target in job["static_configs"]
    ]
    assert groups, "the rules tell servers apart by the label `group`"


@contextlib.asynccontextmanager
async def system(tmp_path: Path, group: LocalSentinels) -> AsyncIterator[Prometheus]:
    """Servers, `rtx serve`, `rtx feed` and an engine (this process), scraped by Prometheus."""
    needed("prometheus", "prometheus")
    gateway, feed = free_port(), free_port()
    env = {"RTX_URL": group.url}
    serve = rtx_command("serve", "--port", gateway)
    feeding = rtx_command("feed", "--source", "simulated", "--rate", 200, "--metrics-port", feed)
    async with (
        program(*serve, env=env),
        program(*feeding, env=env),
        rtx.open(Settings.load(url=group.url)) as layer,
        serve_metrics(layer, 0) as own,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        for port in (gateway, feed):
            await eventually(
                lambda port=port: answers(http, f"http://127.0.0.1:{port}/health/live"), within=60
            )
        await cause_events(layer, group)
        jobs = {
            "gateway": {"static_configs": [{"targets": [f"127.0.0.1:{gateway}"]}]},
            "feed": {"static_configs": [{"targets": [f"127.0.0.1:{feed}"]}]},
            "engine": {"static_configs": [{"targets": [own.removeprefix("http://")]}]},
            "redis": {
                "metrics_path": "/metrics/servers",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{gateway}"]}],
            },
        }
        async with prometheus(tmp_path, jobs, HURRY) as running:
            yield running


async def cause_events(layer: rtx.DataLayer, group: LocalSentinels) -> None:
    """Some series are there only once something has happened."""
    with pytest.raises(rtx.BadTick):
        await layer.market_data.publish(rtx.Tick("EURUSD", bid=2.0, ask=1.0))
    client = redis_py.Redis(port=group.servers[0].port)
    await client.config_set("latency-monitor-threshold", 1)
    await client.execute_command("DEBUG", "SLEEP", "0.01")
    with pytest.raises(redis_py.ResponseError):
        await client.execute_command("NOTHING")
    await client.aclose()


async def test_every_metric_that_is_named_is_there(tmp_path: Path) -> None:
    needed("prometheus", "prometheus")
    async with (
        LocalSentinels(replicas=1, sentinels=1) as group,
        system(tmp_path, group) as seen,
    ):
        wanted = {name for expression in expressions() for name in metrics_in(expression)}
        assert wanted >= {"rtx_cache_read_seconds_bucket", "redis_up", "rtx_feed_ticks_total"}
        missing: set[str] = set()

        async def all_there() -> bool:
            nonlocal missing
            missing = wanted - await seen.names()
            return not missing

        with contextlib.suppress(AssertionError):
            await eventually(all_there, within=60, every=0.1)
        assert not missing, f"named in the dashboard or the rules, and nowhere else: {missing}"
        for expression in expressions():
            await seen.get("query", query=expression)

        async def well() -> bool:
            found = (await seen.get("rules"))["groups"]
            return all(rule["health"] == "ok" for each in found for rule in each["rules"])

        await eventually(well, every=0.1)


async def test_the_exporter_and_the_built_in_collector_agree(own_server: ServerProcess) -> None:
    exporter = needed("prometheus-redis-exporter", "prometheus-redis-exporter")
    port = free_port()
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
        await layer.symbols.get("EURUSD")
        client = redis_py.Redis.from_url(own_server.url)
        await client.config_set("maxmemory", "200mb")
        for number in range(300):
            await client.set(f"kept:{number}", number)
            await client.get(f"kept:{number}")
        await client.aclose()
        command = (
            exporter,
            *("-redis.addr", own_server.url, "-web.listen-address", f"127.0.0.1:{port}"),
        )
        collector = ServerMetrics(layer)
        async with program(*command), httpx.AsyncClient(trust_env=False) as http:
            url = f"http://127.0.0.1:{port}"
            await eventually(lambda: answers(http, url))
            theirs = samples((await http.get(f"{url}/metrics")).text)
            ours = {
                (name, tuple(label for label in labels if label[0] not in ("instance", "group"))): v
                for (name, labels), v in samples((await collector.text()).decode()).items()
            }
        await collector.close()
    # Subcommands are the collectors' own: CLIENT SETNAME, CONFIG GET, LATENCY LATEST.
    compared = {key for key in theirs if key[0] in DASHBOARD_11835 and "|" not in str(key[1])}
    assert {name for name, _ in compared} == DASHBOARD_11835
    assert not compared - set(ours)
    # Between the two looks the layer and the collectors have asked a few things themselves.
    slack = {
        "redis_net_input_bytes_total": 5_000,
        "redis_net_output_bytes_total": 100_000,
        "redis_memory_used_bytes": 500_000,
        "redis_memory_max_bytes": 0,
        "redis_db_keys": 1,  # a price runs out
        "redis_db_keys_expiring": 1,
    }
    for key in compared:
        allowed = slack.get(key[0], 20)
        assert abs(ours[key] - theirs[key]) <= allowed, (key, ours[key], theirs[key])
    assert ours["redis_db_keys", (("db", "db0"),)] >= 300
    assert ours["redis_commands_total", (("cmd", "set"),)] >= 300
    assert ours["redis_memory_max_bytes", ()] == 200 * 2**20


async def test_a_server_that_hangs_or_is_gone_is_down_and_holds_up_no_scrape(
    own_server: ServerProcess,
) -> None:
    up = ("redis_up", (("group", "all"), ("instance", f"127.0.0.1:{own_server.port}")))
    async with (
        rtx.open(Settings.load(url=own_server.url)) as layer,
        serve_metrics(layer, 0) as url,
        httpx.AsyncClient(trust_env=False, timeout=3.9) as http,  # Prometheus waits for four
    ):

        async def is_up() -> bool:
            return samples((await http.get(f"{url}/metrics/servers")).text)[up] == 1

        async def is_down() -> bool:
            return not await is_up()

        assert await is_up()
        own_server.kill(signal.SIGSTOP)
        try:
            await eventually(is_down)
            assert (await http.get(f"{url}/metrics")).status_code == 200
        finally:
            own_server.kill(signal.SIGCONT)
        await eventually(is_up)
        own_server.kill()
        await eventually(is_down)
