"""A limit in front of a function."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import ParamSpec, TypeVar

from rtx.ratelimit.base import Id, RateLimited
from rtx.ratelimit.limits import Limits

P = ParamSpec("P")
R = TypeVar("R")


def limited(
    limits: Limits | Callable[[], Limits],
    name: str,
    *,
    key: Callable[..., Id],
    cost: int = 1,
    wait: float = 0.0,
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Let calls of an async function through as the limit allows; each is a hit of `cost`.

    `key` gets the arguments of the call and says whom to count. A call that is denied waits until
    it fits, if that is within `wait` seconds; else it raises `RateLimited`, at once. `limits` may
    be a function, for a layer that is opened later.

        @limited(layer.limits, "orders", key=lambda account, order: account)
        async def send(account: int, order: Order) -> None: ...

    Raises `TypeError` for a function that is not async.
    """

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is not async; a limit has to be waited for")

        @functools.wraps(function)
        async def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            found = limits if isinstance(limits, Limits) else limits()
            limit, id, end = found[name], key(*args, **kwargs), monotonic() + wait
            while not (decision := await limit.hit(id, cost)):
                if decision.retry_after > end - monotonic():
                    raise RateLimited(decision)
                await asyncio.sleep(decision.retry_after)
            return await function(*args, **kwargs)

        return counted

    return decorate
