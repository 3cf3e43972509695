"""TLS and logins: a server is believed only when it can prove who it is."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis.asyncio as redis_py
import trustme

import rtx
from rtx.errors import AccessDenied, ConnectFailed, SettingsError
from rtx.settings import Settings
from rtx.topology.process import ServerProcess


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@asynccontextmanager
async def tls_proxy(
    server: ServerProcess, certificate: trustme.LeafCert, client_ca: trustme.CA | None = None
) -> AsyncIterator[int]:
    """A port that speaks TLS in front of the server, which the wheel builds without."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, downstream), copy(upstream, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def use(settings: Settings) -> None:
    async with rtx.open(settings) as layer:
        ticks = layer.market_data.subscribe("EURUSD", snapshot=False)
        await ticks.ready()
        await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.2))
        assert isinstance(await anext(ticks), rtx.Tick)
        assert await layer.prices.get("EURUSD") is not None
        assert (await layer.limits.orders.hit(1)).allowed


async def test_every_role_speaks_tls_with_an_authority_of_its_own(
    own_server: ServerProcess, authority: trustme.CA, ca_file: Path
) -> None:
    async with tls_proxy(own_server, authority.issue_cert("localhost")) as port:
        await use(Settings.load(url=f"rediss://localhost:{port}", tls={"ca": str(ca_file)}))


async def test_a_server_of_an_unknown_authority_is_refused(
    own_server: ServerProcess, authority: trustme.CA
) -> None:
    async with tls_proxy(own_server, authority.issue_cert("localhost")) as port:
        with pytest.raises(ConnectFailed, match="certificate"):
            await use(Settings.load(url=f"rediss://localhost:{port}"))


async def test_a_certificate_for_another_name_is_refused(
    own_server: ServerProcess, authority: trustme.CA, ca_file: Path
) -> None:
    async with tls_proxy(own_server, authority.issue_cert("redis.example.org")) as port:
        with pytest.raises(ConnectFailed, match=r"(?i)host"):
            await use(Settings.load(url=f"rediss://localhost:{port}", tls={"ca": str(ca_file)}))


async def test_verification_goes_off_only_by_name(
    own_server: ServerProcess, authority: trustme.CA
) -> None:
    async with tls_proxy(own_server, authority.issue_cert("redis.example.org")) as port:
        await use(Settings.load(url=f"rediss://localhost:{port}", tls={"verify": False}))


async def test_a_client_certificate_is_shown_where_the_server_asks_for_one(
    own_server: ServerProcess, authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    mine = authority.issue_cert("client@example.org")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    server = authority.issue_cert("localhost")
    async with tls_proxy(own_server, server, client_ca=authority) as port:
        url = f"rediss://localhost:{port}"
        files = {"ca": str(ca_file), "cert": str(tmp_path / "client.pem")}
        await use(Settings.load(url=url, tls=files))
        with pytest.raises(ConnectFailed):
            await use(Settings.load(url=url, tls={"ca": str(ca_file)}))


async def test_a_plain_url_to_a_tls_port_fails_with_a_typed_error(
    own_server: ServerProcess, authority: trustme.CA
) -> None:
    async with tls_proxy(own_server, authority.issue_cert("localhost")) as port:
        settings = Settings.load(url=f"redis://localhost:{port}", pool={"connect_timeout": 0.5})
        with pytest.raises(ConnectFailed):
            await use(settings)


async def test_a_tls_url_to_a_plain_port_fails_with_a_typed_error(
    own_server: ServerProcess, ca_file: Path
) -> None:
    settings = Settings.load(
        url=f"rediss://localhost:{own_server.port}",
        tls={"ca": str(ca_file)},
        pool={"connect_timeout": 0.5},
    )
    with pytest.raises(ConnectFailed):
        await use(settings)


def test_missing_tls_files_are_named(tmp_path: Path) -> None:
    settings = Settings.load(url="rediss://localhost", tls={"ca": str(tmp_path / "no.pem")})
    with pytest.raises(SettingsError, match=r"no\.pem"):
        settings.tls.context()


# --- logins --------------------------------------------------------------------------------------


async def test_a_password_comes_from_a_file(own_server: ServerProcess, tmp_path: Path) -> None:
    async with redis_py.Redis(port=own_server.port) as admin:
        await admin.config_set("requirepass", "s3cret")
    secret = tmp_path / "password"
    secret.write_text("s3cret\n", "utf-8")
    await use(Settings.load(url=own_server.url, login={"password_file": str(secret)}))
    with pytest.raises(AccessDenied) as caught:
        await use(Settings.load(url=own_server.url, login={"password": "wr0ng"}))
    assert "wr0ng" not in str(caught.value)


async def test_a_missing_password_file_is_named(own_server: ServerProcess, tmp_path: Path) -> None:
    settings = Settings.load(url=own_server.url, login={"password_file": str(tmp_path / "nowhere")})
    with pytest.raises(SettingsError, match="nowhere"):
        await use(settings)


async def test_each_role_logs_in_as_a_user_of_its_own(own_server: ServerProcess) -> None:
    common = ["+hello", "+auth", "+ping", "+client|setname", "+select", "resetchannels"]
    async with redis_py.Redis(port=own_server.port) as admin:
        for name, rules in {
            "cache": ["~price:*", "+get", "+mget", "+set", "+del", "+eval", "+evalsha"],
            "pubsub": ["&market_data:*", "+publish", "+subscribe", "+unsubscribe"],
            "limits": [
                *("~ratelimit:*", "+evalsha", "+eval", "+time", "+getrange", "+append"),
                *("+psetex", "+setrange", "+pexpire", "+del", "+hget", "+hgetall"),
            ],
        }.items():
            user = ["reset", "on", f">{name}-pw", *common, *rules]
            await admin.execute_command("ACL", "SETUSER", name, *user)
        await admin.execute_command("ACL", "SETUSER", "default", "off")
    logins = {
        f"{name}_login": {"username": name, "password": f"{name}-pw"}
        for name in ("cache", "pubsub", "limits")
    }
    await use(Settings.load(url=own_server.url, **logins))


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = Settings.load(
        url="redis://:urlsecret@localhost",
        login={"password": "loginsecret"},
        sentinel_login={"username": "s", "password": "sentinelsecret"},
    )
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "secret" not in shown.replace("Secret", "")
    assert "urlsecret" not in repr(settings.location("cache"))


@pytest.mark.parametrize(
    ("login", "why"),
    [
        ({"password": "a", "password_file": "b"}, "not both"),
        ({"username": "a"}, "needs a password"),
    ],
)
def test_an_impossible_login_says_what_to_change(login: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Settings.load(login=login)
