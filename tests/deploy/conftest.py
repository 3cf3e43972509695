"""Servers booted from the deployment files, on every server program at hand."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rtx.topology.process import free_port
from tests.conformance.servers import SERVERS
from tests.conftest import ROOT, wait_sync

DEPLOY = ROOT / "deploy"


class Booted:
    """A server that runs; `client` is logged in as whoever it was asked for."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port = port
        self.process = process

    def client(self, user: str | None = None, password: str | None = None) -> redis.Redis:
        return redis.Redis(
            port=self.port,
            username=user,
            password=password,
            decode_responses=True,
            protocol=2,
            retry=Retry(NoBackoff(), 0),  # a refusal is an answer
        )


Boot = Callable[..., Booted]


@pytest.fixture(params=SERVERS, ids=lambda server: server.name)
def binary(request: pytest.FixtureRequest) -> str:
    """Each server program at hand."""
    return request.param.needed()


@pytest.fixture
def boot(binary: str, tmp_path: Path) -> Iterator[Boot]:
    """Boot a file; only directory and port are ours, and what the test adds."""
    started: list[subprocess.Popen[str]] = []

    def start(
        conf: Path, *arguments: str, user: str | None = None, password: str | None = None
    ) -> Booted:
        port = free_port()
        data = tmp_path / f"data-{port}"
        data.mkdir()
        process = subprocess.Popen(
            [binary, str(conf), "--port", str(port), "--dir", str(data), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        server = Booted(port, process)

        def answers() -> bool:
            if process.poll() is not None:
                assert process.stdout is not None
                pytest.fail(f"{conf.name} does not boot:\n{process.stdout.read()}")
            with contextlib.closing(server.client(user, password)) as client:
                try:
                    return bool(client.ping())
                except redis.AuthenticationError:
                    return True

        wait_sync(answers)
        return server

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What make-secrets.sh makes."""
    out = tmp_path / "secrets"
    subprocess.run(["sh", str(DEPLOY / "make-secrets.sh"), str(out)], check=True, timeout=20)
    return out
