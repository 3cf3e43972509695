"""Money comes back as it went in, and its sums are exact."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtx.database import SqlDatabase, check_money, summarize

amounts = st.builds(
    lambda digits, exponent, sign: Decimal((sign, digits, exponent)),
    st.lists(st.integers(0, 9), min_size=1, max_size=40).map(tuple),
    st.integers(-60, 60),
    st.sampled_from((0, 1)),
)
margins = amounts.map(abs)


def bits(value: Decimal) -> object:
    """What `==` does not tell apart: 1.0 and 1.00, 0 and -0."""
    return value.as_tuple()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def database(
    loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SqlDatabase]:
    path: Path = tmp_path_factory.mktemp("exactness") / "rtx.db"
    database = SqlDatabase(f"sqlite+aiosqlite:///{path}")
    loop.run(database.open())
    yield database
    loop.run(database.close())


@settings(max_examples=40, deadline=None)
@given(balance=amounts, changed=amounts, margin=margins, profit=amounts)
def test_any_decimal_comes_back_bit_for_bit(
    loop: asyncio.Runner,
    database: SqlDatabase,
    balance: Decimal,
    changed: Decimal,
    margin: Decimal,
    profit: Decimal,
) -> None:
    async def round_trip() -> None:
        number = f"A{len(await database.account_ids())}"
        (account_id,) = await database.add_accounts([(number, balance)])
        async with database.update_account(account_id) as account:
            assert bits(account.balance) == bits(balance)
            account.balance = changed
            position = await account.open_position("EURUSD", "BUY", 1.0, 1.1, margin)
            await account.mark_position(position.id, 1.2, profit)
        async with database.update_account(account_id) as account:
            assert bits(account.balance) == bits(changed)
            assert bits(account.positions[0].unrealized_pnl) == bits(profit)
        assert bits((await database.accounts([account_id]))[account_id].balance) == bits(changed)

    loop.run(round_trip())


@settings(max_examples=60, deadline=None)
@given(
    balance=amounts, held=st.lists(st.tuples(margins, amounts), max_size=8), prec=st.integers(1, 30)
)
def test_sums_are_exact_whatever_the_callers_context(
    balance: Decimal, held: list[tuple[Decimal, Decimal]], prec: int
) -> None:
    with localcontext(Context(prec=prec)):
        account = summarize(1, "A", balance, [m for m, _ in held], [p for _, p in held])
    margin = sum((Fraction(m) for m, _ in held), Fraction())
    equity = Fraction(balance) + sum((Fraction(p) for _, p in held), Fraction())
    assert Fraction(account.margin) == margin
    assert Fraction(account.equity) == equity
    assert Fraction(account.free_margin) == equity - margin
    assert account.open_positions == len(held)
    if margin:
        assert abs(Fraction(account.margin_level) - equity / margin * 100) <= Fraction(1, 200)
        assert account.margin_level.as_tuple().exponent == -2
    else:
        assert account.margin_level == 0


def test_margin_level_is_rounded_half_to_even() -> None:
    account = summarize(1, "A", Decimal("1.00005"), [Decimal(1)], [])
    exact = Decimal("100.005").quantize(Decimal("0.01"), ROUND_HALF_EVEN)
    assert account.margin_level == exact == Decimal("100.00")


@settings(deadline=None)
@given(value=amounts)
def test_money_within_bounds_is_returned_as_it_is(value: Decimal) -> None:
    assert check_money("balance", value) is value
