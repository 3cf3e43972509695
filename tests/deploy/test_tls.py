"""TLS from the shipped files, with certificates that `rtx config certs` makes."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

import rtx
from rtx.cli.certs import make_certs
from rtx.errors import SettingsError, Unavailable
from rtx.monitoring.doctor import examine
from rtx.monitoring.servers import ServerMetrics
from rtx.settings import Settings
from rtx.topology.process import free_port
from tests.conformance.secure import tls_server
from tests.conftest import ROOT, wait_sync

DEPLOY = ROOT / "deploy"


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    directory = tmp_path / "certs"
    command = [sys.executable, "-m", "rtx.cli", "config", "certs", "--directory", str(directory)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert [Path(line).name for line in made.split()] == [
        *("ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key")
    ]
    return directory


@pytest.fixture
def url(certs: Path, tmp_path: Path) -> Iterator[str]:
    """A server that runs with redis.conf and redis-tls.conf."""
    text = (DEPLOY / "redis-tls.conf").read_text("utf-8").replace("/run/secrets", str(certs))
    port = free_port()
    conf = tmp_path / "tls.conf"
    conf.write_text(
        f"include {DEPLOY / 'redis.conf'}\n{text}\ntls-port {port}\ndir {tmp_path}\n"
        "maxmemory 100mb\nrequirepass secret\n"
    )
    server = subprocess.Popen([tls_server(), str(conf)], stdout=subprocess.DEVNULL)

    def answers() -> bool:
        assert server.poll() is None, "it does not boot"
        own = {"ssl": True, "ssl_ca_certs": str(certs / "ca.pem"), "password": "secret"}
        try:
            with closing(redis.Redis(port=port, **own)) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    try:
        wait_sync(answers)
        yield f"rediss://:secret@localhost:{port}"
    finally:
        server.kill()
        server.wait()


async def test_the_layer_works_over_tls_and_shows_a_certificate(url: str, certs: Path) -> None:
    settings = Settings.load(url=url, tls={"ca": str(certs / "ca.pem")})
    async with rtx.open(settings) as layer:
        await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
        assert await layer.prices.get("EURUSD")
        collector = ServerMetrics(layer)
        assert b"\nredis_certificate_end_timestamp_seconds{" in await collector.text()
        await collector.close()
    shown = {"cert": str(certs / "client.pem"), "key": str(certs / "client.key")}
    known = Settings.load(url=url, tls={"ca": str(certs / "ca.pem"), **shown})
    async with rtx.open(known) as layer:
        assert (await layer.health()).ready


async def test_the_doctor_tells_that_a_certificate_ends_soon(url: str, certs: Path) -> None:
    settings = Settings.load(url=url, tls={"ca": str(certs / "ca.pem")})
    only = ("certificate-ends-soon",)
    assert (await examine(settings, only=only)).findings == ()
    make_certs(certs, ["localhost"], 1)
    own = {"ssl": True, "ssl_ca_certs": str(certs / "ca.pem"), "password": "secret"}
    with closing(redis.Redis(port=int(url.rpartition(":")[2]), **own)) as client:
        pair = ("tls-cert-file", certs / "server.pem", "tls-key-file", certs / "server.key")
        client.config_set(*map(str, pair))
    [finding] = (await examine(settings, only=only)).findings
    assert (finding.severity, finding.evidence) == ("critical", "it ends in 1.0 days")


async def test_an_authority_that_did_not_sign_is_not_believed(url: str, tmp_path: Path) -> None:
    make_certs(tmp_path / "other", ["localhost"], 1)
    settings = Settings.load(url=url, tls={"ca": str(tmp_path / "other" / "ca.pem")})
    with pytest.raises(Unavailable, match="certificate"):
        async with rtx.open(settings):
            pass


def test_keys_are_for_their_owner_alone_and_the_authority_stays(certs: Path) -> None:
    for key in certs.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    authority = (certs / "ca.pem").read_bytes()
    make_certs(certs, ["node-1", "10.0.0.7"], 30)
    assert (certs / "ca.pem").read_bytes() == authority
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for host in ("-verify_hostname", "node-1"), ("-verify_ip", "10.0.0.7"):
        command = ["openssl", "verify", "-CAfile", "ca.pem", "-purpose", "sslserver", *host]
        subprocess.run([*command, "server.pem"], cwd=certs, check=True, capture_output=True)
    wrong = ["openssl", "verify", "-CAfile", "ca.pem", "-verify_hostname", "node-2", "server.pem"]
    assert subprocess.run(wrong, cwd=certs, capture_output=True).returncode != 0


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no host name"):
        make_certs(tmp_path / "a", ["a" * 70 + ".b"], 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="choose another directory"):
        make_certs(tmp_path / "file", ["localhost"], 1)
    bad = tmp_path / "bad"
    make_certs(bad, ["localhost"], 1)
    (bad / "ca.key").write_text("nonsense")
    with pytest.raises(SettingsError, match="cannot be read"):
        make_certs(bad, ["localhost"], 1)
