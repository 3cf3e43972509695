"""A witness on the database of the limits, and settings with limits of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio as redis_py

from rtx.setting_groups import LimiterSettings, LimitSettings
from rtx.settings import Settings

Named = Callable[..., Settings]


@pytest.fixture
async def limit_witness(admin_server: str) -> AsyncIterator[redis_py.Redis]:
    """redis-py on the limits database of the shared server."""
    client = redis_py.Redis.from_url(admin_server, db=2)
    yield client
    await client.aclose()


@pytest.fixture
def named(settings: Settings) -> Named:
    """Settings for the shared server with these limits: `named(orders=(10, 1.0))`."""

    def make(**limits: tuple[int, float] | LimitSettings) -> Settings:
        return with_limits(settings, **limits)

    return make


def with_limits(
    settings: Settings,
    limiter: LimiterSettings | None = None,
    **limits: tuple[int, float] | LimitSettings,
) -> Settings:
    """The same settings with these limits; one that must not be late gets a long deadline."""
    made = {
        name: limit
        if isinstance(limit, LimitSettings)
        else LimitSettings(limit=limit[0], per=limit[1])
        for name, limit in limits.items()
    }
    # A busy machine must not turn a decision of the server into one without it.
    limiter = limiter or LimiterSettings(deadline=5.0)
    return settings.model_copy(update={"limits": made, "limiter": limiter})


async def server_micros(witness: redis_py.Redis) -> int:
    """The server's clock in microseconds."""
    seconds, micros = await witness.time()
    return int(seconds) * 1_000_000 + int(micros)
