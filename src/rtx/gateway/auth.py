"""Who asks, what they may see, and how often they may ask.

A caller is known by the token of a session. With `gateway.auth = "open"` nobody needs one; then
requests that change something, and streams, must come from the gateway's own page if a browser
sends them, since any other site could make it do so.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from rtx.errors import ServerError, Unavailable
from rtx.gateway.passwords import hash_password, verify_password
from rtx.gateway.problems import Refused, refused_by
from rtx.models import Session
from rtx.web.deciding import decide
from rtx.web.ruling import UNDECIDED

if TYPE_CHECKING:
    from rtx.gateway.gateway import Gateway

__all__ = [
    "Caller",
    "account_id_of",
    "admit",
    "allow_address",
    "hash_password",
    "identify",
    "own_account",
    "same_site",
    "token_of",
    "verify_password",
]

Connection = ASGIConnection[Any, Any, Any, Any]

_ACCOUNT_ID = re.compile(r"[0-9]{1,18}")  # 18 digits always fit the database's 64 bits


class Caller:
    """Whoever asks: a logged-in user, or nobody in particular."""

    __slots__ = ("_open", "session", "token")

    def __init__(self, *, everyone: bool, token: str = "", session: Session | None = None) -> None:
        self._open = everyone
        self.token = token
        self.session = session

    def require(self, account_id: int) -> None:
        """Raise `Refused` unless the caller may see and use the account."""
        if self._open:
            return
        if self.session is None:
            raise Refused(
                401, "login_required", "this needs a session; log in with POST /v1/sessions"
            )
        if account_id not in self.session.accounts:
            raise Refused(403, "not_your_account", f"the session may not use account {account_id}")


def account_id_of(text: str) -> int:
    """The account id in a path or a channel name; raises `Refused` when it is not one."""
    if not _ACCOUNT_ID.fullmatch(text):
        raise Refused(400, "bad_request", "account_id: expected a whole number of up to 18 digits")
    return int(text)


def token_of(connection: Connection, *, query: bool = False) -> str:
    """The token of the `Authorization` header, or of `?token=` where `query` allows it."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return connection.query_params.get("token", "") if query else ""


async def identify(gateway: Gateway, token: str) -> Caller:
    """The caller with this token; raises `Refused` when its session has ended, `Unavailable`."""
    everyone = gateway.settings.auth == "open"
    if not token:
        return Caller(everyone=everyone)
    session = await gateway.layer.sessions.get(token)
    if session is not None:
        return Caller(everyone=everyone, token=token, session=session)
    if everyone:
        return Caller(everyone=True)
    raise Refused(
        401, "session_ended", "the session has ended or never was; log in with POST /v1/sessions"
    )


def same_site(connection: Connection) -> bool:
    """Whether a browser, if it is one, sent this from a page of the gateway itself."""
    origin = connection.headers.get("origin")
    if origin is None:
        return True
    host = connection.headers.get("host", "").lower()
    return bool(host) and origin.lower() in (f"http://{host}", f"https://{host}")


def check_site(gateway: Gateway, connection: Connection) -> None:
    """Raise `Refused` for a request that another site's page made the browser send."""
    if gateway.settings.auth == "open" and not same_site(connection):
        raise Refused(
            403,
            "other_site",
            "the request comes from another site's page; open the gateway's own page, or set "
            'gateway.auth = "required" and send a token',
        )


async def allow(gateway: Gateway, connection: Connection, subject: str, *, uncounted: bool) -> None:
    """Count one request of the subject; raise `Refused` over the `api` limit.

    While the limiter is away, the limit's `when_down` decides, unless a request that was not
    counted must not pass at all (`uncounted` is false). The answer gets the `RateLimit` fields.
    """
    async with AsyncExitStack() as stack:
        found = await decide(gateway.layer, lambda: [("api", subject)], stack)
    ruling = UNDECIDED if found is None else found
    if ruling.degraded:
        gateway.counters.limiter_away += 1
        if not uncounted:
            ruling = ruling.counted_only()
    connection.state.limit_fields = {
        name: value for name, value in ruling.headers().items() if name != "Retry-After"
    }
    if not ruling:
        if ruling.status == 429:
            gateway.counters.limited += 1
        raise refused_by(ruling)


async def allow_address(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of the login: counted by address, and closed while it cannot be counted."""
    gateway: Gateway = connection.app.state.gateway
    check_site(gateway, connection)
    subject = gateway.address_of(connection.scope)
    await allow(gateway, connection, subject, uncounted=False)


async def admit(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of the other routes: finds the caller, and counts the request.

    While the limiter cannot be reached requests pass, if `api` is open then, and are counted as
    such: reads of accounts go on from the database. A caller whose session cannot be looked up has
    none, and is told so where it needs one.
    """
    gateway: Gateway = connection.app.state.gateway
    if connection.scope.get("method") not in ("GET", "HEAD"):
        check_site(gateway, connection)
    token = token_of(connection, query=connection.route_handler.opt.get("query_token", False))
    problem: Exception | None = None
    caller = Caller(everyone=gateway.settings.auth == "open")
    try:
        caller = await identify(gateway, token)
    except (Refused, Unavailable, ServerError) as error:
        problem = error
    subject = caller.session.user_id if caller.session else gateway.address_of(connection.scope)
    await allow(gateway, connection, subject, uncounted=True)
    connection.state.caller = caller
    connection.state.problem = problem


async def own_account(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of an account's routes: the caller's session must list the account."""
    account_id = account_id_of(connection.path_params["account_id"])
    if connection.app.state.gateway.settings.auth == "open":
        return
    if connection.state.problem is not None:
        raise connection.state.problem
    connection.state.caller.require(account_id)
