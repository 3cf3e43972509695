"""Reading what is in this process already: one caller, an account each time, nothing sent."""

from __future__ import annotations

import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal

from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Role,
    Run,
    Sample,
    Watch,
    WrongResult,
    throughput,
)
from benchmarks.clients import open_rtx
from rtx import codecs
from rtx.keys import Keys
from rtx.models import Account

ACCOUNTS = 100
TTL = 3600.0

_KEY = Keys().account


def _account(number: int) -> Account:
    money = Decimal(f"{10_000 + number}.25")
    return Account(number, f"RTX-{number:06d}", money, money, Decimal(0), money, Decimal(0), 0)


_ACCOUNTS = [_account(number) for number in range(ACCOUNTS)]


def _race(get: Callable[[int], Awaitable[Account | None]]) -> Run:
    """A run over `get`, which gets an account by its id."""

    async def run(total: int) -> Sample:
        ids = 0
        watch = Watch()
        for number in range(total):
            account = await get(number % ACCOUNTS)
            ids += account.id if account is not None else -1
        sample = watch.sample(total)
        if ids != sum(number % ACCOUNTS for number in range(total)):
            raise WrongResult(f"the ids add up to {ids}")
        return sample

    return run


@asynccontextmanager
async def _ours(arena: Arena) -> AsyncIterator[Run]:
    for account in _ACCOUNTS:
        arena.witness.set(_KEY(account.id), codecs.encode(account))
    async with open_rtx(arena, cache={"near": ("accounts",)}) as layer:
        yield _race(layer.accounts.get)
        stats = layer.accounts.stats
        if stats.near_hits < 10 * (stats.hits + stats.misses):
            raise WrongResult(f"only {stats.near_hits} reads were answered from this process")


@asynccontextmanager
async def _cashews(arena: Arena) -> AsyncIterator[Run]:
    cache = importlib.import_module("cashews").Cache()
    cache.setup("mem://", size=10_000)
    for account in _ACCOUNTS:
        await cache.set(_KEY(account.id), account, expire=TTL)
    try:
        yield _race(lambda id: cache.get(_KEY(id)))
    finally:
        await cache.close()


@asynccontextmanager
async def _aiocache(arena: Arena) -> AsyncIterator[Run]:
    cache = importlib.import_module("aiocache").SimpleMemoryCache()
    for account in _ACCOUNTS:
        await cache.set(_KEY(account.id), account, ttl=TTL)
    try:
        yield _race(lambda id: cache.get(_KEY(id)))
    finally:
        await cache.clear()
        await cache.close()


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Run]:
    values = {_KEY(account.id): (account, time.monotonic() + TTL) for account in _ACCOUNTS}

    async def get(id: int) -> Account | None:
        found = values.get(_KEY(id))
        return found[0] if found is not None and time.monotonic() < found[1] else None

    yield _race(get)


CASES = (
    Case(
        name="near.hit",
        title=f"get one of {ACCOUNTS} accounts that this process has",
        measures=throughput("get", target=5.0),
        contestants=(
            Contestant("RTX near cache", Role.OURS, _ours),
            Contestant("cashews, in memory", Role.PEER, _cashews, needs="cashews"),
            Contestant("aiocache, in memory", Role.PEER, _aiocache, needs="aiocache"),
            Contestant("dict with a deadline", Role.CEILING, _bare),
        ),
        amount=10_000,
        note="The peers hold what was put into them; RTX also follows the server, which says when "
        "a value has changed. Each builds the key from the id.",
    ),
)
