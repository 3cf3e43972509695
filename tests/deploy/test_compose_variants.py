"""The compose files of the layouts that go on when a server dies, as far as they can be read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = ROOT / "deploy"
FILES = ["compose.yaml", "compose.ha.yaml", "compose.cluster.yaml"]

# Attributes of the compose specification that these files use or may come to use.
TOP = {"name", "services", "networks", "volumes", "secrets", "configs"}
SERVICE = {
    "build": (dict, str),
    "cap_drop": (list,),
    "command": (list, str),
    "configs": (list,),
    "depends_on": (dict, list),
    "entrypoint": (list, str),
    "environment": (dict, list),
    "expose": (list,),
    "healthcheck": (dict,),
    "hostname": (str,),
    "image": (str,),
    "logging": (dict,),
    "networks": (dict, list),
    "ports": (list,),
    "read_only": (bool,),
    "restart": (str,),
    "secrets": (list,),
    "security_opt": (list,),
    "stop_grace_period": (str,),
    "tmpfs": (list, str),
    "ulimits": (dict,),
    "user": (str,),
    "volumes": (list,),
}
HEALTHCHECK = {"test", "interval", "timeout", "retries", "start_period", "start_interval"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")


@pytest.fixture(params=FILES)
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / request.param).read_text("utf-8"))


def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def test_every_attribute_is_of_the_specification_and_of_its_type(compose) -> None:
    assert {key for key in compose if not key.startswith("x-")} <= TOP
    for name, service in services(compose).items():
        for key, value in service.items():
            assert key in SERVICE, f"{name}: {key}"
            assert isinstance(value, SERVICE[key]), f"{name}: {key}"
        assert ("image" in service) != ("build" in service), name
        assert service.get("restart", "no") in {"no", "always", "on-failure", "unless-stopped"}
        check = service.get("healthcheck", {})
        assert set(check) <= HEALTHCHECK
        for key in ("interval", "timeout", "start_period"):
            assert DURATION.fullmatch(check.get(key, "1s")), (name, key)
        for port in service.get("ports", ()):
            published = re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port)
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", published), port
        waits = service.get("depends_on", {})
        for other in waits:
            assert other in services(compose), (name, other)
            if isinstance(waits, dict):
                assert waits[other]["condition"] in CONDITIONS
                if waits[other]["condition"] == "service_healthy":
                    assert "healthcheck" in services(compose)[other], (name, other)


def test_what_a_service_names_is_there(compose) -> None:
    for name, service in services(compose).items():
        for network in service["networks"]:
            assert network in compose["networks"], (name, network)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), (name, source)
            else:
                assert source in compose["volumes"], (name, source)
        for secret in service.get("secrets", ()):
            source = secret["source"] if isinstance(secret, dict) else secret
            assert source in compose["secrets"], (name, source)
        mounted = {volume.split(":")[1] for volume in service.get("volumes", ())}
        command = service.get("command", [])
        for word in [*command, *service.get("healthcheck", {}).get("test", [])]:
            if re.search(r"/(valkey|local/bin)/[\w.-]+\.(conf|sh)$", word):
                assert word in mounted, (name, word)
        for word in command[:1]:
            if word.endswith(".sh"):
                assert os.access(DEPLOY / Path(word).name, os.X_OK), word


def test_every_secret_is_made(compose, secrets: Path) -> None:
    for secret in compose["secrets"].values():
        assert (secrets / Path(secret["file"]).name).stat().st_size > 0, secret


def test_nothing_is_published_but_gateways_and_no_server_runs_as_root(compose) -> None:
    for name, service in services(compose).items():
        if "ports" in service or "outside" in service["networks"]:
            assert name.startswith("gateway"), name
        if any(str(word).endswith(".sh") for word in service.get("command", [])[:1]):
            assert service["user"] == "valkey", name
    assert compose["networks"]["servers"]["internal"] is True


def test_a_group_has_a_primary_and_two_replicas_and_three_sentinels_watch_it() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.ha.yaml").read_text("utf-8"))
    for group in ("cache", "state"):
        parts = [services(compose)[f"{group}-{number}"] for number in (1, 2, 3)]
        primaries = [part["environment"].get("PRIMARY") for part in parts]
        assert primaries == [None, f"{group}-1 6379", f"{group}-1 6379"]
        names = [part["environment"]["NAME"] for part in parts]
        assert names == [f"{group}-{number}" for number in (1, 2, 3)]
        assert len({tuple(part["command"]) for part in parts}) == 1
    watched = re.findall(
        r"^sentinel monitor (\S+) (\S+) 6379 2$",
        (DEPLOY / "sentinel.conf").read_text("utf-8"),
        re.MULTILINE,
    )
    assert watched == [("trading-redis", "cache-1"), ("trading-state", "state-1")]
    assert sum(name.startswith("sentinel") for name in services(compose)) == 3
    assert sum(name.startswith("gateway") for name in services(compose)) == 2


@pytest.mark.parametrize(
    ("file", "settings", "names"),
    [("compose.ha.yaml", "rtx.ha.toml", 3), ("compose.cluster.yaml", "rtx.cluster.toml", 3)],
)
def test_gateways_know_the_names_of_the_services(file: str, settings: str, names: int) -> None:
    compose = yaml.safe_load((DEPLOY / file).read_text("utf-8"))
    text = (DEPLOY / settings).read_text("utf-8")
    hosts = set(re.findall(r"[\w-]+(?=:\d+)", text))
    assert len(hosts) == names
    assert hosts <= set(services(compose))


@pytest.mark.parametrize(
    ("file", "compose_file"),
    [("ha.yml", "compose.ha.yaml"), ("cluster.yml", "compose.cluster.yaml")],
)
def test_prometheus_asks_every_server_and_gateway(
    file: str, compose_file: str, secrets: Path
) -> None:
    compose = yaml.safe_load((DEPLOY / compose_file).read_text("utf-8"))
    config = yaml.safe_load((DEPLOY / "prometheus" / file).read_text("utf-8"))
    usual = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    known = json.loads((secrets / "exporter.json").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    asked = [host for item in jobs["redis"]["static_configs"] for host in item["targets"]]
    parts = services(compose).items()
    servers = [name for name, part in parts if "start-server" in str(part.get("command"))]
    sentinels = [name for name, part in parts if "start-sentinel" in str(part.get("command"))]
    places = [*(f"{name}:6379" for name in servers), *(f"{name}:26379" for name in sentinels)]
    assert asked == [f"redis://{place}" for place in places]
    labels = {item["labels"]["group"] for item in jobs["redis"]["static_configs"]}
    assert ("sentinel" in labels) == bool(sentinels)
    assert all(target.replace("://", "://exporter@") in known for target in asked)
    gateways = [name for name in services(compose) if name.startswith("gateway")]
    assert jobs["gateway"]["static_configs"][0]["targets"] == [f"{name}:8000" for name in gateways]
    # But for the targets it is the same file.
    for one in (config, usual):
        for job in one["scrape_configs"]:
            if job["job_name"] in {"gateway", "redis"}:
                del job["static_configs"]
    assert config == usual
