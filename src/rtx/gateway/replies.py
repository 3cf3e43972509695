"""How answers are written: JSON with exact money as numbers, and the shapes of the routes."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, TypeVar

from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.plugins import OpenAPISchemaPlugin
from litestar.response import Response
from msgspec import Meta, Struct

from rtx import codecs
from rtx.models import Execution, Price

T = TypeVar("T")


class JsonResponse(Response[T]):
    """Litestar's response with our encoder, which writes `Decimal` as a JSON number."""

    def render(self, content: Any, media_type: str, enc_hook: Any = None) -> bytes:
        if isinstance(content, bytes):
            return content
        if isinstance(content, str):
            return content.encode()
        return codecs.encode(content)


class DecimalSchema(OpenAPISchemaPlugin):
    """Says in the OpenAPI description what the encoder does: `Decimal` is a number."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        return value is Decimal

    def to_openapi_schema(self, field_definition: Any, schema_creator: Any) -> Schema:
        return Schema(type=OpenAPIType.NUMBER)


class PriceReply(Struct, frozen=True):
    """Fresh price of a symbol, as it stands in the cache; `time` ISO 8601 UTC."""

    symbol: str
    time: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    bid: float
    ask: float
    mid: float
    spread: float

    @classmethod
    def of(cls, price: Price) -> PriceReply:
        return cls(
            price.symbol, codecs.iso(price.time), price.bid, price.ask, price.mid, price.spread
        )


class HistoryReply(Struct, frozen=True):
    """Executions in order; `last` is the position to ask or subscribe from next.

    `recovered` is False when messages after the position asked for are no longer kept, and
    `reason` says why.
    """

    messages: list[Execution]
    recovered: bool
    reason: str
    last: str


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """User and password to log in with."""

    user: Annotated[str, Meta(min_length=1, max_length=128)]
    password: Annotated[str, Meta(min_length=1, max_length=1024)]


class SessionReply(Struct, frozen=True):
    """Session: send `token` as `Authorization: Bearer …`; `expires_at` in epoch milliseconds."""

    token: str
    user_id: str
    accounts: tuple[int, ...]
    expires_at: int


class LiveReply(Struct, frozen=True):
    """The process runs and answers."""

    status: str = "live"
