"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from rtx import urls
from rtx.cli import terminal
from rtx.errors import SettingsError
from rtx.settings import Settings
from rtx.topology import Role

if TYPE_CHECKING:
    from rtx.layer import DataLayer

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server, as in RTX_URL (which keeps a password out of the process list).",
    ),
]
MetricsPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Serve Prometheus metrics on this port of 127.0.0.1; 0 takes a free one.",
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]

_REMEDY = (
    "set RTX_URL, such as RTX_URL=redis://127.0.0.1:6379 (`rtx server` starts one there, "
    "`rtx demo` prints its own)"
)


@asynccontextmanager
async def metrics_served(layer: DataLayer, port: int | None) -> AsyncIterator[None]:
    """Serve the metrics while this lasts, where there is a port, and say where."""
    if port is None:
        yield
        return
    from rtx.monitoring import serve_metrics

    async with serve_metrics(layer, port) as address:
        terminal.note(f"metrics at {address}/metrics, of the servers at {address}/metrics/servers")
        yield


def load(url: str | None = None) -> Settings:
    """Settings of file, environment and `--url`. Raises `SettingsError`."""
    return Settings.load(url=url)


def load_for_server(url: str | None, purpose: str, *, or_else: str = "") -> Settings:
    """The same for a command that needs a server which others use too.

    `or_else` is one more remedy. Raises `SettingsError` where a role would get an embedded server,
    which nobody else would see.
    """
    settings = load(url)
    if embedded_roles(settings):
        what = "names an embedded server" if chosen(settings) else "is not set"
        raise SettingsError(
            f"no server to {purpose}: the url {what}, and an embedded server would be seen by "
            f"this process alone; {_REMEDY}{or_else}"
        )
    return settings


def embedded_roles(settings: Settings) -> list[Role]:
    """Roles whose server this process would start itself."""
    return [role for role in Role if isinstance(settings.location(role.value), urls.Embedded)]


def chosen(settings: Settings) -> bool:
    """Whether somebody said where the server is, rather than nobody."""
    return "url" in settings.model_fields_set


def split(names: list[str] | None) -> list[str]:
    """`A B,C` as three names, each once."""
    parts = [part.strip() for name in names or () for part in name.split(",")]
    return list(dict.fromkeys(part for part in parts if part))
