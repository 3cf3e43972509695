"""Limits that are changed while everybody uses them."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import SettingsError
from rtx.ratelimit.limits import _LOOK_EVERY
from rtx.setting_groups import LimitSettings
from rtx.settings import Settings
from tests.conftest import eventually
from tests.ratelimit.conftest import Named


@pytest.fixture
def limited(named: Named) -> Settings:
    return named(orders=(5, 60.0))


async def test_a_change_is_in_force_here_at_once_and_everywhere_within_a_second(
    limited: Settings,
) -> None:
    assert _LOOK_EVERY <= 0.5
    async with rtx.open(limited) as layer, rtx.open(limited) as other:
        await layer.limits.define("orders", limit=8)
        assert (layer.limits.orders.limit, layer.limits.orders.per) == (8, 60.0)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await eventually(lambda: other.limits.orders.limit == 8)
        print(f"seen by another process after {loop.time() - started:.2f} s")
        assert await other.limits.orders.hit(1, cost=8)
        assert not await layer.limits.orders.hit(1)
    async with rtx.open(limited) as later:
        assert later.limits.orders.limit == 8  # known before the first hit
        await later.limits.undefine("orders")
        assert later.limits.orders.limit == 5


async def test_hits_stay_counted_when_a_limit_shrinks_and_grows(limited: Settings) -> None:
    async with rtx.open(limited) as layer:
        orders = layer.limits.orders
        decisions = [await orders.hit(1) for _ in range(5)]
        await layer.limits.define("orders", limit=2)
        denied = await orders.hit(1)
        assert (denied.allowed, denied.remaining, denied.limit) == (False, 0, 2)
        # Two may count at once: it fits when the fourth has left.
        free_at = decisions[3].at + 60
        assert denied.at + denied.retry_after == pytest.approx(free_at, abs=1e-5)
        await layer.limits.define("orders", limit=7)
        assert await orders.remaining(1) == 2
        await layer.limits.define("orders", limit=7, per=120.0)
        assert await orders.remaining(1) == 2
        assert [bool(await orders.hit(1)) for _ in range(3)] == [True, True, False]


async def test_one_account_may_have_a_limit_of_its_own(limited: Settings) -> None:
    async with rtx.open(limited) as layer, rtx.open(limited) as other:
        await layer.limits.override("orders", 7, limit=9)
        await layer.limits.override("orders", "desk:1", limit=1)
        for each in (layer, other):
            orders = each.limits.orders
            await eventually(lambda: orders.overrides == {"7": 9, "desk:1": 1})  # noqa: B023
        decision = await other.limits.orders.hit(7, cost=6)
        assert (decision.allowed, decision.limit, decision.remaining) == (True, 9, 3)
        assert (await layer.limits.orders.peek("7")).remaining == 3
        assert not await layer.limits.orders.hit("desk:1", cost=2)
        assert (await layer.limits.orders.hit(8)).limit == 5
        decision = await layer.limits.check(("orders", 7, 3), ("api", 7))
        assert (decision.policy, decision.limit, decision.remaining) == ("orders", 9, 0)
        await layer.limits.override("orders", 7, limit=None)
        assert (await layer.limits.orders.peek(7)).limit == 5
        assert layer.limits.orders.overrides == {"desk:1": 1}


async def test_a_limit_may_be_made_and_dropped_at_run_time(limited: Settings) -> None:
    async with rtx.open(limited) as layer, rtx.open(limited) as other:
        await layer.limits.define("withdrawals", limit=2, per="1h", when_down="open")
        await eventually(lambda: "withdrawals" in other.limits)
        made = other.limits["withdrawals"]
        assert (made.limit, made.per, made.settings.when_down) == (2, 3_600.0, "open")
        assert await made.hit("ann", cost=2)
        assert not await layer.limits.withdrawals.hit("ann")
        await other.limits.undefine("withdrawals")
        assert "withdrawals" not in other.limits
        await eventually(lambda: "withdrawals" not in layer.limits)
        assert set(layer.limits) == {"api", "orders"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "orders", "limit": 0}, "orders.*greater than or equal to 1"),
        ({"name": "orders", "limit": 200_000}, "sliding_counter"),
        ({"name": "new", "limit": 5}, "new.*Field required"),
        ({"name": "new", "limit": 5, "per": "soon"}, "new.*number"),
        ({"name": "a:b", "limit": 5, "per": 1}, "letters, digits"),
        ({"name": "orders", "limit": 5, "algorithm": "sliding_counter"}, "another name"),
    ],
)
async def test_a_change_that_makes_no_limit_is_refused(
    limited: Settings, limit_witness: redis_py.Redis, change: dict[str, object], words: str
) -> None:
    async with rtx.open(limited) as layer:
        with pytest.raises(SettingsError, match=words):
            await layer.limits.define(**change)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="greater than or equal to 1"):
            await layer.limits.override("orders", 1, limit=0)
        with pytest.raises(SettingsError, match="no limit is named"):
            await layer.limits.override("nope", 1, limit=1)
        assert not await limit_witness.exists(layer.keys.limit_config())


async def test_what_somebody_else_wrote_wrong_is_skipped(
    limited: Settings, limit_witness: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with rtx.open(limited) as layer:
        await limit_witness.hset(
            layer.keys.limit_config(),
            mapping={
                "version": "by hand",
                "limit:orders": '{"limit": 6, "per": 60}',
                "limit:api": '{"limit": -1}',
                "override:orders:1": "many",
                "override:orders:2": "9",
            },
        )
        await eventually(lambda: layer.limits.orders.limit == 6)
        assert layer.limits.orders.overrides == {"2": 9}
        assert layer.limits.api.limit == 100
        await layer.limits.define("orders", limit=7)
        assert layer.limits.orders.limit == 7
    assert "limit:api" in caplog.text
    assert "override:orders:1" in caplog.text


async def test_definitions_that_are_lost_give_way_to_the_settings(
    limited: Settings, limit_witness: redis_py.Redis
) -> None:
    async with rtx.open(limited) as layer:
        await layer.limits.define("orders", limit=7)
        await limit_witness.delete(layer.keys.limit_config())
        await eventually(lambda: layer.limits.orders.limit == 5)


async def test_the_api_limit_is_open_without_a_server_unless_told(settings: Settings) -> None:
    def when_down(**api: object) -> str:
        limits = {"api": LimitSettings.model_validate({"limit": 9, "per": 1, **api})}
        return settings.model_copy(update={"limits": limits}).named_limits["api"].when_down

    assert settings.named_limits["api"].when_down == "open"
    assert settings.named_limits["orders"].when_down == "closed"
    assert when_down() == "open"
    assert when_down(when_down="closed") == "closed"
