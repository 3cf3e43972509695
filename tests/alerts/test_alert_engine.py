"""Rules fire through the server: once, until re-armed, whatever is changed meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.alerts import AlertEngine, AlertRule
from rtx.errors import BadRule
from rtx.setting_groups import AlertSettings
from rtx.settings import Settings
from tests.alerts.conftest import above, alerted, quote
from tests.conftest import eventually
from tests.marking.conftest import Book, book  # noqa: F401  # a fixture

_EVERY = 0.25


@pytest.fixture
def lasting(settings: Settings) -> Settings:
    """Margins are checked four times a second."""
    return settings.model_copy(update={"alerts": AlertSettings(margin_every=_EVERY)})


async def armed(layer: rtx.DataLayer, account: int | str = 1) -> dict[str, bool]:
    return {state.rule.id: state.armed for state in await layer.alert_rules.list(account)}


async def settled(layer: rtx.DataLayer, ticks: int) -> None:
    """So many ticks have been evaluated, and what came of them is at the server."""
    stats = layer.alert_rules.stats
    await eventually(lambda: stats.evaluated + stats.late >= ticks and not stats.owed)


async def test_an_alert_says_which_rule_fired_and_is_not_repeated(
    layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    await layer.alert_rules.put(above(severity="critical"))
    async with layer.alerts.subscribe(1) as alerts:
        await eventually(lambda: layer.alert_rules.stats.rules)
        await engine.ready()
        await alerts.ready()
        for bid in (1.0999, 1.1001, 1.1002, 1.0, 1.2):
            await quote(layer, bid)
        alert = await anext(alerts)
    assert isinstance(alert, rtx.Alert)
    assert (alert.kind, alert.severity, alert.rule) == ("price_above", "critical", "r")
    assert alert.message == "EURUSD bid 1.1001 is above 1.1"
    await settled(layer, 5)
    assert await alerted(layer) == ["r"]
    [state] = await layer.alert_rules.list(1)
    assert (state.armed, state.firings) == (False, 1)
    assert state.fired_at == alert.timestamp


async def test_a_rule_fires_again_when_it_was_re_armed(
    layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    await layer.alert_rules.put(above())
    await eventually(lambda: layer.alert_rules.stats.rules)
    await engine.ready()
    await quote(layer, 1.2)
    await eventually(lambda: layer.alert_rules.stats.fired == 1)
    assert await layer.alert_rules.rearm(1, "r")
    await eventually(lambda: layer.alert_rules.stats.fired == 2)  # 1.2 is the price still
    assert await alerted(layer) == ["r", "r"]
    assert not await layer.alert_rules.rearm(1, "nosuch")


async def test_hysteresis_keeps_a_price_on_the_line_from_chattering(
    layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    await layer.alert_rules.put(above(rearm="auto", hysteresis=0.0005))
    await eventually(lambda: layer.alert_rules.stats.rules)
    await engine.ready()
    prices = [1.1001, 1.1, 1.1001, 1.0996, 1.1002, 1.0995, 1.1001]
    start = rtx.models.now_ms()
    for number, bid in enumerate(prices):
        await layer.market_data.publish(
            rtx.Tick("EURUSD", time=start + number, bid=bid, ask=bid + 0.0002)
        )
    await settled(layer, len(prices))
    stats = layer.alert_rules.stats
    assert (stats.fired, stats.rearmed, await alerted(layer)) == (2, 1, ["r", "r"])


async def test_a_system_rule_goes_to_everyone_with_its_own_words(
    layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    rule = AlertRule(
        id="wide",
        account_id="system",
        kind="spread_above",
        symbol="EURUSD",
        threshold=0.0005,
        message="{symbol} is {value} wide, {bid} to {ask}; {{x}}",
    )
    with pytest.raises(BadRule, match="message"):
        await layer.alert_rules.put(rule)
    rule = AlertRule(
        id="wide",
        account_id="system",
        kind="spread_above",
        symbol="EURUSD",
        threshold=0.0005,
        message="{symbol} is {value} wide, {bid} to {ask}",
    )
    await layer.alert_rules.put(rule)
    await eventually(lambda: layer.alert_rules.stats.rules)
    await engine.ready()
    await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.1005))
    await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.1006))
    await eventually(lambda: layer.alert_rules.stats.fired)
    [alert] = (await layer.alerts.history("system")).messages
    assert alert.message == "EURUSD is 0.0006 wide, 1.1 to 1.1006"


async def test_changes_of_another_process_are_in_force_within_a_second(
    settings: Settings, layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    stats = layer.alert_rules.stats
    async with rtx.open(settings) as other:

        async def seen(rules: int) -> None:
            began = time.monotonic()
            await eventually(lambda: stats.rules == rules)
            print(f"{time.monotonic() - began:.2f} s until it was seen")

        await other.alert_rules.put(above())
        await seen(1)
        assert await other.alert_rules.put(above()) is False
        await other.alert_rules.put(above(threshold=1.5))
        await other.alert_rules.put(above("other", account_id=2))
        await seen(2)
        await engine.ready()
        await quote(layer, 1.2)
        await eventually(lambda: stats.fired == 1)
        assert (await alerted(layer), await alerted(layer, 2)) == ([], ["other"])
        assert await other.alert_rules.remove(1, "r")
        assert not await other.alert_rules.remove(1, "r")
        await seen(1)
        await quote(layer, 1.6)
        await settled(layer, 2)
    assert await alerted(layer) == []


async def test_the_same_rule_put_again_stays_fired_and_another_one_is_armed(
    layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    await layer.alert_rules.put(above())
    await eventually(lambda: layer.alert_rules.stats.rules)
    await engine.ready()
    await quote(layer, 1.2)
    await eventually(lambda: layer.alert_rules.stats.fired == 1)
    assert not await layer.alert_rules.put(above())
    assert not await layer.alert_rules.put(above(seconds=float("0"), message=""))
    assert await armed(layer) == {"r": False}
    assert await layer.alert_rules.put(above(threshold=1.3))
    assert await armed(layer) == {"r": True}


async def test_a_level_that_was_passed_before_the_engine_began_is_caught_up(
    layer: rtx.DataLayer,
) -> None:
    await layer.alert_rules.put(above())
    await quote(layer, 1.2)
    async with layer.alert_rules.engine():
        await eventually(lambda: layer.alert_rules.stats.fired)
    assert await alerted(layer) == ["r"]
    assert layer.alert_rules.stats.rules == 0


async def test_silence_fires_without_ticks_and_not_before_its_time(
    layer: rtx.DataLayer, engine: AlertEngine
) -> None:
    for id, hours in (("open", ""), ("closed", _closed_now())):
        rule = AlertRule(
            id=id, account_id=1, kind="price_stale", symbol="EURUSD", seconds=1.5, hours=hours,
            rearm="auto",
        )  # fmt: skip
        await layer.alert_rules.put(rule)
    await eventually(lambda: layer.alert_rules.stats.rules == 2)
    await engine.ready()
    await quote(layer, 1.1)
    last = time.monotonic()
    await eventually(lambda: layer.alert_rules.stats.fired)
    assert time.monotonic() - last > 1.4
    await quote(layer, 1.1)
    await eventually(lambda: layer.alert_rules.stats.rearmed)
    await eventually(lambda: layer.alert_rules.stats.fired == 2)
    assert await alerted(layer) == ["open", "open"]


def _closed_now() -> str:
    """Hours that ended some hours ago."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    then = time.gmtime(time.time() - 6 * 3600)
    day = days[then.tm_wday]
    minute = min(then.tm_min, 58)
    return f"{day} {then.tm_hour:02}:{minute:02}-{day} {then.tm_hour:02}:{minute + 1:02}"


async def test_a_margin_rule_fires_at_the_price_that_takes_the_level_below(book: Book) -> None:  # noqa: F811
    layer = book.layer
    await book.quote("EURUSD", 1.1, 1.1002)
    await book.open("EURUSD", "BUY", 10.0, 1.1, margin="9000.00")
    rule = AlertRule(
        id="call", account_id=book.account, kind="margin_below", threshold=100, severity="critical",
        rearm="auto", hysteresis=5,
    )  # fmt: skip
    await layer.alert_rules.put(rule)
    stats = layer.alert_rules.stats
    async with layer.alert_rules.engine() as engine:
        await engine.ready()
        await eventually(lambda: stats.margin_checks)
        await book.quote("EURUSD", 1.0991, 1.0993)  # 10,000 − 900 = 9,100: 101.11 %
        checked = stats.margin_checks
        await eventually(lambda: stats.margin_checks > checked)
        assert stats.fired == 0
        await book.quote("EURUSD", 1.0989, 1.0991)  # 8,900: 98.89 %
        await eventually(lambda: stats.fired == 1)
        await book.quote("EURUSD", 1.0992, 1.0994)  # 102.22 %: not yet 105 %
        checked = stats.margin_checks
        await eventually(lambda: stats.margin_checks > checked)
        assert stats.rearmed == 0
        await book.quote("EURUSD", 1.1, 1.1002)
        await eventually(lambda: stats.rearmed == 1)
    [alert] = (await layer.alerts.history(book.account)).messages
    assert alert.message == "margin level 98.89 % is below 100 %"


async def test_an_account_is_checked_once_in_a_while_however_often_its_prices_move(
    book: Book,  # noqa: F811
) -> None:
    await book.quote("EURUSD", 1.1, 1.1002)
    await book.open("EURUSD", "BUY", 1.0, 1.1)
    stats = book.layer.alert_rules.stats
    rule = AlertRule(id="call", account_id=book.account, kind="margin_below", threshold=100)
    await book.layer.alert_rules.put(rule)
    async with book.layer.alert_rules.engine() as engine, asyncio.timeout(30):
        await eventually(lambda: stats.margin_checks)
        await engine.ready()
        began, checked = time.monotonic(), stats.margin_checks
        while time.monotonic() - began < 0.8:
            await book.quote("EURUSD", 1.1, 1.1002)
        most = (time.monotonic() - began) / _EVERY + 1
        assert 1 <= stats.margin_checks - checked <= most


async def test_a_rule_that_nobody_understands_is_passed_over_and_counted(
    layer: rtx.DataLayer, admin_server: str, namespace: str, engine: AlertEngine
) -> None:
    await layer.alert_rules.put(above())
    pubsub = redis_py.Redis.from_url(f"{admin_server}/1")
    key = f"{{{namespace}:alerts:1}}:rules"
    await pubsub.hset(key, "odd", '{"id":"odd","account_id":1,"kind":"moon_phase"}')
    known = (await pubsub.hget(key, "r")).decode()
    await pubsub.hset(key, "r", known[:-1] + ',"colour":"red"}')
    await pubsub.aclose()
    await layer.alert_rules.put(above("s"))
    await eventually(lambda: layer.alert_rules.stats.unreadable)
    assert set(await armed(layer)) == {"r", "s"}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("id", {"id": "no spaces"}),
        ("account_id", {"account_id": "everyone"}),
        ("account_id", {"account_id": -1}),
        ("rule", {"kind": "moon_phase"}),
        ("symbol", {"symbol": "*"}),
        ("symbol", {"symbol": ""}),
        ("threshold", {"threshold": 0.0}),
        ("threshold", {"threshold": float("nan")}),
        ("threshold", {"threshold": -1.0}),
        ("seconds", {"seconds": 5.0}),
        ("hysteresis", {"hysteresis": 0.1}),
        ("hysteresis", {"hysteresis": 1.1, "rearm": "auto"}),
        ("message", {"message": "{value.__class__}{nosuch}"}),
        ("hours", {"kind": "price_stale", "side": "mid", "threshold": 0.0, "seconds": 5.0,
                   "hours": "Sun 25:00-Fri 22:00"}),
    ],
)  # fmt: skip
async def test_what_can_be_no_rule_is_refused_with_the_field(
    layer: rtx.DataLayer, field: str, changes: dict[str, object]
) -> None:
    with pytest.raises(BadRule) as refused:
        await layer.alert_rules.put(above(**{"id": "r", **changes}))  # type: ignore[arg-type]
    assert refused.value.field == field
    assert await layer.alert_rules.list(1) == []


async def test_an_account_has_no_more_rules_than_it_may_have(settings: Settings) -> None:
    few = settings.model_copy(
        update={"alerts": settings.alerts.model_copy(update={"per_account": 2})}
    )
    async with rtx.open(few) as layer:
        await layer.alert_rules.put(above("a"))
        await layer.alert_rules.put(above("b"))
        await layer.alert_rules.put(above("b", threshold=1.2))
        with pytest.raises(BadRule, match="per_account"):
            await layer.alert_rules.put(above("c"))
        assert set(await armed(layer)) == {"a", "b"}
