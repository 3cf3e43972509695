"""The way to an open connection: socket, TLS, login; and what went wrong on it, in plain words."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import hiredis

from rtx.errors import AccessDenied, ConnectFailed, ConnectionLost, ServerBusy, ServerError
from rtx.urls import Address
from rtx.wire.options import Argument, ConnectOptions
from rtx.wire.replies import Reply


@asynccontextmanager
async def explained(address: Address, within: float) -> AsyncIterator[None]:
    """Bound the opening of a connection to `within` seconds, and name what failed in it.

    Raises `ConnectFailed`, or `AccessDenied` when the server refuses the credentials.
    """
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError:
        raise ConnectFailed(
            f"no answer from {address} within {within:g} s; check the host, the port and the "
            "firewall"
        ) from None
    except (ssl.SSLError, OSError) as cause:
        raise ConnectFailed(f"cannot connect to {address}: {reason(cause)}") from None
    except ValueError:  # from the encoders of host names and of credentials
        raise ConnectFailed(
            f"cannot connect to {address}: host, user or password has characters that cannot be "
            "sent; check the URL"
        ) from None
    except ConnectionLost as cause:
        raise ConnectFailed(f"{address} hung up while connecting: {cause}") from None
    except ServerBusy as cause:
        raise ConnectFailed(f"{address} is not ready: {cause}") from None


async def open_socket(
    protocol: asyncio.Protocol, address: Address, tls: ssl.SSLContext | None
) -> None:
    """Connect a protocol to an address, by TCP, TLS or unix socket."""
    loop = asyncio.get_running_loop()
    if address.path is not None:
        await loop.create_unix_connection(lambda: protocol, address.path)
        return
    await loop.create_connection(
        lambda: protocol,
        address.host,
        address.port,
        ssl=tls,
        server_hostname=address.host if tls else None,
    )


def hello(options: ConnectOptions) -> list[bytes]:
    """The packed commands that every connection begins with."""
    login = options.credentials
    first: list[Argument] = ["HELLO", 3]
    if login.password is not None:
        first += ["AUTH", login.username or "default", login.password]
    first += ["SETNAME", options.client_name]
    commands = [first, ["SELECT", options.db]] if options.db else [first]
    return [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]


async def greet(address: Address, db: int, greeting: Iterable[asyncio.Future[Reply]]) -> None:
    """Wait for the answers to `hello`; raises `ConnectFailed` where it was refused."""
    try:
        for reply in greeting:
            await reply
    except (AccessDenied, ServerBusy, ConnectionLost):
        raise
    except ServerError as error:
        what = f"{address} refused the connection: {error}"
        if "unknown command" in str(error).lower():
            what += "; RTX needs RESP3, so Redis 6 or newer, or Valkey"
        elif "DB index" in str(error):
            what += f"; database {db} does not exist (see `databases`)"
        raise ConnectFailed(what) from None


def reason(error: Exception) -> str:
    """Why a socket failed, with the question to ask where there is one."""
    if isinstance(error, ConnectionRefusedError):
        return "refused; is the server running, and on this port?"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, FileNotFoundError):
        return "no such socket file"
    return str(error) or type(error).__name__
