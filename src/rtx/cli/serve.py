"""`rtx serve`: the gateway against the configured topology."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

import typer

import rtx
from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.errors import SettingsError


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, instead of gateway.host.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port, instead of gateway.port; 0 takes a free one."),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="With a server of its own, gone at the end.")
    ] = False,
    url: options.Url = None,
) -> None:
    """Serve HTTP, WebSocket, SSE and the live page from the configured servers.

    Nothing is fed or traded by this command: `rtx feed` brings prices in, an engine of your own
    writes the rest. Ends with Ctrl-C or SIGTERM, within 2 s.

    \b
    Examples:
      RTX_URL=redis://127.0.0.1:6379 rtx serve
      rtx serve --host 0.0.0.0 --port 80
    """

    async def main(stop: asyncio.Event) -> None:
        if embedded and url is not None:
            raise SettingsError("--embedded and --url name two servers; leave one out")
        settings = options.load("embedded://" if embedded else url)
        if options.embedded_roles(settings) and not options.chosen(settings):
            options.load_for_server(url, "serve from", or_else=", or add --embedded")
        from rtx.gateway import create_app
        from rtx.gateway import serve as run_gateway

        gateway = settings.gateway
        async with rtx.open(settings) as layer, AsyncExitStack() as stack:
            if settings.alerts.enabled:
                await stack.enter_async_context(layer.alert_rules.engine())
            if gateway.auth == "required" and not gateway.users:
                terminal.note(
                    "nobody can log in: gateway.auth is required and gateway.users is empty, so "
                    "prices are served and accounts are not (see `rtx config render`)"
                )
            if layer.embedded_url:
                terminal.stdout().print(f"server    {layer.embedded_url}")
            await run_gateway(
                create_app(layer),
                gateway.host if host is None else host,
                gateway.port if port is None else port,
                ready=_announce,
                stop=stop,
            )

    run(main, service=True)


def _announce(address: str) -> None:
    terminal.stdout().print(f"serving   {address}")
    terminal.stdout().print(f"live page {address}/    API {address}/docs    Ctrl-C ends")
