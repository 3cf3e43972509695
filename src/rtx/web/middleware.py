"""Limits in front of any ASGI application: FastAPI, Starlette, Litestar, Django."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack
from inspect import isawaitable
from typing import TypeAlias, cast

import msgspec

from rtx.errors import SettingsError
from rtx.ratelimit import Id, Lease
from rtx.web.deciding import Hold, Layer, MaybeAwaitable, Rule, decide
from rtx.web.ruling import PROBLEM_JSON, Ruling

Scope: TypeAlias = MutableMapping[str, object]
Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Key: TypeAlias = "Callable[[Scope], MaybeAwaitable[Id | None]]"
"""Whom to count a request for; None lets it pass uncounted."""

Rules: TypeAlias = "Callable[[Scope], MaybeAwaitable[Sequence[Rule]]]"
"""The limits of a request; an empty list lets it pass uncounted."""

LEASES = "rtx.leases"
"""Where a connection's scope has the leases that are held for it, by name."""

TRY_LATER = 1013

# Both kinds of start have a place for headers.
_STARTS = frozenset({"http.response.start", "websocket.accept"})


class RateLimits:
    """ASGI middleware that asks limits before each request and WebSocket handshake.

        app.add_middleware(RateLimits, layer=lambda: app.state.layer, limits=["api"], key=user_of)

    Either `limits`, and `holds` for concurrency limits, with a `key` for all of them; or `rules`,
    which gives each request its own list. Both get the ASGI scope and may be async. Every answer
    has the `RateLimit` fields; a denial is 429 with `Retry-After` and a problem document, or 503
    where `when_down` is closed and the server is away. A WebSocket is denied before it is accepted,
    with the same answer where the server has the `websocket.http.response` extension, else with
    close code 1013. Nothing that goes wrong in here is a 500. Places are held until the
    response, or the WebSocket, has ended; `scope["rtx.leases"]` has their leases.

    Raises `SettingsError` unless it is told whom to count for which limits.
    """

    def __init__(
        self,
        app: App,
        *,
        layer: Layer,
        limits: Iterable[str] = (),
        holds: Iterable[str] = (),
        key: Key | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._app = app
        self._layer = layer
        names, places = tuple(limits), tuple(holds)
        if rules is None and key is not None and (names or places):
            self._rules = _rules(names, places, key)
        elif rules is not None and key is None and not (names or places):
            self._rules = rules
        else:
            raise SettingsError("give RateLimits either limits= or holds= with key=, or rules=")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        leases: dict[str, Lease] = {}
        async with AsyncExitStack() as stack:
            ruling = await decide(self._layer, lambda: self._rules(scope), stack, leases)
            if ruling is None:
                await self._app(scope, receive, send)
            elif not ruling and kind == "http":
                await _answer(ruling, "http.response", send)
            elif not ruling:
                await _turn_away(ruling, scope, receive, send)
            else:
                if leases:
                    held = cast("dict[str, Lease]", scope.get(LEASES, {}))
                    scope[LEASES] = {**held, **leases}
                await self._app(scope, receive, _telling(ruling, send))


def _rules(names: Sequence[str], places: Sequence[str], key: Key) -> Rules:
    async def rules(scope: Scope) -> list[Rule]:
        found = key(scope)
        id = await found if isawaitable(found) else found
        if id is None:
            return []
        return [*((name, id) for name in names), *(Hold(name, id) for name in places)]

    return rules


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Header fields as ASGI has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _telling(ruling: Ruling, send: Send) -> Send:
    fields = encoded(ruling.headers())

    async def tell(message: Message) -> None:
        if message["type"] in _STARTS:
            headers = cast("Iterable[tuple[bytes, bytes]]", message.get("headers") or ())
            message = {**message, "headers": [*headers, *fields]}
        await send(message)

    return tell


async def _answer(ruling: Ruling, kind: str, send: Send) -> None:
    body = msgspec.json.encode(ruling.problem())
    headers = {"Content-Type": PROBLEM_JSON, "Content-Length": str(len(body)), **ruling.headers()}
    await send({"type": f"{kind}.start", "status": ruling.status, "headers": encoded(headers)})
    await send({"type": f"{kind}.body", "body": body})


async def _turn_away(ruling: Ruling, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # the handshake, which an answer must follow
    extensions = cast("Mapping[str, object]", scope.get("extensions") or {})
    if "websocket.http.response" in extensions:
        await _answer(ruling, "websocket.http.response", send)
    else:
        await send({"type": "websocket.close", "code": TRY_LATER, "reason": ruling.detail()})
