"""The batching publisher while all is well: one write a turn, bounds, policies, flush, close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

import rtx
from rtx.errors import NotPublished
from rtx.monitoring.metrics import render
from rtx.pubsub import TickPublisher
from rtx.pubsub.backlog import DropPolicy
from rtx.pubsub.tick_writer import TickWriter
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.wire import Reply
from tests.conftest import eventually

NOON = 1_768_732_245_123


def tick(number: int, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=NOON + number, bid=1.0 + number / 1e5, ask=9.0, lp="LP")


class Held:
    """A writer whose writes wait until they are let go."""

    def __init__(self, layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_write = asyncio.Event()
        self.batches: list[int] = []
        self.on_write: Callable[[], object] = lambda: None
        writer = layer.market_data._writer
        real = writer.attempt

        async def attempt(ticks: Sequence[rtx.Tick]) -> object:
            self.batches.append(len(ticks))
            self.on_write()
            await self.may_write.wait()
            return await real(ticks)

        monkeypatch.setattr(writer, "attempt", attempt)


@pytest.fixture
def held(layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(layer, monkeypatch)


async def occupied(out: TickPublisher, held: Held) -> None:
    """One write is under way, so that what is offered next stays in the queue."""
    out.offer(tick(0, "FIRST"))
    await eventually(lambda: held.batches == [1])


async def test_the_ticks_of_a_turn_leave_in_one_write_and_come_in_their_order(
    layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    pool = layer.market_data._writer._cache
    real = pool.batch_packed

    def spy(commands: Sequence[bytes], *, patient: bool = True) -> Awaitable[list[Reply]]:
        writes.append(len(commands))
        return real(commands, patient=patient)

    monkeypatch.setattr(pool, "batch_packed", spy)
    await layer.market_data.publish(tick(0, "warm"))  # the server knows the script from here on
    writes.clear()
    sent = [tick(number, "EURUSD" if number % 2 else "GBPUSD") for number in range(900)]
    async with layer.market_data.subscribe("EURUSD", "GBPUSD", snapshot=False) as ticks:
        await ticks.ready()
        async with layer.market_data.publisher() as out:
            for some in (sent[:100], sent[100:101], sent[101:]):
                assert all(map(out.offer, some))
                await out.flush()
        assert [await anext(ticks) for _ in sent] == sent
    assert writes == [1, 1, 1 + 799]  # up to 150 ticks are in the script itself
    assert (out.stats.writes, out.stats.published, out.stats.queued) == (3, 900, 0)
    assert not out.stats.dropped
    prices = await layer.prices.get_many(["EURUSD", "GBPUSD"])
    assert {name: price.time - NOON for name, price in prices.items()} == {
        "EURUSD": 899,
        "GBPUSD": 898,
    }
    assert layer.stats()["publisher"]["published"] == 900
    metrics = render(layer)[0].decode()
    assert "rtx_publisher_published_total 900.0" in metrics
    assert "# TYPE rtx_publisher_queued gauge" in metrics
    assert layer.market_data.stats.prices_stored == 1 + 2 + 1 + 2


async def test_what_comes_while_a_write_is_under_way_leaves_with_the_next(
    layer: rtx.DataLayer, held: Held
) -> None:
    async with layer.market_data.publisher() as out:
        await occupied(out, held)
        for number in range(50):
            assert await out.send(tick(number))
            await asyncio.sleep(0)
        held.may_write.set()
    assert held.batches == [1, 50]


async def test_a_write_has_a_bound_however_much_waits(layer: rtx.DataLayer, held: Held) -> None:
    async with layer.market_data.publisher() as out:
        await occupied(out, held)
        for number in range(2_500):
            out.offer(tick(number))
        held.may_write.set()
    assert held.batches == [1, 1_000, 1_000, 500]


async def test_a_full_queue_conflates_by_default_and_the_latest_of_every_symbol_is_published(
    layer: rtx.DataLayer, held: Held
) -> None:
    async with layer.market_data.subscribe("A", "B", snapshot=False) as ticks:
        await ticks.ready()
        async with layer.market_data.publisher(queue_size=10) as out:
            await occupied(out, held)
            assert out.offer(tick(1, "B"))
            for number in range(100):
                assert out.offer(tick(number, "A"))
                assert out.stats.queued <= 10
            held.may_write.set()
        assert [await anext(ticks) for _ in range(2)] == [tick(1, "B"), tick(99, "A")]
    assert out.stats.dropped == {"conflated": 99}
    assert out.stats.published == 3


async def test_drop_oldest_drops_the_oldest_whatever_its_symbol(
    layer: rtx.DataLayer, held: Held
) -> None:
    async with layer.market_data.subscribe("A", "B", snapshot=False) as ticks:
        await ticks.ready()
        async with layer.market_data.publisher(policy="drop_oldest", queue_size=3) as out:
            await occupied(out, held)
            for one in (sent := [tick(1, "B"), *(tick(number, "A") for number in range(5))]):
                assert out.offer(one)
            held.may_write.set()
        assert [await anext(ticks) for _ in range(3)] == sent[-3:]
    assert out.stats.dropped == {"overflow": 3}


async def test_send_waits_for_room_and_nothing_is_dropped(layer: rtx.DataLayer, held: Held) -> None:
    async with layer.market_data.publisher(queue_size=3) as out:
        await occupied(out, held)

        async def feed() -> None:
            for number in range(20):
                assert await out.send(tick(number))

        feeding = asyncio.create_task(feed())
        await eventually(lambda: out.stats.queued == 3)
        for _ in range(10):
            await asyncio.sleep(0)
        assert out.stats.queued == 3
        assert not feeding.done()
        held.may_write.set()
        await feeding
    assert out.stats.published == 21
    assert not out.stats.dropped
    assert max(held.batches) <= 3


async def test_a_cancelled_send_queues_nothing_and_gives_its_room_to_the_next(
    layer: rtx.DataLayer, held: Held
) -> None:
    async with layer.market_data.publisher(queue_size=1) as out:
        await occupied(out, held)
        out.offer(tick(1, "A"))
        sends = [asyncio.create_task(out.send(tick(2, name))) for name in ("B", "C", "D")]
        await asyncio.sleep(0)
        sends[0].cancel()
        held.may_write.set()
        await sends[1]
        await sends[2]
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [True, True]
    assert out.stats.published == 4
    assert await layer.prices.get("B") is None


async def test_a_send_that_was_woken_and_then_cancelled_wakes_another(
    layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(layer, monkeypatch)
    async with layer.market_data.publisher(queue_size=1) as out:
        await occupied(out, held)
        out.offer(tick(1, "A"))
        sends = [asyncio.create_task(out.send(tick(2, name))) for name in ("B", "C")]
        await eventually(lambda: len(out._senders) == 2)
        # B is woken for the room of A, and has not run since when it is cancelled.
        held.on_write = lambda: sends[0].cancel()
        held.may_write.set()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*sends, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] is True
    assert out.stats.published == 3
    assert await layer.prices.get("B") is None


async def test_flush_waits_for_what_was_given_before_it_and_not_for_later_ticks(
    layer: rtx.DataLayer,
) -> None:
    going = True

    async def feed(out: TickPublisher) -> None:
        number = 0
        while going:
            await out.send(tick(number))
            number += 1
            await asyncio.sleep(0)

    async with layer.market_data.publisher() as out:
        feeding = asyncio.create_task(feed(out))
        await eventually(lambda: out.stats.published > 10)
        await out.send(tick(7, "MARK"))
        async with asyncio.timeout(10):
            await out.flush()
        assert await layer.prices.get("MARK") is not None
        going = False
        await feeding


async def test_flush_tells_what_still_waits_after_its_time_and_leaves_it_queued(
    layer: rtx.DataLayer, held: Held
) -> None:
    async with layer.market_data.publisher() as out:
        await occupied(out, held)
        out.offer(tick(1))
        with pytest.raises(NotPublished, match="2 ticks still wait") as late:
            await out.flush(timeout=0.05)
        assert late.value.lost == {"waiting": 2}
        held.may_write.set()
        await out.flush()
        assert out.stats.published == 2


async def test_close_gives_up_what_it_cannot_write_in_time_and_says_so(
    layer: rtx.DataLayer, held: Held
) -> None:
    out = layer.market_data.publisher()
    await occupied(out, held)
    for number in range(5):
        out.offer(tick(number))
    waiting = asyncio.create_task(layer.market_data.publisher(queue_size=1).send(tick(9)))
    await waiting
    with pytest.raises(NotPublished) as lost:
        await out.close(timeout=0.05)
    assert lost.value.lost == {"unconfirmed": 1, "unsent": 5}
    assert out.stats.dropped == {"unconfirmed": 1, "unsent": 5}
    with pytest.raises(rtx.Unavailable, match="closed"):
        out.offer(tick(9))
    with pytest.raises(rtx.Unavailable, match="closed"):
        await out.send(tick(9))
    await out.close()
    held.may_write.set()


async def test_an_error_in_the_block_is_not_hidden_by_what_could_not_be_written(
    layer: rtx.DataLayer, held: Held
) -> None:
    out = layer.market_data.publisher(close_timeout=0.01)
    out.offer(tick(1))
    with pytest.raises(LookupError):
        async with out:
            raise LookupError
    assert out.stats.dropped.total() == 1


async def test_closing_wakes_a_send_that_waits(layer: rtx.DataLayer, held: Held) -> None:
    out = layer.market_data.publisher(queue_size=1, close_timeout=0.01)
    await occupied(out, held)
    out.offer(tick(1))
    sending = asyncio.create_task(out.send(tick(2)))
    await asyncio.sleep(0)
    with pytest.raises(NotPublished):
        await out.close()
    with pytest.raises(rtx.Unavailable, match="closed"):
        await sending


async def test_the_layer_closes_publishers_that_were_left_open(settings: Settings) -> None:
    async with rtx.open(settings) as layer:
        out = layer.market_data.publisher()
        for number in range(100):
            out.offer(tick(number))
    assert out.stats.published == 100
    assert [task for task in asyncio.all_tasks() if task.get_name() == "rtx-publisher"] == []


async def test_bad_ticks_are_counted_by_reason_and_what_cannot_be_packed_is_lost_alone(
    layer: rtx.DataLayer,
) -> None:
    out = layer.market_data.publisher()
    bad = [
        rtx.Tick("A", bid=2.0, ask=1.0),
        rtx.Tick("A", bid=0.0, ask=1.0),
        rtx.Tick("A", bid=float("nan"), ask=1.0),
        rtx.Tick("A", time=10**18, bid=1.0, ask=1.0),
    ]
    assert [out.offer(one) for one in bad] == [False] * 4
    ticks = [tick(1, "A"), tick(1, "\ud800"), tick(1, "B")]
    assert [out.offer(one) for one in ticks] == [True] * 3
    with pytest.raises(NotPublished, match="1 malformed"):
        await out.flush()
    refused = {"crossed": 1, "not_positive": 1, "not_finite": 1, "bad_time": 1}
    assert (out.stats.refused, out.stats.dropped) == (refused, {"malformed": 1})
    assert layer.stats()["channel.market_data"]["refused"] == refused
    assert out.stats.published == 2
    assert set(await layer.prices.get_many(["A", "B"])) == {"A", "B"}


@pytest.mark.parametrize("options", [{"policy": "newest"}, {"queue_size": 0}])
async def test_a_policy_or_size_that_there_is_not_is_refused(
    layer: rtx.DataLayer, options: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"policy|queue_size"):
        layer.market_data.publisher(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["conflate", "drop_oldest"])
async def test_prices_and_ticks_on_two_servers_go_in_one_write_each(
    own_server: ServerProcess, shared_server: str, namespace: str, policy: DropPolicy
) -> None:
    settings = Settings.load(url=shared_server, cache_url=own_server.url, namespace=namespace)
    async with rtx.open(settings) as layer, layer.market_data.subscribe("A", "B") as ticks:
        await ticks.ready()
        async with layer.market_data.publisher(policy=policy) as out:
            sent = [tick(number, "AB"[number % 2]) for number in range(300)]
            for one in sent:
                out.offer(one)
        assert [await anext(ticks) for _ in sent] == sent
        assert out.stats.writes == 1
        assert set(await layer.prices.get_many(["A", "B"])) == {"A", "B"}


async def test_symbols_with_writes_of_their_own_do_not_hold_up_each_other(
    layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cluster, where the node of one symbol may be frozen and that of another not."""
    stuck = asyncio.Event()
    real = TickWriter.attempt

    async def attempt(writer: TickWriter, ticks: Sequence[rtx.Tick]) -> object:
        if ticks[0].symbol == "STUCK":
            await stuck.wait()
        return await real(writer, ticks)

    monkeypatch.setattr(TickWriter, "attempt", attempt)
    layer.market_data._clustered = True
    async with layer.market_data.publisher(queue_size=20) as out:
        for number in range(300):
            out.offer(tick(number, "STUCK"))
            out.offer(tick(number, "FREE"))
            assert out.stats.queued <= 20 + 2
            if number % 10 == 0:
                await eventually(lambda: len(out._lanes) == 1)  # the free one has nothing left
        assert out.stats.published >= 30
        stuck.set()
    assert out.stats.published + out.stats.dropped.total() == 600
    prices = await layer.prices.get_many(["STUCK", "FREE"])
    assert {price.time - NOON for price in prices.values()} == {299}
