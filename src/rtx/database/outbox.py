"""The outbox in SQL: what is written with a change, and how it is read and settled.

An account or a symbol has one row at most, that of its latest change, under an id of its own. So
the table never has more rows than there are accounts and symbols, and whoever settles an earlier
change does not settle the later one with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Delete, Insert, Integer, Select, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from rtx.database.base import Owed
from rtx.database.tables import accounts, outbox
from rtx.models import now_ms

_ACCOUNT = "account"
_SYMBOL = "symbol"


def _replacing_on_postgresql() -> Insert:
    insert = postgresql.insert(outbox)
    return insert.on_conflict_do_update(
        index_elements=[outbox.c.entity, outbox.c.key],
        set_={name: insert.excluded[name] for name in ("id", "created_at", "version")},
    )


_OWE_ON_POSTGRESQL = _replacing_on_postgresql()
_OWE_ON_SQLITE = sqlite.insert(outbox).prefix_with("OR REPLACE")

_STORE = (
    accounts.update()
    .where(accounts.c.id == bindparam("account_id"))
    .values(balance=bindparam("new_balance"), version=bindparam("new_version"))
)
# PostgreSQL does both in one round trip; SQLite cannot.
_STORE_AND_OWE = _OWE_ON_POSTGRESQL.returning(outbox.c.id).add_cte(
    _STORE.returning(accounts.c.id).cte("stored")
)
_OWE_AFTER_STORE = _OWE_ON_SQLITE.returning(outbox.c.id)

select_owed: Select[Any] = (
    select(outbox.c.id, outbox.c.entity, outbox.c.key, outbox.c.version)
    .order_by(outbox.c.id)
    .limit(bindparam("limit", type_=Integer))
)
"""The rows that `from_row` takes, at most `limit`, oldest first."""


def storing(
    account_id: int, balance: Decimal, version: int, *, on_postgresql: bool
) -> list[tuple[Insert | Any, dict[str, object]]]:
    """Statements, with what they are given, that store an account and owe it.

    The last of them returns the debt's id.
    """
    stored = {"account_id": account_id, "new_balance": balance, "new_version": version}
    owed = _row(_ACCOUNT, str(account_id), version)
    if on_postgresql:
        return [(_STORE_AND_OWE, stored | owed)]
    return [(_STORE, stored), (_OWE_AFTER_STORE, owed)]


def owing_symbols(
    names: Sequence[str], *, on_postgresql: bool
) -> tuple[Insert, list[dict[str, object]]]:
    """A statement, with what it is given for each, that owes symbols."""
    statement = _OWE_ON_POSTGRESQL if on_postgresql else _OWE_ON_SQLITE
    return statement, [_row(_SYMBOL, name, 0) for name in names]


def _row(entity: str, key: str, version: int) -> dict[str, object]:
    return {"entity": entity, "key": key, "version": version, "created_at": now_ms()}


def settling(ids: Sequence[int], *, on_postgresql: bool) -> Delete:
    """A statement that forgets these debts, without a wait for those who change them now."""
    which = select(outbox.c.id).where(outbox.c.id.in_(ids))
    if on_postgresql:
        # Two that settle the same debts in different orders would each wait for the other; and
        # what is locked is being settled already, or replaced by a later debt.
        which = which.with_for_update(skip_locked=True)
    return delete(outbox).where(outbox.c.id.in_(which.scalar_subquery()))


def from_row(row: Sequence[Any]) -> Owed:
    """What a row of `select_owed` says."""
    id_, entity, key, version = row
    return Owed(id_, entity, int(key) if entity == _ACCOUNT else key, version)
