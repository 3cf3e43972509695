"""The compose file, the image and the monitoring's files, as far as they can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = ROOT / "deploy"


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def test_it_has_the_parts(compose) -> None:
    parts = {"cache", "state", "gateway", "exporter", "prometheus", "grafana"}
    assert set(compose["services"]) == parts


def test_only_the_gateway_is_published_and_on_this_machine_alone(compose) -> None:
    published = {
        name: part["ports"] for name, part in compose["services"].items() if "ports" in part
    }
    assert list(published) == ["gateway"]
    assert all(str(port).startswith("127.0.0.1:") for port in published["gateway"])
    outside = [name for name, part in compose["services"].items() if "outside" in part["networks"]]
    assert outside == ["gateway"]
    assert compose["networks"]["servers"] == {"internal": True}


def test_every_mounted_file_exists_or_is_made(compose) -> None:
    made = (DEPLOY / "make-secrets.sh").read_text("utf-8")
    users = [line.split()[1] for line in (DEPLOY / "users.acl").read_text("utf-8").splitlines()]
    for part in compose["services"].values():
        for mount in part.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in compose["volumes"]
        for secret in part.get("secrets", ()):
            assert (secret["source"] if isinstance(secret, dict) else secret) in compose["secrets"]
    for secret in compose["secrets"].values():
        name = Path(secret["file"]).name
        assert name in made or name.removesuffix("-password") in [*users, "grafana"], name


def test_secrets_are_files_and_never_values(compose) -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert not re.search(r"(?i)(password|requirepass|auth)[=:]\s*[\"']?[a-z0-9]{6,}", text)
    for part in compose["services"].values():
        for name, value in part.get("environment", {}).items():
            if "PASSWORD" in name:
                assert str(value).startswith("/run/secrets/"), name


def test_both_servers_have_the_users_and_a_check_that_logs_in(compose) -> None:
    for name in ("cache", "state"):
        part = compose["services"][name]
        assert "--aclfile" in part["command"]
        assert f"redis-{name}.conf" in part["command"][1]
        assert part["healthcheck"]["test"][-1].endswith("check-server.sh")
    waits = compose["services"]["gateway"]["depends_on"]
    assert {wait["condition"] for wait in waits.values()} == {"service_healthy"}


def test_images_are_pinned(compose) -> None:
    for name, part in compose["services"].items():
        if "image" in part:
            assert re.search(r":v?\d", part["image"]), name


def test_the_image_runs_as_a_user_without_rights() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users, "no USER: it would run as root"
    assert users[-1] not in ("root", "0", "0:0")
    assert 'ENTRYPOINT ["rtx"]' in lines
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_prometheus_asks_the_gateway_and_the_exporter_for_each_server(
    compose, secrets: Path
) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    targets = [host for item in jobs["redis"]["static_configs"] for host in item["targets"]]
    assert targets == ["redis://cache:6379", "redis://state:6379"]
    exporter = compose["services"]["exporter"]["environment"]
    known = json.loads((secrets / "exporter.json").read_text("utf-8"))
    for target in targets:  # the exporter looks its password up by user and target
        assert target.replace("://", f"://{exporter['REDIS_USER']}@") in known
    assert jobs["gateway"]["static_configs"][0]["targets"] == ["gateway:8000"]
    sources = yaml.safe_load((DEPLOY / "grafana" / "datasources.yaml").read_text("utf-8"))
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
