"""A black hole is reported within the call's own time, never later; a refused port at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis
import pytest

import rtx
from rtx.errors import ConnectFailed, Unavailable
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess, free_port
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions, Pool
from tests.conftest import eventually
from tests.failure.alarm import outcome_within
from tests.wire.faults import Faults, Proxy

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

DEADLINE = 0.2
AT_ONCE = 1.0
"""Seconds in which a refusal must be known, where every time-out is thirty."""

ALERT = rtx.Alert("halt", "info", "now")
PATIENT = PoolSettings(
    size=1,
    min_idle=0,
    connect_timeout=30,
    read_timeout=30,
    write_timeout=30,
    pool_timeout=30,
    max_in_flight=10,
)


@asynccontextmanager
async def pool_to(
    address: Address, settings: PoolSettings = PATIENT, heartbeat: float = 1.0
) -> AsyncIterator[Pool]:
    options = ConnectOptions(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        heartbeat=heartbeat,
        max_in_flight=settings.max_in_flight,
    )
    pool = Pool(lambda end: Connection.dial(address, options, on_close=end), settings)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@pytest.fixture
async def proxy(own_server: ServerProcess) -> AsyncIterator[Proxy]:
    async with Proxy(Address("127.0.0.1", own_server.port)) as opened:
        yield opened


CALLS: dict[str, Callable[[Pool], object]] = {
    "call": lambda pool: pool.call("GET", "x", timeout=DEADLINE),
    "batch": lambda pool: pool.batch([("GET", "x"), ("GET", "y")], timeout=DEADLINE),
    "execute": lambda pool: pool.execute("INCR", "x", timeout=DEADLINE),
    "execute again": lambda pool: pool.execute("GET", "x", idempotent=True, timeout=DEADLINE),
}


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_into_a_black_hole_ends_at_its_deadline(proxy: Proxy, kind: str) -> None:
    async with pool_to(proxy.address) as pool:
        proxy.freeze()
        error, took = await outcome_within(DEADLINE, CALLS[kind](pool))  # type: ignore[arg-type]
        print(f"{kind} with {DEADLINE:g} s: {type(error).__name__} after {took:.3f} s")
        assert isinstance(error, Unavailable)
        assert error.maybe_applied, "it had been sent"


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_that_waits_for_room_ends_at_its_deadline(proxy: Proxy, kind: str) -> None:
    async with pool_to(proxy.address) as pool:
        proxy.freeze()
        held = [asyncio.ensure_future(pool.call("GET", "x")) for _ in range(10)]
        await asyncio.sleep(0)
        error, took = await outcome_within(DEADLINE, CALLS[kind](pool))  # type: ignore[arg-type]
        print(f"{kind} with {DEADLINE:g} s: {type(error).__name__} after {took:.3f} s")
        assert isinstance(error, Unavailable)
        assert not error.maybe_applied, "it was never sent"
        proxy.thaw()
        await asyncio.gather(*held)


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_that_waits_for_a_connection_ends_at_its_deadline(
    proxy: Proxy, kind: str
) -> None:
    """The connection was lost, and the next one is dialed into the black hole."""
    async with pool_to(proxy.address) as pool:
        proxy.faults = lambda: Faults(black_hole_after=0)
        proxy.cut_all()
        await eventually(lambda: proxy.accepted == 2)
        error, took = await outcome_within(DEADLINE, CALLS[kind](pool))  # type: ignore[arg-type]
        print(f"{kind} with {DEADLINE:g} s: {type(error).__name__} after {took:.3f} s")
        assert isinstance(error, Unavailable)
        assert not error.maybe_applied, "it was never sent"


HELLO = len(hiredis.pack_command(("HELLO", 3, "SETNAME", "rtx")))


@pytest.mark.parametrize(
    "kind",
    [
        "call",
        "batch",
        "execute",
        "execute again",
    ],
)
async def test_a_call_that_is_tried_again_has_what_is_left_of_its_time(
    proxy: Proxy, kind: str
) -> None:
    """Every connection greets and then falls silent, and is found dead before the deadline."""
    proxy.faults = lambda: Faults(black_hole_after=HELLO)
    settings = PATIENT.model_copy(update={"read_timeout": DEADLINE / 2})
    async with pool_to(proxy.address, settings, heartbeat=DEADLINE / 4) as pool:
        error, took = await outcome_within(DEADLINE, CALLS[kind](pool))  # type: ignore[arg-type]
        print(f"{kind} with {DEADLINE:g} s: {type(error).__name__} after {took:.3f} s")
        assert isinstance(error, Unavailable)
        assert error.maybe_applied


@pytest.mark.parametrize("how", ["frozen", "black hole"])
async def test_an_operation_of_the_layer_ends_within_its_time_outs(
    own_server: ServerProcess, proxy: Proxy, how: str
) -> None:
    """Alone it ends with `read_timeout`; what is tried again has `connect_timeout` besides."""
    pool = PoolSettings(min_idle=1, connect_timeout=0.4, read_timeout=0.4, write_timeout=0.4)
    settings = Settings.load(url=f"redis://127.0.0.1:{proxy.address.port}", pool=pool)
    async with rtx.open(settings) as layer:
        operations = {
            "prices.get": lambda: layer.prices.get("EURUSD"),
            "prices.put": lambda: layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0)),
            "market_data.publish": lambda: layer.market_data.publish(
                rtx.Tick("EURUSD", bid=1.0, ask=2.0)
            ),
            "executions.publish": lambda: layer.executions.publish(
                1, rtx.Execution(1, 2, "EURUSD", "BUY", 1.0, 1.1)
            ),
            "executions.history": lambda: layer.executions.history(1),
            "alerts.publish": lambda: layer.alerts.publish("system", ALERT),
            "sessions.get": lambda: layer.sessions.get("no token"),
        }
        if how == "frozen":
            own_server.kill(signal.SIGSTOP)
        else:
            proxy.freeze()
        slowest = dict.fromkeys(operations, 0.0)
        for turn in range(4):  # on a connection that is taken for good, and then without one
            within = pool.read_timeout + (pool.connect_timeout if turn else 0.0)
            outcomes = await asyncio.gather(
                *(outcome_within(within, operation()) for operation in operations.values())
            )
            for name, (error, took) in zip(operations, outcomes, strict=True):
                assert isinstance(error, Unavailable), f"{name}: {error!r}"
                slowest[name] = max(slowest[name], took)
        print({name: f"{took:.2f} s" for name, took in slowest.items()})
        health, took = await outcome_within(1.0, layer.health())
        assert isinstance(health, rtx.Health)
        assert not health.ready
        own_server.kill(signal.SIGCONT)
        proxy.thaw()


async def test_opening_into_a_black_hole_ends_with_connect_timeout(proxy: Proxy) -> None:
    proxy.faults = lambda: Faults(black_hole_after=0)
    settings = Settings.load(
        url=f"redis://127.0.0.1:{proxy.address.port}", pool=PoolSettings(connect_timeout=0.2)
    )
    error, _ = await outcome_within(0.2, rtx.open(settings).__aenter__())
    assert isinstance(error, ConnectFailed)
    assert "no answer" in str(error)


async def test_a_refused_port_is_reported_at_once() -> None:
    address = Address("127.0.0.1", free_port())
    pool = Pool(lambda end: Connection.dial(address, ConnectOptions(connect_timeout=30)), PATIENT)
    error, in_pool = await outcome_within(AT_ONCE, pool.open())
    assert isinstance(error, ConnectFailed)
    settings = Settings.load(url=f"redis://{address}", pool=PATIENT)
    error, in_layer = await outcome_within(AT_ONCE, rtx.open(settings).__aenter__())
    assert isinstance(error, ConnectFailed)
    assert "refused; is the server running, and on this port?" in str(error)
    print(f"refused after {in_pool * 1000:.1f} ms (pool), {in_layer * 1000:.1f} ms (layer)")


async def test_a_server_that_goes_away_is_reported_at_once(own_server: ServerProcess) -> None:
    settings = Settings.load(url=own_server.url, pool=PATIENT)
    async with rtx.open(settings) as layer:
        waiting = [
            outcome_within(AT_ONCE, call)
            for call in (layer.prices.get("EURUSD"), layer.alerts.publish("system", ALERT))
        ]
        own_server.kill()
        for error, _ in await asyncio.gather(*waiting):
            assert isinstance(error, Unavailable)
        await own_server.wait()
        for _ in range(3):
            error, took = await outcome_within(AT_ONCE, layer.prices.get("EURUSD"))
            assert isinstance(error, ConnectFailed)
            print(f"refused after {took * 1000:.1f} ms")
