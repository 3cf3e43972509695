"""Money comes back as it went in, and its sums are exact."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtx import codecs
from rtx.database import SqlDatabase, check_money, summarize
from rtx.database.tables import positions
from tests.database.postgres import PostgresServer

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


def kept(value: Decimal, url: str) -> object:
    """The bits that come back: PostgreSQL has neither exponents above zero nor a zero below it."""
    if url.startswith("postgresql"):
        digits = value if value.as_tuple().exponent < 0 else Decimal(f"{value:f}")
        return bits(digits if digits else digits.copy_abs())
    return bits(value)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=["sqlite-file", "postgresql"])
def url(
    request: pytest.FixtureRequest, loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A database for all tests of this file, one of each kind."""
    if request.param == "sqlite-file":
        yield f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('exactness')}/rtx.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    empty = server.database()
    yield loop.run(empty.__aenter__())
    loop.run(empty.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def database(loop: asyncio.Runner, url: str) -> Iterator[SqlDatabase]:
    database = SqlDatabase(url, timeout=30.0)
    loop.run(database.open())
    yield database
    loop.run(database.close())


@settings(max_examples=40, deadline=None)
@given(balance=amounts, changed=amounts, margin=margins, profit=amounts)
def test_any_decimal_comes_back_bit_for_bit(
    loop: asyncio.Runner,
    database: SqlDatabase,
    url: str,
    balance: Decimal,
    changed: Decimal,
    margin: Decimal,
    profit: Decimal,
) -> None:
    async def round_trip() -> None:
        number = f"one-{secrets.token_hex(8)}"
        (account_id,) = await database.add_accounts([(number, balance)])
        async with database.update_account(account_id) as account:
            assert bits(account.balance) == kept(balance, url)
            account.balance = changed
            position = await account.open_position("EURUSD", "BUY", 1.0, 1.1, margin)
            await account.mark_position(position.id, 1.2, profit)
        async with database.update_account(account_id) as account:
            assert bits(account.balance) == kept(changed, url)
            assert bits(account.positions[0].unrealized_pnl) == kept(profit, url)
        read = (await database.accounts([account_id]))[account_id]
        assert bits(read.balance) == kept(changed, url)

    loop.run(round_trip())


def money(draw: random.Random) -> Decimal:
    """Cents mostly, and what currencies, crypto-currencies and mistakes bring along."""
    places = draw.choice((2, 2, 2, 2, 0, 3, 8, 18))
    digits = draw.choice((0, 1, draw.randrange(10**3), draw.randrange(10**9), draw.getrandbits(90)))
    return Decimal((draw.getrandbits(1) if digits else 0, tuple(map(int, str(digits))), -places))


def test_ten_thousand_accounts_go_through_json_and_database_bit_for_bit(
    loop: asyncio.Runner, database: SqlDatabase, seeded: random.Random
) -> None:
    how_many = 10_000
    balances = [money(seeded) for _ in range(how_many)]
    held = [
        [(abs(money(seeded)), money(seeded)) for _ in range(seeded.choice((0, 0, 1, 2)))]
        for _ in range(how_many)
    ]

    async def write() -> list[int]:
        run = secrets.token_hex(4)
        ids = await database.add_accounts(
            (f"{run}-{n}", balance) for n, balance in enumerate(balances)
        )
        rows = [
            {
                "account_id": account_id,
                "symbol": "EURUSD",
                "side": "BUY",
                "volume": 1.0,
                "open_price": 1.1,
                "current_price": 1.1,
                "unrealized_pnl": profit,
                "margin": margin,
                "opened_at": 0,
            }
            for account_id, several in zip(ids, held, strict=True)
            for margin, profit in several
        ]
        async with database._connections.writing() as connection:
            await connection.execute(positions.insert(), rows)
            await connection.commit()
        return ids

    ids = loop.run(write())
    accounts, open_positions = loop.run(database.accounts(ids)), loop.run(database.positions(ids))
    for account_id, balance, several in zip(ids, balances, held, strict=True):
        account, found = accounts[account_id], open_positions[account_id]
        equity = Fraction(balance) + sum((Fraction(profit) for _, profit in several), Fraction())
        assert bits(account.balance) == bits(balance)
        assert Fraction(account.equity) == equity
        assert Fraction(account.margin) == sum((Fraction(m) for m, _ in several), Fraction())
        assert [bits(one.unrealized_pnl) for one in found] == [bits(p) for _, p in several]

        again = codecs.decode_account(codecs.encode(account))
        assert again == account
        for field in ("balance", "equity", "margin", "free_margin", "margin_level"):
            assert bits(getattr(again, field)) == bits(getattr(account, field))
        positions_again = codecs.decode_positions(codecs.encode(found))
        assert positions_again == found
        assert [bits(one.unrealized_pnl) for one in positions_again] == [
            bits(p) for _, p in several
        ]


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
