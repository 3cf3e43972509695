"""What the caches and the brokers ask of a system of record, and what it promises them.

`Database` is the Protocol to implement for a system of your own; `rtx.database.sql` is one that
does. The promises are in the docstrings; every implementation keeps all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Context, Decimal
from typing import Literal, Protocol, get_args, runtime_checkable

import msgspec

from rtx.models import Account, Execution, Position, Side, SymbolSpec, Versioned


class AccountUpdate(Protocol):
    """One account, locked, inside its transaction.

    The operations of an update happen all or not at all, when the block of
    `Database.update_account` ends. Not to be used after that. Each operation raises
    `DatabaseUnavailable` when the database cannot carry it out; the update then cannot be
    committed any more, even if the error is caught. Money is `Decimal` (`TypeError` for anything
    else) and within the bounds of `check_money`; volumes (lots) and prices are finite and above
    zero (`ValueError`).
    """

    balance: Decimal
    """Set it to change it; written at the commit."""

    @property
    def id(self) -> int:
        """The account's id."""

    @property
    def account_number(self) -> str:
        """The account's number as people know it."""

    @property
    def positions(self) -> tuple[Position, ...]:
        """Open positions by id, as they were when the account was locked."""

    @property
    def margin(self) -> Decimal:
        """Sum of the margins held now, the operations of this update included."""

    async def open_position(
        self, symbol: str, side: Side, volume: float, price: float, margin: Decimal
    ) -> Position:
        """Open a position that holds `margin` (not negative); its id is never used again."""

    async def close_position(self, position_id: int) -> None:
        """Remove a position and release its margin; raise `NotFound` if it is not open here."""

    async def resize_position(
        self, position_id: int, volume: float, open_price: float, margin: Decimal
    ) -> Position:
        """Give a position a new volume, open price and margin; raise `NotFound`.

        Current price and profit stay as they are until `mark_position`.
        """

    async def mark_position(
        self, position_id: int, current_price: float, unrealized_pnl: Decimal
    ) -> None:
        """Record a position's current price and profit; raise `NotFound`."""

    async def record_execution(self, execution: Execution) -> Execution:
        """Store a fill for good and return it, with a new order id in place of 0.

        Order ids are unique over all accounts: raise `Duplicate` for one recorded before (the
        update goes on and can be committed). `seq` and `epoch` are the channel's, not stored.
        """


class Database(Protocol):
    """A system of record.

    Every method may be called from any task at any time between `open` and `close`, inside an
    update too, and raises `DatabaseUnavailable`, with the driver's error as its cause, when the
    database cannot answer in time. Reads see committed data only, and never wait for an update.
    """

    async def open(self) -> None:
        """Connect, and create what is missing; raise `SettingsError` if that cannot be done."""

    async def close(self) -> None:
        """Let running calls end, then release everything; harmless when not open."""

    async def ping(self) -> None:
        """Return if the database answers."""

    async def accounts(self, ids: Sequence[int]) -> dict[int, Account]:
        """Accounts by id, each consistent with its positions; absent ids are left out."""

    async def positions(self, account_ids: Sequence[int]) -> dict[int, tuple[Position, ...]]:
        """Open positions, oldest first, by account id.

        An existing account without positions maps to `()`; absent ids are left out.
        """

    async def symbols(self, names: Sequence[str] | None = None) -> dict[str, SymbolSpec]:
        """Symbol specs by name, all of them for None; absent names are left out."""

    def update_account(self, account_id: int) -> AbstractAsyncContextManager[AccountUpdate]:
        """One transaction on one account; raise `NotFound` if there is none.

        - One update of an account runs at a time, over all processes; others wait their turn and
          see what it wrote. A wait that is too long ends in `DatabaseUnavailable`.
        - The commit comes when the block ends. An exception or a cancellation in the block rolls
          everything back.
        - A cancellation that arrives during the commit is raised after it, and the commit stands.
        - `DatabaseUnavailable` with `maybe_applied` leaves open whether the commit happened, as
          when the connection was lost during it: read the account before trying again.

        An update inside the block of another may wait for it, in vain.
        """


class VersionedUpdate(AccountUpdate, Protocol):
    """An update that knows which version of the account it makes."""

    @property
    def version(self) -> int:
        """The version that the commit gives the account and its positions; known from the start."""


@runtime_checkable
class VersionedDatabase(Database, Protocol):
    """A `Database` whose accounts have versions, so that caches never replace a newer by an older.

    Every committed change of an account or of its positions raises the account's version, which is
    above zero. A value and its version are of one moment. Whoever changes the rows otherwise than
    through `update_account` raises the version too.
    """

    async def versioned_accounts(self, ids: Sequence[int]) -> dict[int, Versioned[Account]]:
        """As `accounts`, with the version of each."""

    async def versioned_positions(
        self, account_ids: Sequence[int]
    ) -> dict[int, Versioned[tuple[Position, ...]]]:
        """As `positions`, with the version of the account."""

    def update_account(self, account_id: int) -> AbstractAsyncContextManager[VersionedUpdate]:
        """As in `Database`."""


class Owed(msgspec.Struct, frozen=True):
    """A change whose invalidation may not have reached the caches.

    `key` is the id of an account, whose positions are meant too, or the name of a symbol. `version`
    is what the change made of the account, 0 for a symbol. `id` names this debt, no other ever.
    """

    id: int
    entity: Literal["account", "symbol"]
    key: int | str
    version: int = 0


class OwingUpdate(AccountUpdate, Protocol):
    """An update that leaves a debt in the outbox."""

    @property
    def outbox_id(self) -> int:
        """The debt's id once the commit is confirmed, until then 0."""


@runtime_checkable
class Outbox(Protocol):
    """A `Database` that stores with each change, in one transaction, that caches must be told.

    So the news outlives a crash between the commit and the invalidation. `update_account` yields an
    `OwingUpdate`. `rtx.database.relay` hands on what is owed.
    """

    async def owed(self, limit: int) -> list[Owed]:
        """What is owed, at most `limit`, oldest first; reading it changes nothing."""

    async def settled(self, ids: Sequence[int]) -> None:
        """Forget these debts; those that are gone already, or replaced, are passed over."""


# Wide enough that sums of money within the bounds below are never rounded, and independent of
# whatever context the caller's thread has set.
_EXACT = Context(prec=256)
_CENT = Decimal("0.01")
_MAX_DIGITS = 100


def check_money(name: str, value: Decimal) -> Decimal:
    """Return the value if it can be kept and summed exactly.

    Raises `TypeError` for anything but a `Decimal`, `ValueError` unless it is finite with at most
    100 digits before the point and 100 after it.
    """
    if not isinstance(value, Decimal):
        raise TypeError(f"{name} is a Decimal, not {type(value).__name__}: floats are not exact")
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{name} is {value}; money is a finite number")
    if exponent < -_MAX_DIGITS or value.adjusted() >= _MAX_DIGITS:
        raise ValueError(f"{name} has more than {_MAX_DIGITS} digits before or after the point")
    return value


def check_margin(value: Decimal) -> Decimal:
    """Return the margin if it can be held: money, not below zero (`ValueError`)."""
    if check_money("margin", value) < 0:
        raise ValueError(f"margin is {value}; it is not below 0")
    return value


def check_positive(name: str, value: float) -> float:
    """Return a volume or price if it is finite and above zero, else raise `ValueError`."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it is a finite number above 0")
    return value


def check_side(side: Side) -> Side:
    """Return the side if it is one, else raise `ValueError`."""
    if side not in get_args(Side):
        raise ValueError(f"side is {side!r}; it is BUY or SELL")
    return side


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Exact sum of money."""
    result = Decimal(0)
    for amount in amounts:
        result = _EXACT.add(result, amount)
    return result


def summarize(
    account_id: int,
    account_number: str,
    balance: Decimal,
    margins: Sequence[Decimal],
    profits: Iterable[Decimal],
) -> Account:
    """The account as the caches keep it, from its row and its positions' margins and profits."""
    margin = total(margins)
    equity = _EXACT.add(balance, total(profits))
    level = Decimal("0.00")
    if margin:
        level = _EXACT.quantize(_EXACT.multiply(_EXACT.divide(equity, margin), Decimal(100)), _CENT)
    return Account(
        id=account_id,
        account_number=account_number,
        balance=balance,
        equity=equity,
        margin=margin,
        free_margin=_EXACT.subtract(equity, margin),
        margin_level=level,
        open_positions=len(margins),
    )
