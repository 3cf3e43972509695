"""The gateway as an ASGI application over an open data layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from msgspec import Struct

from rtx.errors import RtxError
from rtx.gateway import operations, pages, problems, rest
from rtx.gateway.alert_rules import RuleBody
from rtx.gateway.gateway import Gateway
from rtx.gateway.orders import MarketOrder, OrderDesk
from rtx.gateway.replies import DecimalSchema, JsonResponse, Login
from rtx.gateway.sse import events
from rtx.gateway.stream import stream
from rtx.layer import DataLayer
from rtx.setting_groups import GatewaySettings
from rtx.web.middleware import encoded

if TYPE_CHECKING:
    from litestar.types import Message, Scope

_MAX_BODY = 64 * 1024

# For the pages; harmless elsewhere. `no-referrer` keeps the token of a stream's URL to itself.
_SECURITY = [
    (
        b"content-security-policy",
        b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
        b"object-src 'none'; base-uri 'none'; "
        b"form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


def create_app(
    layer: DataLayer,
    *,
    orders: OrderDesk | None = None,
    settings: GatewaySettings | None = None,
) -> Litestar:
    """An application over an open layer, which it neither opens nor closes.

    `orders` fills market orders; without it the gateway takes none. `settings` are those of the
    layer unless given. Raises `SettingsError` for a malformed password hash. Run it with `serve`.
    """
    gateway = Gateway(layer, orders, settings or layer.settings.gateway)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with gateway:
            yield

    async def before_send(message: Message, scope: Scope) -> None:
        if message["type"] == "http.response.start":
            gateway.counters.responded(message["status"])
            fields = encoded(scope["state"].get("limit_fields", {}))
            message["headers"] = [*message["headers"], *fields, *_SECURITY]

    app = Litestar(
        route_handlers=[
            *rest.routes(login=gateway.settings.auth == "required"),
            stream,
            events,
            operations.live,
            operations.ready,
            operations.prometheus,
            operations.servers,
            pages.index,
            pages.page,
            pages.docs_file,
        ],
        dependencies={"gateway": Provide(lambda: gateway, sync_to_thread=False)},
        lifespan=[lifespan],
        before_send=[before_send],
        exception_handlers={
            HTTPException: problems.handle,
            RtxError: problems.handle,
            Exception: problems.handle,
        },
        response_class=JsonResponse,
        plugins=[DecimalSchema()],
        request_max_body_size=_MAX_BODY,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
        openapi_config=OpenAPIConfig(
            title="RTX gateway",
            version="1",
            description="Prices, accounts, orders and streams of a trading engine's data layer.",
            path="/docs",
            render_plugins=[pages.DocsPage(), JsonRenderPlugin()],
            components=Components(
                security_schemes={"session": SecurityScheme(type="http", scheme="bearer")}
            ),
        ),
        state=State({"gateway": gateway}),
    )
    _forbid_unknown_fields(app, MarketOrder, Login, RuleBody)
    return app


def _forbid_unknown_fields(app: Litestar, *bodies: type[Struct]) -> None:
    """Say in the description what the decoder does; Litestar leaves it out."""
    for body in bodies:
        app.openapi_schema.components.schemas[body.__name__].additional_properties = False
