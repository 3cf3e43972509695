"""What all caches offer beyond get and put: sources, fields, keys, edits, early refreshes."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import redis.asyncio as redis_py
from pydantic import ValidationError

import rtx
from rtx.cache import Lookup, reading
from rtx.errors import Conflict, NotFound, SettingsError, UnknownName
from rtx.setting_groups import CacheSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.wire import Pool
from tests.cache.memory import SYMBOL, MemoryDatabase, account, position
from tests.cache.numbers import Rows, numbers, open_pool
from tests.conftest import eventually

PRICE = rtx.Price("BTCUSD", bid=1.0, ask=2.0, time=1_768_732_245_123)


@pytest.fixture
async def pool(shared_server: str) -> AsyncIterator[Pool]:
    async with open_pool(shared_server) as opened:
        yield opened


async def calls(client: redis_py.Redis) -> dict[str, int]:
    """How often the server has carried out each command since its counters were reset."""
    stats = await client.info("commandstats")
    return {name.removeprefix("cmdstat_"): item["calls"] for name, item in stats.items()}


# --- round trips ---------------------------------------------------------------------------


async def test_a_hundred_accounts_are_one_command(own_server: ServerProcess) -> None:
    several = [account(id) for id in range(100)]
    records = MemoryDatabase(several)
    settings = Settings.load(url=own_server.url, cache=CacheSettings(read_timeout=10.0))
    async with (
        rtx.open(settings, database=records) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        await layer.accounts.get_many(range(100))
        assert records.reads == [("accounts", list(range(100)))]
        await witness.config_resetstat()
        found = await layer.accounts.get_many(range(100))
        counted = await calls(witness)
        assert found == dict(enumerate(several))
        counted.pop("ping", None)  # connections ask whether the server lives
        for of_the_witness in ("config|resetstat", "info", "client|setinfo", "hello", "select"):
            counted.pop(of_the_witness, None)
        counted = {name: count for name, count in counted.items() if "client" not in name}
        assert counted == {"mget": 1}
        assert layer.accounts.stats.hits == 100
        assert len(records.reads) == 1


async def test_what_a_read_costs_in_round_trips(pool: Pool, namespace: str) -> None:
    class Counted:
        trips = 0

        def call(self, *args: Any, timeout: float | None = None) -> Any:
            self.trips += 1
            return pool.call(*args, timeout=timeout)

        def batch(self, commands: Any, timeout: float | None = None) -> Any:
            self.trips += 1
            return pool.batch(commands, timeout)

        on_loss = staticmethod(pool.on_loss)

    counted = Counted()
    async with numbers(counted, namespace, Rows(n1=1, n2=2, n3=3)) as cache:  # type: ignore[arg-type]
        await cache.get_many([1, 9])
        await cache.lookup(1)
        await cache.invalidate(1)  # the server knows all scripts now
        await cache._put([(3, 3, 0)])
        for what, use, expected in (
            ("a miss: look, claim, fill", lambda: cache.get(1), 3),
            ("a hit", lambda: cache.get(1), 1),
            ("known to be absent: look, claim", lambda: cache.get(9), 2),
            ("misses and hits together", lambda: cache.get_many([1, 2, 3]), 3),
            ("hits", lambda: cache.get_many([1, 2, 3]), 1),
            ("with all that is known of it", lambda: cache.lookup(1), 1),
            ("an invalidation", lambda: cache.invalidate(1), 1),
            ("of many", lambda: cache.invalidate(1, 2, 3), 1),
            ("a write", lambda: cache._put([(1, 1, 0), (2, 2, 0)]), 1),
        ):
            before = counted.trips
            await use()
            assert counted.trips - before == expected, what


# --- where it is from ----------------------------------------------------------------------


async def test_a_lookup_tells_source_age_and_version(
    backed: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    assert await backed.accounts.lookup(99) is None
    assert await backed.accounts.lookup(1) == Lookup(account(1), "database", 0.0)
    found = await backed.accounts.lookup(1)
    assert found is not None
    assert (found.source, found.version, found.stale) == ("redis", 0, False)
    assert found.age is not None
    assert 0 <= found.age < 5
    key = backed.keys.account(1)
    await witness.pexpire(key, await witness.pttl(key) - 20_000)
    later = await backed.accounts.lookup(1)
    assert later is not None
    assert later.age is not None
    assert 20 <= later.age < 25
    await witness.persist(key)
    forever = await backed.accounts.lookup(1)
    assert forever is not None
    assert forever.age is None


async def test_a_lookup_of_a_price_says_how_long_ago_it_was_stored(layer: rtx.DataLayer) -> None:
    assert await layer.prices.lookup("BTCUSD") is None
    await layer.prices.put(PRICE)
    found = await layer.prices.lookup("BTCUSD")
    if found is not None:  # it may be gone on a busy machine
        assert found.value == PRICE
        assert found.age is not None
        assert 0 <= found.age <= 1


# --- fields and keys -----------------------------------------------------------------------


async def test_fields_are_read_by_name(backed: rtx.DataLayer) -> None:
    assert await backed.accounts.field(1, "balance") == Decimal("100.00")
    assert await backed.accounts.field(99, "balance") is None
    await backed.prices.put(PRICE)
    assert await backed.prices.field("BTCUSD", "mid") in (1.5, None)
    with pytest.raises(UnknownName, match=r"no field 'balanc'; there are id, account_number, bal"):
        await backed.accounts.field(1, "balanc")
    with pytest.raises(UnknownName, match="read the whole value"):
        await backed.positions.field(1, "symbol")


async def test_keys_of_the_contract_are_read_as_they_are(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    records.held[1] = (position(7),)
    odd = msgspec.structs.replace(SYMBOL, symbol="EUR:USD:X")
    records.specs[odd.symbol] = odd
    name = backed.keys.namespace
    await backed.prices.put(PRICE)
    for key, expected in (
        ("account:1", account(1)),
        ("account:1:balance", Decimal("100.00")),
        ("account:99", None),
        ("account:99:balance", None),
        ("positions:1", (position(7),)),
        ("symbol:EURUSD", SYMBOL),
        ("symbol:EURUSD:digits", 5),
        ("symbol:EUR:USD:X", odd),
        ("symbol:EUR:USD:X:base", "EUR"),
        ("price:NONE:bid", None),
    ):
        assert await backed.read(f"{name}:{key}") == expected, key
    assert await backed.read(f"{name}:price:BTCUSD:mid") in (1.5, None)
    for key in (
        "account:1",  # of another namespace
        f"{name}:account:one",
        f"{name}:account:",
        f"{name}:account:1:nothing",
        f"{name}:positions:1:volume",
        f"{name}:session:abc",
        f"{name}:ratelimit:api:1",
        f"{name}:",
        "",
    ):
        with pytest.raises(UnknownName):
            await backed.read(key)


# --- edits ---------------------------------------------------------------------------------


class Editable(MemoryDatabase):
    """A database that stores symbol specs."""

    async def add_symbols(self, specs: Iterable[rtx.SymbolSpec]) -> None:
        self._check()
        self.specs.update({spec.symbol: spec for spec in specs})


async def narrow(layer: rtx.DataLayer, digits: int) -> None:
    async with layer.symbols.update("EURUSD") as edit:
        edit.value = msgspec.structs.replace(edit.value, digits=digits)


async def test_an_edit_is_saved_in_the_database_and_then_dropped_from_the_cache(
    settings: Settings, witness: redis_py.Redis
) -> None:
    database = Editable()
    async with rtx.open(settings, database=database) as layer:
        await layer.symbols.get("EURUSD")
        await narrow(layer, 3)
        assert database.specs["EURUSD"].digits == 3
        assert await witness.exists(layer.keys.symbol("EURUSD")) == 0
        spec = await layer.symbols.get("EURUSD")
        assert spec is not None
        assert spec.digits == 3
        with pytest.raises(NotFound):
            async with layer.symbols.update("NONE"):
                pass

        async def fail() -> None:
            async with layer.symbols.update("EURUSD") as edit:
                edit.value = msgspec.structs.replace(edit.value, digits=4)
                raise ArithmeticError

        with pytest.raises(ArithmeticError):
            await fail()
        assert database.specs["EURUSD"].digits == 3
        assert await witness.exists(layer.keys.symbol("EURUSD")) == 1
        database.down = True
        with pytest.raises(rtx.DatabaseUnavailable):
            await narrow(layer, 2)


async def test_a_database_that_stores_no_specs_says_so(backed: rtx.DataLayer) -> None:
    with pytest.raises(SettingsError, match="cannot save"):
        await narrow(backed, 3)


async def test_without_a_database_an_edit_is_stored_unless_somebody_was_faster(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    with pytest.raises(NotFound):
        await narrow(layer, 3)
    await layer.symbols.put(SYMBOL)
    await narrow(layer, 3)
    spec = await layer.symbols.get("EURUSD")
    assert spec is not None
    assert spec.digits == 3
    async with rtx.open(settings) as other:

        async def too_slow() -> None:
            async with layer.symbols.update("EURUSD") as edit:
                edit.value = msgspec.structs.replace(edit.value, digits=4)
                await narrow(other, 2)

        with pytest.raises(Conflict, match="read it again and repeat the edit") as conflict:
            await too_slow()
        assert conflict.value.retryable
    spec = await layer.symbols.get("EURUSD")
    assert spec is not None
    assert spec.digits == 2


async def test_of_many_edits_at_once_none_is_lost(pool: Pool, namespace: str) -> None:
    async with numbers(pool, namespace, None) as cache:
        await cache._put([(1, 0, 0)])

        async def add() -> None:
            while True:
                try:
                    async with cache._editing(1, None) as edit:
                        edit.value += 1
                    return
                except Conflict:
                    continue

        await asyncio.gather(*(add() for _ in range(20)))
        assert await cache.get(1) == 20


# --- early refresh -------------------------------------------------------------------------


async def test_shortly_before_the_end_one_reader_loads_anew_and_all_go_on_reading(
    pool: Pool, namespace: str, witness: redis_py.Redis
) -> None:
    rows = Rows(n1=10)
    async with numbers(pool, namespace, rows, early=True) as cache:
        assert await cache.get(1) == 10
        rows.rows[1] = 11
        cache._loads.duration = 1e6  # type: ignore[union-attr]
        rows.gate.clear()
        assert await asyncio.gather(*(cache.get(1) for _ in range(100))) == [10] * 100
        await rows.asked_for(2)
        assert await cache.get(1) == 10
        rows.gate.set()

        async def refreshed() -> bool:
            return await cache.get(1) == 11

        await eventually(refreshed)
        assert cache.stats.early_refreshes >= 1
        assert cache.stats.misses == 1


async def test_a_refresh_that_a_write_overtook_stores_nothing(pool: Pool, namespace: str) -> None:
    rows = Rows(n1=10)
    async with (
        numbers(pool, namespace, rows, early=True) as cache,
        numbers(pool, namespace, rows) as other,
    ):
        await cache.get(1)
        cache._loads.duration = 1e6  # type: ignore[union-attr]
        rows.gate.clear()
        await cache.get(1)
        await rows.asked_for(2)
        rows.rows[1] = 11
        await other.invalidate(1)
        rows.gate.set()
        assert await cache.get(1) == 11
        assert await other.get(1) == 11
        assert cache.stats.stale_fills_refused == 1


async def test_how_early_is_drawn_by_how_long_a_load_takes(
    pool: Pool, namespace: str, seeded: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute before the end: of loads that take so long 1 in e goes early, of quick ones none."""
    rows = Rows(n1=10)
    reads = 400
    async with numbers(pool, namespace, rows, early=True, ttl=60.0) as cache:
        await cache.get(1)
        monkeypatch.setattr(reading, "random", seeded)
        early = {}
        for duration in (0.1, 60.0, 1e12):
            drawn: list[int] = []
            monkeypatch.setattr(cache._filler, "refresh", lambda id, _: drawn.append(id))  # noqa: B023
            cache._loads.duration = duration  # type: ignore[union-attr]
            for _ in range(reads):
                assert await cache.get(1) == 10
            early[duration] = len(drawn)
        print(early)
        assert early[0.1] == 0
        assert abs(early[60.0] - reads / math.e) < 60  # six standard deviations
        assert early[1e12] == reads


# --- stale if error ------------------------------------------------------------------------


async def test_specs_seen_last_are_served_while_all_is_away_where_that_is_asked_for(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    stale = CacheSettings(stale_if_error=("symbols",))
    settings = Settings.load(url=own_server.url, cache=stale)
    async with rtx.open(settings, database=records) as layer:
        await layer.symbols.get("EURUSD")
        await layer.accounts.get(1)
        own_server.kill()
        await own_server.wait()
        records.down = True
        assert await layer.symbols.get("EURUSD") == SYMBOL
        assert await layer.symbols.get_many(["EURUSD"]) == {"EURUSD": SYMBOL}
        found = await layer.symbols.lookup("EURUSD")
        assert found is not None
        assert found.stale
        assert found.age is not None
        assert found.age >= 0
        assert layer.symbols.stats.stale_served == 3
        for read in (
            layer.symbols.get("GBPUSD"),
            layer.symbols.get_many(["EURUSD", "GBPUSD"]),
            layer.accounts.get(1),
        ):
            with pytest.raises(rtx.DatabaseUnavailable):
                await read
        await layer.symbols.invalidate("EURUSD")
        with pytest.raises(rtx.DatabaseUnavailable):  # it is known to be wrong now
            await layer.symbols.get("EURUSD")


async def test_nothing_is_served_stale_unless_it_is_asked_for(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=own_server.url), database=records) as layer:
        await layer.symbols.get("EURUSD")
        own_server.kill()
        await own_server.wait()
        records.down = True
        with pytest.raises(rtx.DatabaseUnavailable):
            await layer.symbols.get("EURUSD")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("accounts", "a balance that may be wrong is no balance"),
        ("positions", "a position that may be closed is no position"),
        ("prices", "an old price is no price"),
        ("sessions", "a session may have been revoked"),
        ("orders", "there is no such cache"),
    ],
)
def test_what_may_not_be_stale_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"cache.stale_if_error: {why}"):
        Settings.load(cache={"stale_if_error": ["symbols", name]})
    with pytest.raises(ValidationError):
        CacheSettings(stale_if_error=(name,))


# --- values of others ----------------------------------------------------------------------

OLDER = b'{"id":1,"account_number":"RTX-000001","balance":100.00,"equity":100.00}'
EXTRA = (
    b'{"id":1,"account_number":"RTX-000001","balance":100.00,"equity":100.00,"margin":0,'
    b'"free_margin":100.00,"margin_level":0,"open_positions":0,"currency":"USD","v":[1,{}]}'
)


def with_money(text: bytes) -> bytes:
    return EXTRA.replace(b'"balance":100.00', b'"balance":' + text)


@pytest.mark.parametrize(
    ("raw", "is_read"),
    [
        (EXTRA, True),
        (with_money(b'"100.00"'), True),
        (OLDER, False),
        (with_money(b"NaN"), False),
        (with_money(b'"NaN"'), False),
        (with_money(b'"-Infinity"'), False),
        (with_money(b'"sNaN"'), False),
        (with_money(b"1e9999999999"), False),
        (with_money(b"null"), False),
        (EXTRA[:-1], False),
        (b"\x00" * 50, False),
        (b"", False),
    ],
    ids=lambda item: "" if isinstance(item, bool) else item[:60].decode("latin-1"),
)
async def test_values_of_other_programs_are_read_or_replaced_and_never_an_exception(
    backed: rtx.DataLayer, witness: redis_py.Redis, raw: bytes, is_read: bool
) -> None:
    for read in ("get", "get_many", "lookup", "field"):
        await witness.set(backed.keys.account(1), raw, px=60_000)
        before = backed.accounts.stats.undecodable
        if read == "get":
            assert await backed.accounts.get(1) == account(1)
        elif read == "get_many":
            assert await backed.accounts.get_many([1]) == {1: account(1)}
        elif read == "lookup":
            found = await backed.accounts.lookup(1)
            assert found is not None
            assert found.value == account(1)
            assert found.source == ("redis" if is_read else "database")
        else:
            assert await backed.accounts.field(1, "balance") == Decimal("100.00")
        assert backed.accounts.stats.undecodable - before == (not is_read)
        assert (await witness.get(backed.keys.account(1)) == raw) == is_read


@pytest.mark.parametrize("profit", ['"NaN"', '"Infinity"', "NaN"])
async def test_a_profit_that_is_no_number_is_no_position(
    backed: rtx.DataLayer, witness: redis_py.Redis, records: MemoryDatabase, profit: str
) -> None:
    records.held[1] = (position(7),)
    raw = (
        '[{"id":7,"symbol":"EURUSD","side":"BUY","volume":1,"open_price":1,"current_price":1,'
        f'"unrealized_pnl":{profit}}}]'
    )
    await witness.set(backed.keys.positions(1), raw)
    assert await backed.positions.get(1) == (position(7),)
    assert backed.positions.stats.undecodable == 1


@pytest.mark.parametrize("quote", ['"bid":NaN,"ask":2', '"bid":1e999,"ask":2', '"bid":"1","ask":2'])
async def test_a_price_that_is_no_number_is_not_fresh(
    layer: rtx.DataLayer, witness: redis_py.Redis, quote: str
) -> None:
    await witness.set(layer.keys.price("X"), f'{{"symbol":"X","time":1,{quote}}}')
    assert await layer.prices.get("X") is None
    assert await layer.prices.get_many(["X"]) == {}
    assert await layer.prices.lookup("X") is None
    assert layer.prices.stats.undecodable == 3


@pytest.mark.parametrize("raised", [KeyError, AttributeError, ZeroDivisionError, RuntimeError])
async def test_a_decoder_of_the_users_may_fail_as_it_likes(
    pool: Pool, namespace: str, witness: redis_py.Redis, raised: type[Exception]
) -> None:
    def decode(raw: bytes) -> int:
        if raw == b"odd":
            raise raised("what is this?")
        return int(raw.decode())

    rows = Rows(n1=10, n2=20)
    async with numbers(pool, namespace, rows) as cache:
        cache._decode = cache._reading._decode = cache._filler.decode = decode
        for id in (1, 2):
            await witness.set(f"{namespace}:{id}", "odd")
        assert await cache.get(1) == 10
        assert await cache.get_many([1, 2, 3]) == {1: 10, 2: 20}
        assert await cache.get_many([2, 1]) == {1: 10, 2: 20}
        assert await cache.get(9) is None
        assert cache.stats.undecodable == 2


async def test_a_value_that_becomes_unreadable_between_look_and_claim_is_replaced_too(
    pool: Pool, namespace: str, witness: redis_py.Redis
) -> None:
    rows = Rows(n1=10)
    async with numbers(pool, namespace, rows) as cache:
        acquire = cache._remote.acquire

        async def meddled(*args: Any, **options: Any) -> Any:
            cache._remote.acquire = acquire  # type: ignore[method-assign]
            await witness.set(f"{namespace}:1", "no number")
            return await acquire(*args, **options)

        cache._remote.acquire = meddled  # type: ignore[method-assign]
        assert await cache.get(1) == 10
        assert cache.stats.undecodable == 1
        assert await witness.get(f"{namespace}:1") == b"10"
