"""The layouts of the compose files as processes of this machine, from the same files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rtx.topology.process import free_port
from tests.conftest import ROOT, wait_sync

DEPLOY = ROOT / "deploy"
GROUPS = {"cache": "trading-redis", "state": "trading-state"}
CONFS = {
    "cache": ["redis-cache.conf"],
    "state": ["redis-state.conf", "redis-state-ha.conf"],
}


class Layout:
    """Programs started by the deployment's own scripts; `secrets` is what make-secrets.sh made."""

    def __init__(self, binary: str, directory: Path, secrets: Path) -> None:
        self.secrets = secrets
        self.ports: dict[str, int] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._binary = binary
        self._directory = directory
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {}

    def password(self, user: str) -> str:
        return (self.secrets / f"{user}-password").read_text()

    def add(self, name: str, script: str, confs: list[Path], **environment: str) -> None:
        """Start a program under a name that `start` knows from then on."""
        port = self.ports[name] = free_port()
        data = self._directory / name
        data.mkdir()
        environment |= {
            "DATA": str(data),
            "NAME": "127.0.0.1",
            "PORT": str(port),
            "SECRETS": str(self.secrets),
            "SERVER": self._binary,
        }
        command = ["sh", str(DEPLOY / script), *map(str, confs)]
        self._commands[name] = (command, environment)
        self.start(name)

    def start(self, name: str) -> None:
        command, environment = self._commands[name]
        with (self._directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()

    def end(self, name: str) -> None:
        """End it as an operator does, with what it has written on disk."""
        self.running[name].terminate()
        self.running[name].wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    def client(self, name: str, user: str = "admin") -> redis.Redis:
        login = (
            {"password": self.password("sentinels")}
            if name.startswith("sentinel")
            else {"username": user, "password": self.password(user)}
        )
        return redis.Redis(
            port=self.ports[name],
            decode_responses=True,
            protocol=2,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
            **login,
        )

    def ask(self, name: str, *command: str) -> object:
        """A reply, or None while it does not answer."""
        try:
            with closing(self.client(name)) as client:
                return client.execute_command(*command)
        except (redis.ConnectionError, redis.TimeoutError):
            return None

    def role(self, name: str) -> object:
        found = self.ask(name, "ROLE")
        return found[0] if isinstance(found, list) else found

    def with_our_addresses(self, text: str) -> str:
        """A file's text with host names and paths of containers replaced by ours."""
        for name, port in self.ports.items():
            text = re.sub(rf"\b{name}:\d+", f"127.0.0.1:{port}", text)
            text = re.sub(rf"\b{name} \d+", f"127.0.0.1 {port}", text)
        return text.replace("/run/secrets", str(self.secrets))


def start_ha(layout: Layout, directory: Path) -> None:
    """What compose.ha.yaml starts but for gateways and monitoring; returns when it is whole."""
    for group, confs in CONFS.items():
        primary = f"{group}-1"
        for number in (1, 2, 3):
            more = {} if number == 1 else {"PRIMARY": f"127.0.0.1 {layout.ports[primary]}"}
            files = [DEPLOY / conf for conf in confs]
            layout.add(f"{group}-{number}", "start-server.sh", files, MEMORY="100mb", **more)
    conf = directory / "sentinel.conf"
    conf.write_text(layout.with_our_addresses((DEPLOY / "sentinel.conf").read_text("utf-8")))
    for number in (1, 2, 3):
        layout.add(f"sentinel-{number}", "start-sentinel.sh", [conf])
    wait_sync(lambda: all(whole(layout, group) for group in GROUPS), within=30)


def whole(layout: Layout, group: str) -> bool:
    """Whether the sentinels agree, and both replicas follow the primary."""
    for number in (1, 2, 3):
        try:
            quorum = layout.ask(f"sentinel-{number}", "SENTINEL", "CKQUORUM", GROUPS[group])
        except redis.ResponseError:
            return False
        if "3 usable" not in str(quorum):
            return False
        with closing(layout.client(f"sentinel-{number}")) as client:
            replicas = client.execute_command("SENTINEL", "REPLICAS", GROUPS[group])
        if sum("'master-link-status', 'ok'" in str(replica) for replica in replicas) != 2:
            return False
    return True
