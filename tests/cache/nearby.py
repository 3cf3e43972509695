"""Near caches on a server, and what tests ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from rtx import urls
from rtx.cache.near import NearCache
from rtx.setting_groups import PoolSettings
from rtx.topology.base import Manner
from rtx.topology.one_home import OneHome
from rtx.topology.standalone import StandaloneTopology

CALM = 30.0
"""A probe interval that no busy machine outlasts, for tests that are not about liveness."""

number = msgspec.json.Decoder(int).decode
"""What the tests' values are decoded with."""


def homes(url: str, *, liveness: float = CALM, name: str = "rtx-near") -> OneHome:
    location = urls.parse(url)
    assert isinstance(location, urls.Standalone)
    return OneHome(StandaloneTopology(location, Manner(PoolSettings(), name)), 0, liveness)


@asynccontextmanager
async def near_cache(
    url: str,
    *,
    liveness: float = CALM,
    name: str = "rtx-near",
    max_bytes: int = 2**20,
    max_age: float = 60.0,
) -> AsyncIterator[NearCache]:
    """An open near cache on one server."""
    near = NearCache(homes(url, liveness=liveness, name=name), max_bytes=max_bytes, max_age=max_age)
    await near.open()
    try:
        yield near
    finally:
        await near.close()


async def heard(near: NearCache) -> None:
    """Return when everything that the server had told before this call has been handled."""
    assert await near.fetch("never-stored", number) is None
