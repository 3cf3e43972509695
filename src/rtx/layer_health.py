"""Whether the parts of a layer answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from rtx.cache import Breaker
from rtx.database import Database
from rtx.errors import RtxError
from rtx.pubsub import Hub
from rtx.ratelimit import Limits
from rtx.topology import Role, Roles

_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class PartHealth:
    """Whether a part answers; `latency_ms` in milliseconds, `error` empty when it is up."""

    up: bool
    error: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """State of the layer.

    `ready`: all of it works. `degraded`: Redis is away in part or whole, so that reads come from
    the database while the rest waits.
    """

    ready: bool
    degraded: bool
    roles: dict[str, PartHealth]
    database: PartHealth | None
    subscriber: PartHealth


async def ask_health(
    roles: Roles, hub: Hub, breaker: Breaker, limits: Limits, database: Database | None
) -> Health:
    """Ask every part at once; takes at most 1 s, never raises. What is back is used again."""

    async def ask(role: Role) -> PartHealth:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE):
                await roles.pool(role).call("PING", timeout=_PATIENCE)
                if role is Role.CACHE:
                    await breaker.attempt()
                if role is Role.LIMITS:
                    limits.hurry()
        except (RtxError, TimeoutError) as error:
            return PartHealth(False, str(error) or "no answer within 1 s")
        return PartHealth(True, latency_ms=(time.perf_counter() - started) * 1000)

    *parts, stored = await asyncio.gather(*map(ask, Role), _ask_database(database))
    found = {role.value: part for role, part in zip(Role, parts, strict=True) if part is not None}
    subscriber = PartHealth(up=True)
    if hub.down is not None and not hub.idle:
        since, cause = hub.down
        subscriber = PartHealth(False, f"{cause} (for {time.monotonic() - since:.1f} s)")
    redis_up = all(part.up for part in found.values()) and subscriber.up
    return Health(
        ready=redis_up and (stored is None or stored.up),
        degraded=not redis_up,
        roles=found,
        database=stored,
        subscriber=subscriber,
    )


async def _ask_database(database: Database | None) -> PartHealth | None:
    if database is None:
        return None
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_PATIENCE):
            await database.ping()
    except (RtxError, TimeoutError) as error:
        return PartHealth(False, str(error) or "no answer within 1 s")
    return PartHealth(True, latency_ms=(time.perf_counter() - started) * 1000)
