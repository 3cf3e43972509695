"""Workers of a group: each execution is done by one of them, and none is left undone."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.pubsub import Work, Workers
from rtx.settings import Settings
from tests.conftest import eventually
from tests.pubsub.child import started
from tests.pubsub.journals import fill, log_of, publish

GROUP = "backoffice"


async def take(workers: Workers[rtx.Execution], count: int) -> list[Work[rtx.Execution]]:
    works: list[Work[rtx.Execution]] = []
    while len(works) < count:
        item = await anext(workers)
        assert isinstance(item, Work), item
        works.append(item)
    return works


async def pending(witness: redis_py.Redis, layer: rtx.DataLayer, group: str = GROUP) -> int:
    return int((await witness.xpending(log_of(layer), group))["pending"])


async def test_each_execution_is_done_by_one_of_the_workers(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    accounts, each = range(10), 30
    did: Counter[tuple[int | str, int]] = Counter()
    shares: Counter[int] = Counter()

    async def work(number: int, workers: Workers[rtx.Execution]) -> None:
        async for item in workers:
            assert isinstance(item, Work)
            async with item as execution:
                did[item.account_id, execution.order_id] += 1
                shares[number] += 1
                await asyncio.sleep(0)

    async with rtx.open(settings) as other:
        several = [
            (layer, other)[n % 2].executions.work(accounts, GROUP, batch=4) for n in range(4)
        ]
        tasks = [asyncio.create_task(work(*item)) for item in enumerate(several)]
        await asyncio.gather(
            *(other.executions.publish(a, fill(n)) for n in range(each) for a in accounts)
        )
        await eventually(lambda: len(did) == len(accounts) * each)
        await asyncio.gather(*(workers.close() for workers in several))
        await asyncio.gather(*tasks)
    print(f"shares {sorted(shares.values())}")
    assert set(did.values()) == {1}
    assert layer.executions.stats.taken_over == 0


async def test_a_group_begins_with_the_oldest_message_and_goes_on_where_it_was(
    layer: rtx.DataLayer,
) -> None:
    await publish(layer, 3)
    async with layer.executions.work([1, 2], GROUP) as workers:
        for number, work in enumerate(await take(workers, 3), start=1):
            async with work as execution:
                assert (execution.order_id, execution.seq) == (number, number)
                assert (work.account_id, work.deliveries) == (1, 1)
        await layer.executions.publish(2, fill(20))  # a log that was not there before
        (late,) = await take(workers, 1)
        assert await late.done()
        assert not await late.done()
    await publish(layer, 1, first=4)
    async with layer.executions.work([1, 2], GROUP) as workers:
        (work,) = await take(workers, 1)
        assert work.message.order_id == 4
    async with layer.executions.work([1], "another group") as workers:
        assert [work.message.order_id for work in await take(workers, 4)] == [1, 2, 3, 4]


async def test_work_that_failed_goes_to_another_and_in_the_end_to_the_dead_letters(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    await publish(layer, 1)
    await publish(layer, 1, first=2)
    seen = []
    async with layer.executions.work([1], GROUP, idle=0.05, deliveries=3, batch=1) as workers:
        async with asyncio.timeout(20):
            async for item in workers:
                assert isinstance(item, Work)
                if item.message.order_id == 2:
                    await item.done()
                    continue
                seen.append(item.deliveries)
                with pytest.raises(ValueError, match="poison"):
                    async with item:
                        raise ValueError("poison")
                if item.deliveries == 3:
                    break
        # Nobody else gets it: the next look puts it aside.
        waiting = asyncio.ensure_future(anext(workers))
        await eventually(lambda: layer.executions.stats.dead_letters)
        assert await pending(journal_witness, layer) == 0
        (dead,) = await layer.executions.dead_letters(1, GROUP)
        assert dead.order_id == 1
        await publish(layer, 1, first=3)
        item = await waiting
        assert isinstance(item, Work)
        assert item.message.order_id == 3
    assert seen == [1, 2, 3]


async def test_what_a_closed_worker_had_not_begun_goes_to_others_at_once(
    layer: rtx.DataLayer,
) -> None:
    await publish(layer, 4)
    workers = layer.executions.work([1], GROUP, idle=60)
    (first,) = await take(workers, 1)
    await first.done()
    await workers.close()
    with pytest.raises(StopAsyncIteration):
        await anext(workers)
    began = time.monotonic()
    async with layer.executions.work([1], GROUP, idle=60) as others:
        assert [work.message.order_id for work in await take(others, 3)] == [2, 3, 4]
    assert time.monotonic() - began < 30


async def test_messages_trimmed_before_they_were_done_are_told(small: Settings) -> None:
    async with rtx.open(small) as layer:
        await publish(layer, 3)
        async with layer.executions.work([1], GROUP, idle=0.05) as workers:
            await take(workers, 3)  # and do none
            await publish(layer, 30, first=4)
            gaps, got = 0, []
            async with asyncio.timeout(20):
                while gaps < 23 or len(got) < 10:
                    item = await anext(workers)
                    if isinstance(item, rtx.Gap):
                        assert not item.recovered
                        gaps += item.skipped
                    else:
                        await item.done()
                        got.append(item.message.order_id)
            assert gaps == 23  # three under way and twenty that nobody had got
            assert got == list(range(24, 34))
        assert layer.executions.stats.missed_by_groups == 23


async def test_done_is_for_the_message_and_not_for_its_number(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    """After a failover another message may have the number of one that was lost."""
    await publish(layer, 1)
    async with layer.executions.work([1], GROUP) as workers:
        (work,) = await take(workers, 1)
        raw = json.dumps({"epoch": "another"}, separators=(",", ":"))
        await journal_witness.delete(log_of(layer))
        await journal_witness.xadd(log_of(layer), {"m": raw}, id="1-0")
        await journal_witness.xgroup_create(log_of(layer), GROUP, id="0")
        await journal_witness.xreadgroup(GROUP, "other", {log_of(layer): ">"})
        assert not await work.done()
        assert await pending(journal_witness, layer) == 1


@pytest.mark.parametrize("wrong", [{"group": ""}, {"batch": 0}, {"idle": 0.0}, {"deliveries": 0}])
async def test_terms_that_make_no_sense_are_refused(
    layer: rtx.DataLayer, wrong: dict[str, object]
) -> None:
    terms = {"group": GROUP, **wrong}
    with pytest.raises(ValueError, match="above zero"):
        layer.executions.work([1], **terms)  # type: ignore[arg-type]


async def test_a_killed_worker_leaves_its_work_to_the_others(
    layer: rtx.DataLayer, shared_server: str, namespace: str, journal_witness: redis_py.Redis
) -> None:
    accounts, each = [1, 2, 3], 20

    def child(name: str, holds: int) -> tuple[str, ...]:
        return ("work", shared_server, namespace, name, json.dumps(accounts), str(holds))

    async with started(*child("doomed", 5)) as doomed:
        for number in range(each):
            for account in accounts:
                await layer.executions.publish(account, fill(number))

        def held() -> bool:
            return sum(line.startswith("begun") for line in doomed.said) == 5

        await eventually(held, within=20)  # before there is anybody who could be quicker
        async with started(*child("heir", 0)) as heir:
            await eventually(lambda: heir.said, within=20)
            await doomed.kill()
            total = {(account, number) for account in accounts for number in range(each)}

            def done() -> Counter[tuple[int, int]]:
                lines = [line.split() for line in doomed.said + heir.said]
                return Counter((int(a), int(n)) for what, a, n, *_ in lines if what == "done")

            await eventually(lambda: set(done()) == total, within=20)
            taken = [line for line in heir.said if line.startswith("begun") and line[-1] != "1"]
            held_at = next(line for line in reversed(doomed.said) if line.startswith("begun"))
            print(f"{len(total)} done, {len(taken)} taken over")
            assert held_at.rsplit(" ", 1)[0] in [line.rsplit(" ", 1)[0] for line in taken]
            assert set(done().values()) == {1}
            assert await pending(journal_witness, layer) == 0
