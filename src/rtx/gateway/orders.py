"""What the gateway asks of whoever fills orders: a paper broker, or an engine's own order path."""

from __future__ import annotations

from typing import Annotated, Protocol

from msgspec import Meta, Struct

from rtx.errors import RtxError
from rtx.models import Execution, Side
from rtx.ratelimit import Decision

_STATUS = {
    "limit_exceeded": 429,
    "unknown_symbol": 404,
    "unknown_account": 404,
    "unknown_position": 404,
    "no_money": 409,
    "stale_price": 409,
    "market_closed": 409,
    "bad_volume": 422,
}
_RETRYABLE = frozenset({"limit_exceeded", "stale_price", "market_closed"})

# No blanks, and none of , * ? [ ] { } " \\ which mean something in lists, patterns and key names;
# `$` alone would let a line feed at the end through.
SYMBOL_PATTERN = r"^[!#-)+\x2d-\x3e@-Z^-z|~]{1,64}$(?!\n)"
SYMBOLS_PATTERN = r"^([!#-)+\x2d-\x3e@-Z^-z|~]{1,64}(,|$))*$(?!\n)"
Symbol = Annotated[str, Meta(pattern=SYMBOL_PATTERN)]


class MarketOrder(Struct, forbid_unknown_fields=True, frozen=True):
    """Order to fill at the market now; `volume` in lots, above zero."""

    symbol: Symbol
    side: Side
    volume: Annotated[float, Meta(gt=0)]


class OrderRejected(RtxError):
    """The order was not filled, and nothing was changed.

    `code` is a stable word for the client, such as `no_money`; `status` the HTTP status it is
    answered with (by the code, unless given: 429 limit_exceeded, 404 unknown_…, 409 no_money,
    stale_price and market_closed, else 422); `retryable` whether the same order may pass later
    (by the code, unless given); `retry_after` seconds to wait first; `decision` that of the limit
    that denied, from which the client is told the `RateLimit` fields.
    """

    code: str  # type: ignore[misc]  # one class for all of a desk's reasons, so per instance
    retryable: bool  # type: ignore[misc]

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        decision: Decision | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.decision = decision
        if retry_after is None and decision is not None:
            retry_after = decision.retry_after
        self.status = _STATUS.get(code, 422) if status is None else status
        self.retryable = (
            code in _RETRYABLE or retry_after is not None if retryable is None else retryable
        )
        self.retry_after = retry_after


class OrderDesk(Protocol):
    """Fills market orders. Safe to call for many orders at once."""

    async def place(self, account_id: int, order: MarketOrder) -> Execution:
        """Fill the order, record it, publish the execution and return it as published.

        Raises `OrderRejected` when nothing was done, and `Unavailable` or `DatabaseUnavailable`
        when a server behind it cannot be reached.
        """
        ...
