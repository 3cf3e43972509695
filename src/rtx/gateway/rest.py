"""The REST routes: prices, symbols, accounts, orders and sessions."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Any
from urllib.parse import quote

from litestar import Request, Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from rtx.gateway import alert_rules
from rtx.gateway.auth import admit, allow_address, own_account, token_of
from rtx.gateway.gateway import Gateway
from rtx.gateway.orders import SYMBOL_PATTERN, SYMBOLS_PATTERN, MarketOrder
from rtx.gateway.problems import Refused, documented
from rtx.gateway.replies import HistoryReply, JsonResponse, Login, PriceReply, SessionReply
from rtx.models import Account, Execution, Position, SymbolSpec

SymbolPath = Annotated[
    str,
    PathParameter(
        pattern=SYMBOL_PATTERN,
        description="Symbol, such as `EURUSD`: 1 to 64 printable characters without blanks and "
        'none of , * ? [ ] { } " \\',
    ),
]
AccountPath = Annotated[int, PathParameter(ge=0, lt=10**18, description="Account id")]

_MAX_SYMBOLS = 1000
_STALE_AT_MOST = 50  # names of up to 64 characters must fit into what clients take as a header
_STALE = "The header `X-RTX-Stale` names the symbols whose prices are not fresh."
_POSITION_PATTERN = r"^[!-~]*:[0-9]{1,15}$(?!\n)"

SESSION: list[dict[str, list[str]]] = [{"session": []}]
"""What the description says of routes that need a session."""


# --- prices and symbols ----------------------------------------------------------------------


@get(
    "/prices",
    summary="Fresh prices",
    description="The prices that are fresh; without `symbols`, of all symbols known.",
    responses=documented(400, 429, 503),
    tags=["Market data"],
)
async def prices(
    gateway: NamedDependency[Gateway],
    symbols: Annotated[
        str | None,
        QueryParameter(
            pattern=SYMBOLS_PATTERN, description="Symbols with commas between, at most 1000"
        ),
    ] = None,
) -> list[PriceReply]:
    names = await gateway.symbols.names() if symbols is None else _symbol_list(symbols)
    found = await gateway.layer.prices.get_many(names)
    gateway.symbols.saw(found)
    return [PriceReply.of(price) for price in found.values()]


@get(
    "/prices/{symbol:str}",
    summary="Price of a symbol",
    responses=documented(400, 404, 429, 503),
    tags=["Market data"],
)
async def price(symbol: SymbolPath, gateway: NamedDependency[Gateway]) -> PriceReply:
    found = await gateway.layer.prices.get(symbol)
    if found is not None:
        gateway.symbols.saw([symbol])
        return PriceReply.of(found)
    if await gateway.symbols.exists(symbol):
        fresh_for = gateway.layer.settings.ttl.price
        raise Refused(
            404,
            "stale_price",
            f"no price of {symbol} in the last {fresh_for:g} s; its feed is quiet or down",
            retryable=True,
        )
    raise _unknown_symbol(symbol)


@get(
    "/symbols/{symbol:str}",
    summary="Terms of trade of a symbol",
    responses=documented(400, 404, 429, 503),
    tags=["Market data"],
)
async def symbol_spec(symbol: SymbolPath, gateway: NamedDependency[Gateway]) -> SymbolSpec:
    found = await gateway.layer.symbols.get(symbol)
    if found is None:
        raise _unknown_symbol(symbol)
    return found


def _symbol_list(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if len(names) > _MAX_SYMBOLS:
        raise Refused(400, "bad_request", f"symbols: at most {_MAX_SYMBOLS} in one request")
    return names


def _unknown_symbol(symbol: str) -> Refused:
    return Refused(404, "unknown_symbol", f"there is no symbol {symbol}; names are case-sensitive")


# --- accounts --------------------------------------------------------------------------------


@get(
    "/accounts/{account_id:str}",
    summary="Account",
    description=f"With equity, free margin and margin level at the latest prices. {_STALE}",
    responses=documented(400, 401, 403, 404, 429, 503),
    tags=["Accounts"],
)
async def account(account_id: AccountPath, gateway: NamedDependency[Gateway]) -> Response[Account]:
    found = await gateway.layer.marked.account(account_id)
    if found is None:
        raise _unknown_account(account_id)
    return JsonResponse(found.account, headers=_stale(found.stale))


@get(
    "/accounts/{account_id:str}/positions",
    summary="Open positions of an account",
    description=f"With current price and profit at the latest prices. {_STALE}",
    responses=documented(400, 401, 403, 404, 429, 503),
    tags=["Accounts"],
)
async def positions(
    account_id: AccountPath, gateway: NamedDependency[Gateway]
) -> Response[list[Position]]:
    found = await gateway.layer.marked.positions(account_id)
    if found is None:
        raise _unknown_account(account_id)
    stale = {marked.position.symbol for marked in found if marked.stale}
    return JsonResponse([marked.position for marked in found], headers=_stale(stale))


def _stale(symbols: Set[str]) -> dict[str, str]:
    """The header that names what could not be valued; `*` at the end where that is too much."""
    if not symbols:
        return {}
    names = [quote(name, safe="!#$&'()+./:;<=>@^_`|~") for name in sorted(symbols)]
    if len(names) > _STALE_AT_MOST:
        names = [*names[:_STALE_AT_MOST], "*"]
    return {"X-RTX-Stale": ",".join(names)}


@get(
    "/accounts/{account_id:str}/executions",
    summary="Executions of an account",
    description="Those after a position, oldest first; without one, the latest.",
    responses=documented(400, 401, 403, 429, 503),
    tags=["Accounts"],
)
async def executions(
    account_id: AccountPath,
    gateway: NamedDependency[Gateway],
    after: Annotated[
        str | None,
        QueryParameter(
            pattern=_POSITION_PATTERN, description="Position `epoch:seq` of the last one seen"
        ),
    ] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
) -> HistoryReply:
    found = await gateway.layer.executions.history(account_id, after=after, limit=limit)
    return HistoryReply(list(found.messages), found.recovered, found.reason, str(found.last))


@post(
    "/accounts/{account_id:str}/orders",
    summary="Market order",
    description="Fills the order now, or refuses it and changes nothing; answers with the fill.",
    responses=documented(400, 401, 403, 404, 409, 413, 422, 429, 503),
    tags=["Accounts"],
)
async def order(
    account_id: AccountPath, data: JSONBody[MarketOrder], gateway: NamedDependency[Gateway]
) -> Execution:
    if gateway.desk is None:
        raise Refused(404, "no_broker", "this gateway takes no orders; `rtx demo` has a broker")
    return await gateway.desk.place(account_id, data)


def _unknown_account(account_id: int) -> Refused:
    return Refused(404, "unknown_account", f"there is no account {account_id}")


# --- sessions --------------------------------------------------------------------------------


@post(
    "/sessions",
    guards=[allow_address],
    summary="Log in",
    responses=documented(400, 401, 403, 413, 429, 503),
    tags=["Sessions"],
)
async def log_in(data: JSONBody[Login], gateway: NamedDependency[Gateway]) -> SessionReply:
    if gateway.passwords.busy:
        raise Refused(
            503, "busy", "too many logins at once; try again", retryable=True, retry_after=1.0
        )
    if not await gateway.passwords.check(data.user, data.password):
        gateway.counters.logins_failed += 1
        raise Refused(401, "bad_login", "no such user, or not its password")
    user = gateway.settings.users[data.user]
    token, session = await gateway.layer.sessions.create(data.user, user.accounts)
    gateway.counters.logins += 1
    return SessionReply(token, session.user_id, session.accounts, session.expires_at)


@delete(
    "/sessions/current",
    guards=[admit],
    summary="Log out",
    responses=documented(401, 403, 429, 503),
    security=SESSION,
    tags=["Sessions"],
)
async def log_out(request: Request[Any, Any, Any], gateway: NamedDependency[Gateway]) -> None:
    if request.state.problem is not None:
        raise request.state.problem
    token = token_of(request)
    if not token:
        raise Refused(401, "login_required", "no session was given; send its token")
    if not await gateway.layer.sessions.revoke(token):
        raise Refused(401, "session_ended", "the session has ended already, or never was")


@delete(
    "/sessions",
    guards=[admit],
    summary="Log out everywhere",
    description="Ends all sessions of the user, this one too.",
    responses=documented(401, 403, 429, 503),
    security=SESSION,
    tags=["Sessions"],
)
async def log_out_everywhere(
    request: Request[Any, Any, Any], gateway: NamedDependency[Gateway]
) -> None:
    if request.state.problem is not None:
        raise request.state.problem
    session = request.state.caller.session
    if session is None and token_of(request):
        raise Refused(401, "session_ended", "the session has ended already, or never was")
    if session is None:
        raise Refused(401, "login_required", "no session was given; send its token")
    await gateway.layer.sessions.revoke_all(session.user_id)


def routes(*, login: bool) -> list[Router]:
    """The routers of `/v1`, without the streams; `login` says that accounts need a session."""
    return [
        Router("/v1", guards=[admit], route_handlers=[prices, price, symbol_spec, log_out]),
        Router(
            "/v1",
            guards=[admit, own_account],
            security=SESSION if login else None,
            route_handlers=[account, positions, executions, order, *alert_rules.HANDLERS],
        ),
        Router("/v1", route_handlers=[log_in, log_out_everywhere]),
    ]
