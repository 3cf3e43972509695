"""Money goes through the cache bit for bit, by a fill and by a put."""

from __future__ import annotations

import random
from decimal import Decimal

import msgspec

import rtx
from rtx.setting_groups import CacheSettings
from rtx.settings import Settings
from tests.cache.memory import MemoryDatabase

MONEY = ("balance", "equity", "margin", "free_margin", "margin_level")


def money(draw: random.Random) -> Decimal:
    """Cents mostly, and what currencies, crypto-currencies and mistakes bring along."""
    places = draw.choice((2, 2, 2, 2, 0, 3, 8, 18))
    digits = draw.choice((0, 1, draw.randrange(10**3), draw.randrange(10**9), draw.getrandbits(90)))
    return Decimal((draw.getrandbits(1) if digits else 0, tuple(map(int, str(digits))), -places))


def bits(one: rtx.Account) -> list[object]:
    """What `==` does not tell apart: 1.0 and 1.00, 0 and -0."""
    return [getattr(one, name).as_tuple() for name in MONEY]


async def test_ten_thousand_accounts_go_through_the_cache_bit_for_bit(
    settings: Settings, seeded: random.Random
) -> None:
    ids = range(10_000)
    several = [
        rtx.Account(id, f"RTX-{id}", *(money(seeded) for _ in MONEY), open_positions=0)
        for id in ids
    ]
    records = MemoryDatabase(several)
    # Nothing is kept decoded, so that each is read from the server's bytes.
    plain = CacheSettings(read_timeout=30.0, decoded=0)
    settings = settings.model_copy(update={"cache": plain})
    async with rtx.open(settings, database=records) as layer:
        for _ in range(2):  # filled, and read from the server
            found = await layer.accounts.get_many(ids)
            assert [bits(found[id]) for id in ids] == [bits(one) for one in several]
        assert (layer.accounts.stats.loads, layer.accounts.stats.hits) == (10_000, 10_000)

        changed = [msgspec.structs.replace(one, balance=-one.balance) for one in several]
        await layer.accounts.put_many(changed)
        found = await layer.accounts.get_many(ids)
        assert [bits(found[id]) for id in ids] == [bits(one) for one in changed]
        assert layer.accounts.stats.hits == 20_000
