"""Accounts and positions at the latest prices.

What the caches have is as old as their time to live: balance, margin and the positions themselves
change with trades only, and a trade invalidates both, but profit, equity and margin level change
with every tick. So they are worked out anew, from the balance and margin of the account and the
positions at hand, with the same sums as the database makes.

Account and positions are two keys, which may be of different moments: then a closed position's
profit would be counted twice or not at all. What belongs together is of one version, where the
database has versions, has as many positions as the account says, and profits that make its equity.
Where that is not so both are read again; where a trade still lies between them they are dropped
from the caches and read from the database. What is then left of a contradiction is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, TypeVar

import msgspec

from rtx.cache import AccountCache, PositionCache, PriceCache, SymbolCache
from rtx.database.base import summarize, total
from rtx.errors import DatabaseUnavailable, ServerError, Unavailable
from rtx.marking import valuation
from rtx.marking.board import PriceBoard
from rtx.models import Account, Position, Price, SymbolSpec

U = TypeVar("U")

_DROP_EVERY = 1.0
_DROPPED_AT_MOST = 10_000
_AWAY = (Unavailable, ServerError, DatabaseUnavailable)


class MarkedPosition(msgspec.Struct, frozen=True):
    """A position with `current_price` and `unrealized_pnl` at the latest price.

    `stale`: a price that it needs is not fresh, so that both are as the database last had them.
    `price_time` is the time of the price in epoch milliseconds, None where it is stale.
    """

    position: Position
    stale: bool
    price_time: int | None


class MarkedAccount(msgspec.Struct, frozen=True):
    """An account with equity, free margin and margin level at the latest prices.

    `stale` has the symbols of the positions that could not be marked. `consistent` False says that
    account and positions contradict each other, although they were read again: they were stored at
    different moments. Equity is then that of the positions at hand, and may lack a trade.
    """

    account: Account
    positions: tuple[MarkedPosition, ...]
    stale: frozenset[str]
    consistent: bool = True


@dataclass(slots=True)
class MarkedStats:
    """Counters since the layer was opened; `stale` counts positions."""

    accounts: int = 0
    positions: int = 0
    stale: int = 0
    read_again: int = 0
    dropped: int = 0
    inconsistent: int = 0


class Marked:
    """Values accounts and positions read through the caches; `layer.marked`.

    Prices are those of the board, and of the price cache where the board has none that is fresh.
    `backed` says that a database is behind the caches of accounts and positions.
    """

    def __init__(
        self,
        accounts: AccountCache[U],
        positions: PositionCache[U],
        symbols: SymbolCache,
        prices: PriceCache,
        board: PriceBoard,
        *,
        backed: bool,
    ) -> None:
        self._accounts = accounts
        self._positions = positions
        self._symbols = symbols
        self._prices = prices
        self._board = board
        self._backed = backed
        self._dropped: dict[int, float] = {}  # when, by account
        self.stats = MarkedStats()

    async def account(self, id: int) -> MarkedAccount | None:
        """The account as it stands now, or None when there is none.

        Raises as `layer.accounts.get` and `layer.positions.get`; what is missing to value a
        position makes it stale.
        """
        read = await self._read(id)
        account = read.account
        if account is None:
            return None
        positions = await self._mark(read.held)
        self.stats.accounts += 1
        # The account's margin is the sum that its positions hold; they do not carry it themselves.
        profits = [marked.position.unrealized_pnl for marked in positions]
        now = summarize(id, account.account_number, account.balance, [account.margin], profits)
        return MarkedAccount(
            msgspec.structs.replace(now, open_positions=len(positions)),
            positions,
            frozenset(marked.position.symbol for marked in positions if marked.stale),
            read.agrees,
        )

    async def positions(self, account_id: int) -> tuple[MarkedPosition, ...] | None:
        """The account's open positions as they stand now, or None when there is no account.

        Raises as `layer.positions.get`.
        """
        held = await self._positions.get(account_id)
        return None if held is None else await self._mark(held)

    # --- account and positions that belong together ----------------------------------------

    async def _read(self, id: int) -> _Read:
        read = await self._get(id)
        with suppress(*_AWAY):  # what is at hand is then all there is
            for last in (False, True):
                if read.agrees:
                    return read
                # Most often a trade came in between the two reads, and by now both are after it.
                self.stats.read_again += 1
                if last and self._backed and read.traded:
                    await self._drop(id)
                read = await self._get(id)
        self.stats.inconsistent += not read.agrees
        return read

    async def _drop(self, id: int) -> None:
        """Let both be read from the database; once a second, in case that does not help."""
        now = monotonic()
        if now < self._dropped.get(id, -_DROP_EVERY) + _DROP_EVERY:
            return
        if len(self._dropped) >= _DROPPED_AT_MOST:
            self._dropped.clear()
        self._dropped[id] = now
        self.stats.dropped += 1
        await asyncio.gather(self._accounts.invalidate(id), self._positions.invalidate(id))

    async def _get(self, id: int) -> _Read:
        account, held = await asyncio.gather(self._accounts.lookup(id), self._positions.lookup(id))
        if account is None:
            return _Read(None, (), False)
        if held is None:
            return _Read(account.value, (), False)
        versions = {account.version, held.version} - {0}
        return _Read(account.value, held.value, len(versions) == 2)

    # --- prices ----------------------------------------------------------------------------

    async def _mark(self, held: tuple[Position, ...]) -> tuple[MarkedPosition, ...]:
        if not held:
            return ()
        symbols = {position.symbol for position in held}
        specs, prices = await asyncio.gather(self._specs(symbols), self._fresh(symbols))
        converting = {
            name for spec in specs.values() for name in valuation.conversion_symbols(spec.quote)
        }
        prices |= await self._fresh(converting - symbols)
        marked = tuple(_marked(position, specs, prices) for position in held)
        self.stats.positions += len(marked)
        self.stats.stale += sum(position.stale for position in marked)
        return marked

    async def _specs(self, symbols: set[str]) -> dict[str, SymbolSpec]:
        try:
            return await self._symbols.get_many(symbols)
        except _AWAY:
            return {}  # a balance that is there is worth more than an error

    async def _fresh(self, symbols: Iterable[str]) -> dict[str, Price]:
        wanted = list(symbols)
        prices = self._board.get_many(wanted)
        missing = [symbol for symbol in wanted if symbol not in prices]
        if missing:
            with suppress(Unavailable, ServerError):
                prices |= await self._prices.get_many(missing)
        return prices


class _Read(NamedTuple):
    """An account and its positions; `apart`: their rows are known to be of different versions."""

    account: Account | None
    held: tuple[Position, ...]
    apart: bool

    @property
    def traded(self) -> bool:
        """Whether a trade lies between them."""
        return self.apart or (
            self.account is not None and self.account.open_positions != len(self.held)
        )

    @property
    def agrees(self) -> bool:
        """Whether they are of one moment, as far as versions and figures say."""
        if self.account is None:
            return True
        profits = total(position.unrealized_pnl for position in self.held)
        return not self.traded and self.account.equity == total([self.account.balance, profits])


def _marked(
    position: Position, specs: Mapping[str, SymbolSpec], prices: Mapping[str, Price]
) -> MarkedPosition:
    spec = specs.get(position.symbol)
    value = None if spec is None else valuation.marked(position, spec, prices)
    if value is None:
        return MarkedPosition(position, True, None)
    current, profit = value
    return MarkedPosition(
        msgspec.structs.replace(position, current_price=current, unrealized_pnl=profit),
        False,
        prices[position.symbol].time,
    )
