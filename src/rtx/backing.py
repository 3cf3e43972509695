"""A database as the caches want it: with versions where it has them, and with its outbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, cast, runtime_checkable

from rtx.cache import Loader, Updates
from rtx.database import AccountUpdate, Database, Outbox, OwingUpdate, VersionedDatabase
from rtx.database.base import VersionedUpdate
from rtx.models import Account, Position, SymbolSpec, Versioned

K = TypeVar("K")
V = TypeVar("V")


@runtime_checkable
class KeepsSymbols(Protocol):
    """A `Database` that stores symbol specs."""

    async def add_symbols(self, specs: Iterable[SymbolSpec]) -> None:
        """Store specs, all or none, in place of those of the same names."""


class Backing:
    """What stands behind the caches of a layer; all of it None without a database.

    `told` gets the outbox id of each update whose caches have been told of it.
    """

    def __init__(self, database: Database | None, told: Callable[[int], None]) -> None:
        self.accounts: Loader[int, Account] | None = None
        self.positions: Loader[int, tuple[Position, ...]] | None = None
        self.symbols: Loader[str, SymbolSpec] | None = None
        self.save_symbols: Callable[[Iterable[SymbolSpec]], Awaitable[None]] | None = None
        self.updates: Updates[AccountUpdate] = Updates(None)
        if database is None:
            return
        self.symbols = _unversioned(database.symbols)
        if isinstance(database, KeepsSymbols):
            self.save_symbols = database.add_symbols
        version: Callable[[AccountUpdate], int] = _no_number
        if isinstance(database, VersionedDatabase):
            self.accounts = database.versioned_accounts
            self.positions = database.versioned_positions
            version = _version
        else:
            self.accounts = _unversioned(database.accounts)
            self.positions = _unversioned(database.positions)
        debt = _debt if isinstance(database, Outbox) else _no_number
        self.updates = Updates(database.update_account, version, lambda row: told(debt(row)))


def _unversioned(load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> Loader[K, V]:
    async def loader(ids: Sequence[K]) -> dict[K, Versioned[V]]:
        return {id: Versioned(value, 0) for id, value in (await load(ids)).items()}

    return loader


def _no_number(_row: AccountUpdate) -> int:
    return 0


def _version(row: AccountUpdate) -> int:
    return cast(VersionedUpdate, row).version


def _debt(row: AccountUpdate) -> int:
    return cast(OwingUpdate, row).outbox_id
