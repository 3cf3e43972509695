"""Every public operation with the server up, down, frozen and back: what it does, and how soon."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

import rtx
from rtx.pubsub import Subscription
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.cache.memory import SYMBOL, MemoryDatabase, account
from tests.conftest import eventually
from tests.failure.conftest import PATIENCE

PRICE = rtx.Price("EURUSD", bid=1.0, ask=2.0, time=1)
TICK = rtx.Tick("EURUSD", time=1, bid=1.0, ask=2.0)
CROSSED = rtx.Tick("EURUSD", bid=2.0, ask=1.0)
FILL = rtx.Execution(1, 2, "EURUSD", "BUY", 1.0, 1.1)
ALERT = rtx.Alert("margin_call", "critical", "now")

WORKS, UNAVAILABLE, WAITS = "works", "Unavailable", "waits"
DEGRADED = "degraded"
DATABASE = "from the database"
OWED = "works, and is owed"


async def update(layer: rtx.DataLayer, id: int) -> None:
    async with layer.accounts.update(id) as row:
        row.balance += Decimal("1.00")


async def confirmed(subscription: Subscription[object]) -> None:
    """Wait for the server's word as long as the layer would wait for a reply."""
    async with subscription:
        async with asyncio.timeout(2 * PATIENCE):
            await subscription.ready()


Operation = Callable[[rtx.DataLayer, str], Awaitable[object]]

# What is done, and what becomes of it without the server. The token is one of a session.
OPERATIONS: dict[str, tuple[Operation, str]] = {
    "accounts.get": (lambda layer, _: layer.accounts.get(1), DATABASE),
    "accounts.get of none": (lambda layer, _: layer.accounts.get(99), DATABASE),
    "accounts.get_many": (lambda layer, _: layer.accounts.get_many([1, 2]), DATABASE),
    "accounts.put": (lambda layer, _: layer.accounts.put(account(3)), UNAVAILABLE),
    "accounts.put_many": (lambda layer, _: layer.accounts.put_many([account(3)]), UNAVAILABLE),
    "accounts.invalidate": (lambda layer, _: layer.accounts.invalidate(3), OWED),
    "accounts.update": (lambda layer, _: update(layer, 4), OWED),
    "positions.get": (lambda layer, _: layer.positions.get(1), DATABASE),
    "positions.get_many": (lambda layer, _: layer.positions.get_many([1]), DATABASE),
    "positions.put": (lambda layer, _: layer.positions.put(3, []), UNAVAILABLE),
    "positions.put_many": (lambda layer, _: layer.positions.put_many({3: []}), UNAVAILABLE),
    "positions.invalidate": (lambda layer, _: layer.positions.invalidate(3), OWED),
    "symbols.get": (lambda layer, _: layer.symbols.get("EURUSD"), DATABASE),
    "symbols.get_many": (lambda layer, _: layer.symbols.get_many(["EURUSD"]), DATABASE),
    "symbols.put": (lambda layer, _: layer.symbols.put(SYMBOL), UNAVAILABLE),
    "symbols.put_many": (lambda layer, _: layer.symbols.put_many([SYMBOL]), UNAVAILABLE),
    "symbols.invalidate": (lambda layer, _: layer.symbols.invalidate("GBPUSD"), OWED),
    "prices.get": (lambda layer, _: layer.prices.get("EURUSD"), UNAVAILABLE),
    "prices.get_many": (lambda layer, _: layer.prices.get_many(["EURUSD"]), UNAVAILABLE),
    "prices.put": (lambda layer, _: layer.prices.put(PRICE), UNAVAILABLE),
    "prices.put_many": (lambda layer, _: layer.prices.put_many([PRICE]), UNAVAILABLE),
    "prices.invalidate": (lambda layer, _: layer.prices.invalidate("GBPUSD"), OWED),
    "sessions.create": (lambda layer, _: layer.sessions.create("user-7", [1]), UNAVAILABLE),
    "sessions.get": (lambda layer, token: layer.sessions.get(token), UNAVAILABLE),
    "sessions.of_user": (lambda layer, _: layer.sessions.of_user("user-7"), UNAVAILABLE),
    "sessions.revoke": (lambda layer, _: layer.sessions.revoke("no token"), UNAVAILABLE),
    "sessions.revoke_all": (lambda layer, _: layer.sessions.revoke_all("user-7"), UNAVAILABLE),
    "market_data.publish": (lambda layer, _: layer.market_data.publish(TICK), UNAVAILABLE),
    "market_data.publish_many": (
        lambda layer, _: layer.market_data.publish_many([TICK, CROSSED]),
        UNAVAILABLE,
    ),
    "market_data.publish_many of bad ticks only": (
        lambda layer, _: layer.market_data.publish_many([CROSSED]),
        WORKS,
    ),
    "market_data.subscribe": (
        lambda layer, _: confirmed(layer.market_data.subscribe("EURUSD")),
        WAITS,
    ),
    "market_data.subscribe to all": (
        lambda layer, _: confirmed(layer.market_data.subscribe("*")),
        WAITS,
    ),
    "executions.publish": (lambda layer, _: layer.executions.publish(1, FILL), UNAVAILABLE),
    "executions.history": (lambda layer, _: layer.executions.history(1), UNAVAILABLE),
    "executions.subscribe": (lambda layer, _: confirmed(layer.executions.subscribe(1)), WAITS),
    "executions.subscribe after": (
        lambda layer, _: confirmed(layer.executions.subscribe(1, after=":0")),
        WAITS,
    ),
    "alerts.publish": (lambda layer, _: layer.alerts.publish("system", ALERT), UNAVAILABLE),
    "alerts.history": (lambda layer, _: layer.alerts.history("system"), UNAVAILABLE),
    "alerts.subscribe": (lambda layer, _: confirmed(layer.alerts.subscribe("system")), WAITS),
    "limits.hit": (lambda layer, _: layer.limits.api.hit("user-7"), DEGRADED),
    "limits.peek": (lambda layer, _: layer.limits.api.peek("user-7"), DEGRADED),
    "limits.remaining": (lambda layer, _: layer.limits.api.remaining("user-7"), UNAVAILABLE),
    "limits.reset": (lambda layer, _: layer.limits.orders.reset(1), UNAVAILABLE),
    "health": (lambda layer, _: layer.health(), DEGRADED),
}


def fallbacks(layer: rtx.DataLayer) -> dict[str, int]:
    return {
        f"{name}.{counter}": int(str(counters[counter]))
        for name, counters in layer.stats().items()
        for counter in ("fallbacks", "invalidations_owed")
        if counter in counters
    }


async def outcome(layer: rtx.DataLayer, name: str, token: str) -> tuple[str, float]:
    """What became of an operation, and in how many seconds."""
    operation, _ = OPERATIONS[name]
    cache = f"cache.{name.partition('.')[0]}"
    before = fallbacks(layer)
    started = time.perf_counter()
    try:
        answer = await operation(layer, token)
    except rtx.Unavailable:
        what = UNAVAILABLE
    except TimeoutError:
        what = WAITS
    except rtx.RtxError as error:
        what = type(error).__name__
    else:
        after = fallbacks(layer)
        what = WORKS
        if isinstance(answer, rtx.Health | rtx.Decision):
            what = DEGRADED if answer.degraded else WORKS
        elif after.get(f"{cache}.fallbacks") != before.get(f"{cache}.fallbacks"):
            what = DATABASE
        elif after.get(f"{cache}.invalidations_owed") != before.get(f"{cache}.invalidations_owed"):
            what = OWED
    return what, time.perf_counter() - started


WITHOUT_SERVER = {name: expected for name, (_, expected) in OPERATIONS.items()}
WITH_SERVER = dict.fromkeys(OPERATIONS, WORKS)


async def table(layer: rtx.DataLayer, token: str, within: float) -> dict[str, str]:
    """The outcome of every operation, each of which must end in time.

    One after the other, but for the subscriptions: these may wait, and do so together.
    """
    found = {}
    together = [name for name, (_, expected) in OPERATIONS.items() if expected == WAITS]
    for name in OPERATIONS:
        if name not in together:
            found[name], seconds = await outcome(layer, name, token)
            assert seconds < within, f"{name} took {seconds:.2f} s"
    waits = await asyncio.gather(*(outcome(layer, name, token) for name in together))
    for name, (what, seconds) in zip(together, waits, strict=True):
        found[name] = what
        assert seconds < within + 2 * PATIENCE, f"{name} took {seconds:.2f} s"
    return found


async def works_again(layer: rtx.DataLayer, token: str) -> None:
    async def healthy() -> bool:
        health = await layer.health()
        return health.ready

    await eventually(healthy)
    assert await table(layer, token, within=1.0) == WITH_SERVER


@pytest.mark.parametrize("parts", ["one server", "a server for each role"])
async def test_down_and_back(
    own_server: ServerProcess, brief: Settings, records: MemoryDatabase, parts: str
) -> None:
    if parts == "a server for each role":  # to the layer these are three
        apart = {f"{role}_url": own_server.url + f"/{db}" for db, role in enumerate(ROLES)}
        brief = Settings.load(**apart, pool=brief.pool, channels=brief.channels)
    async with rtx.open(brief, database=records) as layer:
        token, _ = await layer.sessions.create("user-7", [1])
        assert await table(layer, token, within=1.0) == WITH_SERVER
        own_server.kill()
        await own_server.wait()
        assert await table(layer, token, within=0.5) == WITHOUT_SERVER
        records.down = True
        found = await table(layer, token, within=0.5)
        for name, what in WITHOUT_SERVER.items():
            if what == DATABASE or name == "accounts.update":
                assert found[name] == "DatabaseUnavailable", name
            else:
                assert found[name] == what, name
        records.down = False
        await own_server.start()
        await works_again(layer, token)


ROLES = ("cache", "pubsub", "limits")


async def test_frozen_and_back(
    own_server: ServerProcess, brief: Settings, records: MemoryDatabase
) -> None:
    async with rtx.open(brief, database=records) as layer:
        token, _ = await layer.sessions.create("user-7", [1])
        assert await table(layer, token, within=1.0) == WITH_SERVER
        own_server.kill(signal.SIGSTOP)
        # All at once, for each of them may wait its full time.
        names = list(OPERATIONS)
        for _ in range(2):
            results = await asyncio.gather(*(outcome(layer, name, token) for name in names))
            found = {name: what for name, (what, _) in zip(names, results, strict=True)}
            shared = ("accounts", "positions", "symbols", "prices")
            for name, expected in WITHOUT_SERVER.items():
                if expected in (DATABASE, OWED) and name.startswith(shared):
                    # Run together these share their counters.
                    assert found[name] in (DATABASE, OWED), name
                else:
                    assert found[name] == expected, name
            for name, (_, seconds) in zip(names, results, strict=True):
                assert seconds < 6 * PATIENCE + 1.0, f"{name} took {seconds:.2f} s"
        own_server.kill(signal.SIGCONT)
        await works_again(layer, token)


async def test_a_frozen_server_costs_readers_nothing_once_it_is_known(
    own_server: ServerProcess, brief: Settings, records: MemoryDatabase
) -> None:
    async with rtx.open(brief, database=records) as layer:
        await layer.accounts.get(1)
        own_server.kill(signal.SIGSTOP)

        async def quick() -> bool:
            started = time.perf_counter()
            assert await layer.accounts.get(1) == account(1)
            return time.perf_counter() - started < 0.02

        await eventually(quick)
        started = time.perf_counter()
        for _ in range(50):
            assert await layer.accounts.get(1) == account(1)
        assert time.perf_counter() - started < 50 * 0.02
        own_server.kill(signal.SIGCONT)


@pytest.mark.parametrize("how", ["down", "frozen"])
async def test_opening_without_a_server_fails_in_time(
    own_server: ServerProcess, brief: Settings, how: str
) -> None:
    own_server.kill(signal.SIGKILL if how == "down" else signal.SIGSTOP)
    if how == "down":
        await own_server.wait()
    started = time.perf_counter()
    with pytest.raises(rtx.errors.ConnectFailed, match=str(own_server.port)):
        async with rtx.open(brief):
            pass
    assert time.perf_counter() - started < PATIENCE + 1.0


@pytest.mark.parametrize("how", ["down", "frozen"])
async def test_closing_without_a_server_ends_in_time(
    own_server: ServerProcess, brief: Settings, records: MemoryDatabase, how: str
) -> None:
    before = asyncio.all_tasks()
    async with rtx.open(brief, database=records) as layer:
        ticks, fills = layer.market_data.subscribe("EURUSD"), layer.executions.subscribe(1)
        await ticks.ready()
        await fills.ready()
        own_server.kill(signal.SIGKILL if how == "down" else signal.SIGSTOP)
        if how == "down":
            await own_server.wait()
        waiting = [
            asyncio.ensure_future(one)
            for one in (layer.prices.get("EURUSD"), layer.limits.api.hit(1), anext(ticks))
        ]
        await asyncio.sleep(0)
        started = time.perf_counter()
    assert time.perf_counter() - started < 1.0
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    price, hit, tick = ends
    assert isinstance(price, rtx.Unavailable)
    assert isinstance(hit, rtx.Decision)
    assert hit.degraded
    assert isinstance(tick, rtx.Unavailable | rtx.Gap)
    with pytest.raises(rtx.Unavailable):
        await layer.prices.get("EURUSD")
    assert asyncio.all_tasks() == before
