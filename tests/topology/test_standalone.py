"""One server at a fixed address: databases, sockets, logins and TLS as the URL has them."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import rtx
from rtx.errors import AccessDenied, ConnectFailed
from rtx.security import TLSSettings
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings
from rtx.topology import Role, Roles
from rtx.topology.base import Manner
from rtx.topology.process import ServerProcess
from rtx.topology.standalone import StandaloneTopology
from rtx.urls import Standalone, parse
from rtx.wire import Connection


@asynccontextmanager
async def dialed(
    url: str, db: int = 0, tls: TLSSettings | None = None
) -> AsyncIterator[Connection]:
    location = parse(url)
    assert isinstance(location, Standalone)
    manner = Manner(PoolSettings(), tls=(tls or TLSSettings()).context())
    connection = await StandaloneTopology(location, manner).dial(db, lambda _: None)
    yield connection
    await connection.close()


async def database_of(connection: Connection) -> str:
    info = await connection.call("CLIENT", "INFO")
    assert isinstance(info, bytes)
    return dict(item.split("=", 1) for item in info.decode().split())["db"]


@pytest.mark.parametrize(
    ("suffix", "role", "db"),
    [("", 0, "0"), ("", 2, "2"), ("/5", 2, "5"), ("/0", 2, "0"), ("?db=7", 1, "7")],
)
async def test_a_database_in_the_url_takes_the_place_of_the_roles(
    shared_server: str, suffix: str, role: int, db: str
) -> None:
    async with dialed(f"{shared_server}{suffix}", role) as connection:
        assert await database_of(connection) == db


async def test_a_unix_socket_serves(own_server: ServerProcess) -> None:
    async with dialed(f"unix://{own_server.socket}?db=3") as connection:
        assert await database_of(connection) == "3"


async def test_an_acl_user_logs_in_with_odd_characters(own_server: ServerProcess) -> None:
    async with dialed(own_server.url) as admin:
        rules = ["on", ">p@ss/w:rd?#é", "~*", "+@all"]
        assert await admin.call("ACL", "SETUSER", "trader", *rules) == b"OK"
    at = f"127.0.0.1:{own_server.port}"
    async with dialed(f"redis://trader:p%40ss%2Fw%3Ard%3F%23%C3%A9@{at}") as connection:
        assert await connection.call("ACL", "WHOAMI") == b"trader"
    with pytest.raises(AccessDenied, match="check user and password") as refused:
        async with dialed(f"redis://trader:hunter2@{at}"):
            pass
    assert "hunter2" not in str(refused.value)


async def test_clients_are_named_for_the_operator(shared_server: str) -> None:
    async with dialed(shared_server) as connection:
        assert await connection.call("CLIENT", "GETNAME") == b"rtx"


# --- roles ---------------------------------------------------------------------------------


async def test_one_url_gives_each_role_its_database_on_one_server(
    shared_server: str, namespace: str
) -> None:
    roles = Roles(Settings.load(url=shared_server))
    await roles.open()
    try:
        for role in Role:
            await roles.pool(role).call("SET", f"{namespace}who", role.value)
        for role in Role:
            found = await roles.pool(role).call("GET", f"{namespace}who")
            assert found == role.value.encode()
        assert roles.share_server(Role.CACHE, Role.PUBSUB)
        assert roles.embedded is None
    finally:
        await roles.close()


async def test_a_role_with_a_url_of_its_own_lives_there(
    shared_server: str, own_server: ServerProcess
) -> None:
    roles = Roles(Settings.load(url=shared_server, limits_url=own_server.url))
    await roles.open()
    try:
        ports = {}
        for role in Role:
            ports[role] = await roles.pool(role).call("CONFIG", "GET", "port")
        assert ports[Role.CACHE] == ports[Role.PUBSUB] != ports[Role.LIMITS]
        assert not roles.share_server(Role.CACHE, Role.LIMITS)
    finally:
        await roles.close()


async def test_a_role_that_cannot_be_reached_closes_those_that_were(shared_server: str) -> None:
    settings = Settings.load(url=shared_server, limits_url="redis://127.0.0.1:1")
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1"):
        async with rtx.open(settings):
            pass


# --- TLS -----------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate for 127.0.0.1 that is `cert.pem` in `tmp_path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rtx test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@asynccontextmanager
async def behind_tls(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """The server at `url` behind a TLS endpoint, as a managed service has it."""
    location = parse(url)
    assert isinstance(location, Standalone)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        inner = await asyncio.open_connection(location.address.host, location.address.port)
        await asyncio.gather(copy(reader, inner[1]), copy(inner[0], writer), return_exceptions=True)
        inner[1].close()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    yield f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_tls_serves_when_the_certificate_is_trusted(
    shared_server: str, certificate: ssl.SSLContext, tmp_path: Path, namespace: str
) -> None:
    tls = TLSSettings(ca=tmp_path / "cert.pem")
    async with behind_tls(shared_server, certificate) as url, dialed(f"{url}/1", 0, tls) as own:
        value = b"v" * 300_000
        assert await own.call("SET", f"{namespace}k", value) == b"OK"
        assert await own.call("GET", f"{namespace}k") == value
        assert await database_of(own) == "1"


async def test_a_certificate_for_another_host_is_refused(
    shared_server: str, certificate: ssl.SSLContext, tmp_path: Path
) -> None:
    tls = TLSSettings(ca=tmp_path / "cert.pem")
    async with behind_tls(shared_server, certificate) as url:
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            async with dialed(url.replace("127.0.0.1", "localhost"), 0, tls):
                pass


async def test_verification_can_be_switched_off_by_name(
    shared_server: str, certificate: ssl.SSLContext
) -> None:
    async with (
        behind_tls(shared_server, certificate) as url,
        dialed(url, 0, TLSSettings(verify=False)) as own,
    ):
        assert await own.call("PING") == b"PONG"


async def test_an_untrusted_certificate_is_refused_and_named(
    shared_server: str, certificate: ssl.SSLContext
) -> None:
    async with behind_tls(shared_server, certificate) as url:
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            async with dialed(url):
                pass


async def test_plain_redis_to_a_tls_port_is_a_typed_error(
    shared_server: str, certificate: ssl.SSLContext
) -> None:
    async with behind_tls(shared_server, certificate) as url:
        with pytest.raises(ConnectFailed):
            async with dialed(url.replace("rediss", "redis")):
                pass
