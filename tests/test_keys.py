"""Names of keys and channels: a contract with programs in other languages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtx.keys import SYSTEM, Keys


def test_names_are_as_the_contract_has_them() -> None:
    keys = Keys()
    assert keys.account(1) == "account:1"
    assert keys.price("BTCUSD") == "price:BTCUSD"
    assert keys.positions(1) == "positions:1"
    assert keys.symbol("EURUSD") == "symbol:EURUSD"
    assert keys.session("0ab1") == "session:0ab1"
    assert keys.sessions("user-7") == "sessions:user-7"
    assert keys.market_data("BTCUSD") == "market_data:BTCUSD"
    assert keys.executions(1) == "executions:1"
    assert keys.alerts(1) == "alerts:1"
    assert keys.alerts(SYSTEM) == "alerts:system"
    assert keys.probe("ab12") == "rtx:probe:ab12"
    assert keys.probe("ab12", beside="alerts:1") == "rtx:probe:ab12:{alerts:1}"
    assert keys.limit("api", "user-7") == "ratelimit:api:user-7"
    assert keys.limit("orders", 1) == "ratelimit:orders:1"
    assert Keys.field(keys.account(1), "balance") == "account:1:balance"
    assert Keys.companion(keys.account(1), "lease") == "{account:1}:lease"
    assert Keys.companion(keys.account(1), "version") == "{account:1}:version"
    assert Keys.companion(keys.executions(1), "log") == "{executions:1}:log"


def test_a_namespace_comes_before_every_name() -> None:
    keys = Keys("staging")
    assert keys.account(1) == "staging:account:1"
    assert keys.market_data("BTCUSD") == "staging:market_data:BTCUSD"
    assert keys.limit("api", 7) == "staging:ratelimit:api:7"
    assert Keys.companion(keys.account(1), "lease") == "{staging:account:1}:lease"
    assert repr(keys) == "Keys('staging')"


def test_a_namespace_of_several_parts_is_taken_off_whole() -> None:
    keys = Keys("desk:eu")
    assert keys.subject_of(keys.market_data("EURUSD")) == "EURUSD"


@given(namespace=st.from_regex(r"\A[A-Za-z0-9_.:-]*\Z"), symbol=st.text(min_size=1))
def test_the_subject_of_a_channel_is_what_it_was_built_from(namespace: str, symbol: str) -> None:
    keys = Keys(namespace)
    assert keys.subject_of(keys.market_data(symbol)) == symbol


@pytest.mark.parametrize("build", [Keys().account, Keys("a").executions, Keys("a:b").positions])
def test_a_companion_shares_the_cluster_slot_of_its_key(build) -> None:  # type: ignore[no-untyped-def]
    """A slot is of the text in the first braces, else of the whole name."""
    key = build(12345)
    companion = Keys.companion(key, "log")
    assert "{" not in key
    assert companion[companion.index("{") + 1 : companion.index("}")] == key


def test_what_a_cache_keeps_beside_a_value_has_the_values_name() -> None:
    assert Keys.lease("account:1") == Keys.companion("account:1", "lease")
    assert Keys.version("account:1") == Keys.companion("account:1", "version")


@pytest.mark.parametrize("namespace", ["", "staging", "a:b"])
def test_a_key_is_taken_apart_as_it_was_built(namespace: str) -> None:
    keys = Keys(namespace)
    assert keys.parts(keys.account(1)) == ("account", "1")
    assert keys.parts(keys.field(keys.account(1), "balance")) == ("account", "1:balance")
    assert keys.parts(keys.price("EUR:USD")) == ("price", "EUR:USD")
    assert keys.parts("") == ("", "")
    assert Keys("other").parts(keys.account(1))[0] == ""
