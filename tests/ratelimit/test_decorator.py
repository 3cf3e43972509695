"""Functions behind a limit."""

from __future__ import annotations

import asyncio

import pytest

import rtx
from rtx.ratelimit import RateLimited, limited
from tests.ratelimit.conftest import Named


async def test_a_function_is_limited_by_its_arguments(named: Named) -> None:
    async with rtx.open(named(orders=(2, 60.0))) as layer:

        @limited(layer.limits, "orders", key=lambda account, *_, **__: account)
        async def send(account: int, what: str, *, loud: bool = False) -> str:
            """Send it."""
            return f"{what} of {account}{'!' if loud else ''}"

        assert await send(1, "one", loud=True) == "one of 1!"
        assert await send(1, "two") == "two of 1"
        with pytest.raises(RateLimited, match="'orders' is reached: 2; try again in") as denied:
            await send(1, "three")
        assert denied.value.code == "rate_limited"
        assert denied.value.retryable
        assert denied.value.decision.policy == "orders"
        assert 0 < denied.value.decision.retry_after <= 60
        assert await send(2, "one") == "one of 2"
        assert (send.__name__, send.__doc__) == ("send", "Send it.")


async def test_it_may_wait_for_its_turn(named: Named) -> None:
    async with rtx.open(named(orders=(2, 0.3), slow=(1, 60.0))) as layer:
        ran: list[int] = []

        @limited(lambda: layer.limits, "orders", key=lambda _: 1, wait=30.0)
        async def send(number: int) -> None:
            ran.append(number)

        await asyncio.gather(*(send(number) for number in range(6)))
        assert sorted(ran) == list(range(6))
        assert layer.limits.orders.stats.denied > 0

        @limited(layer.limits, "slow", key=lambda: 1, wait=5.0)
        async def rare() -> None:
            ran.append(-1)

        await rare()
        async with asyncio.timeout(4):  # not in time: at once
            with pytest.raises(RateLimited):
                await rare()
        assert ran.count(-1) == 1


async def test_what_never_fits_is_not_waited_for(named: Named) -> None:
    async with rtx.open(named(orders=(2, 0.3))) as layer:

        @limited(layer.limits, "orders", key=lambda: 1, cost=3, wait=1e9)
        async def send() -> None:
            pytest.fail("it costs more than the limit")

        with pytest.raises(RateLimited, match="never allows so much"):
            await send()


async def test_only_async_functions_can_wait(named: Named) -> None:
    async with rtx.open(named()) as layer:
        with pytest.raises(TypeError, match="not async"):

            @limited(layer.limits, "orders", key=lambda: 1)
            def send() -> None: ...  # type: ignore[arg-type]
