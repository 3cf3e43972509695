"""Limits as dependencies of FastAPI's routes; needs nothing but Starlette, which comes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from inspect import isawaitable
from typing import TypeAlias, cast

import msgspec
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from rtx.ratelimit import Id, Lease
from rtx.web.deciding import HasLimits, Hold, Layer, MaybeAwaitable, Rule, decide
from rtx.web.middleware import TRY_LATER
from rtx.web.ruling import PROBLEM_JSON, Ruling

__all__ = ["LimitExceeded", "denied", "held", "limited"]

Key: TypeAlias = "Callable[[HTTPConnection], MaybeAwaitable[Id | None]]"
"""Whom to count a request for; None lets it pass uncounted."""


class LimitExceeded(HTTPException):
    """A limit denied: 429, or 503 where it could not be asked; `ruling` has the decisions.

    FastAPI answers it with the problem under `detail`; with
    `app.add_exception_handler(LimitExceeded, denied)` the body is the problem itself.
    """

    def __init__(self, ruling: Ruling) -> None:
        super().__init__(ruling.status, headers=ruling.headers())
        self.detail = ruling.problem()  # type: ignore[assignment]  # FastAPI's may be any JSON
        self.ruling = ruling


async def denied(_: Request, error: Exception) -> Response:
    """Exception handler that answers `LimitExceeded` with `application/problem+json`."""
    if not isinstance(error, LimitExceeded):
        raise error
    ruling = error.ruling
    return Response(
        msgspec.json.encode(ruling.problem()), ruling.status, ruling.headers(), PROBLEM_JSON
    )


def limited(
    *names: str, key: Key, cost: int = 1, layer: Layer | None = None
) -> Callable[[HTTPConnection, Response], Awaitable[None]]:
    """A dependency that counts the request in these limits, in all or in none.

        @app.post("/orders", dependencies=[Depends(limited("orders", key=account_of))])

    It sets the `RateLimit` fields, and raises `LimitExceeded` with the same ones. A response that
    the route makes itself has only what the route gives it. The layer is `app.state.layer` unless
    given. A WebSocket is closed with 1013 before it is accepted.
    """

    async def count(connection: HTTPConnection, response: Response) -> None:
        def rules(id: Id) -> list[Rule]:
            return [(name, id, cost) for name in names]

        async with AsyncExitStack() as stack:
            await _rule(connection, response, layer, key, rules, stack, {})

    return count


def held(
    name: str, *, key: Key, wait: float = 0.0, layer: Layer | None = None
) -> Callable[[HTTPConnection, Response], AsyncIterator[Lease | None]]:
    """A dependency that holds a place of a concurrency limit while the request is answered.

    Gives the lease, or None for a request that is not counted. `wait` is how many seconds it may
    wait for a place; else as `limited`.
    """

    async def hold(connection: HTTPConnection, response: Response) -> AsyncIterator[Lease | None]:
        leases: dict[str, Lease] = {}

        def rules(id: Id) -> list[Rule]:
            return [Hold(name, id, wait)]

        async with AsyncExitStack() as stack:
            await _rule(connection, response, layer, key, rules, stack, leases)
            yield leases.get(name)

    return hold


async def _rule(
    connection: HTTPConnection,
    response: Response,
    layer: Layer | None,
    key: Key,
    rules: Callable[[Id], Sequence[Rule]],
    stack: AsyncExitStack,
    leases: dict[str, Lease],
) -> None:
    found = key(connection)  # what it raises is the application's, and answered as such
    id = await found if isawaitable(found) else found
    if id is None:
        return

    def from_app() -> HasLimits:
        return cast(HasLimits, connection.app.state.layer)

    ruling = await decide(from_app if layer is None else layer, lambda: rules(id), stack, leases)
    if ruling is None:
        return
    if not ruling and connection.scope["type"] == "websocket":
        raise WebSocketException(TRY_LATER, ruling.detail())
    if not ruling:
        raise LimitExceeded(ruling)
    for field, value in ruling.headers().items():
        response.headers.append(field, value)
