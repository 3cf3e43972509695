"""The simulated market: reproducible, sane and lively; and its pace by a clock."""

import asyncio
import math
import random
import statistics
from collections import Counter, defaultdict
from itertools import islice, pairwise

import pytest

from rtx.errors import FeedError
from rtx.feeds import INSTRUMENTS, SimulatedFeed
from rtx.feeds.market import PROVIDERS, STEP, YEAR, Market, Step

MINUTE = round(60 / STEP)


class ManualClock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def seed() -> int:
    value = random.SystemRandom().randrange(2**32)
    print(f"seed {value}")
    return value


def walk(seed: int, steps: int, rate: float = 80.0, *symbols: str) -> list[Step]:
    chosen = [INSTRUMENTS[symbol] for symbol in symbols or INSTRUMENTS]
    return list(islice(Market(chosen, seed=seed, rate=rate).steps(), steps))


def test_offers_majors_metals_and_crypto_with_terms_of_trade() -> None:
    majors = {"EURUSD", "GBPUSD", "USDJPY", "USDCHF", "AUDUSD", "USDCAD", "NZDUSD", "EURGBP"}
    assert majors | {"XAUUSD", "XAGUSD", "BTCUSD", "ETHUSD"} <= INSTRUMENTS.keys()
    for symbol, item in INSTRUMENTS.items():
        spec = item.spec
        assert spec.symbol == symbol == spec.base + spec.quote
        assert 10.0**-spec.digits <= item.spread < item.price / 100
        assert 0 < spec.margin_rate <= 1
        assert abs(item.loading) <= 1


def test_one_seed_gives_one_path(seed: int) -> None:
    assert walk(seed, MINUTE) == walk(seed, MINUTE)
    assert walk(seed, MINUTE) != walk(seed + 1, MINUTE)


def test_quotes_are_never_crossed_and_keep_the_digits(seed: int) -> None:
    for step in walk(seed, 5 * MINUTE):
        for quote in step.quotes:
            digits = INSTRUMENTS[quote.symbol].spec.digits
            assert 0 < quote.bid < quote.ask, quote
            assert round(quote.bid, digits) == quote.bid, quote
            assert round(quote.ask, digits) == quote.ask, quote


@pytest.mark.parametrize("rate", [1.0, 80.0])
def test_every_symbol_ticks_within_800_ms_at_any_rate(seed: int, rate: float) -> None:
    last = dict.fromkeys(INSTRUMENTS, 0.0)
    now = 0.0
    for step in walk(seed, 5 * MINUTE, rate):
        now += step.dt
        for quote in step.quotes:
            last[quote.symbol] = now
        assert all(now - at <= 0.8 for at in last.values())


def test_the_first_step_quotes_every_symbol(seed: int) -> None:
    assert {quote.symbol for quote in walk(seed, 1)[0].quotes} == set(INSTRUMENTS)


def test_the_mean_rate_is_about_the_one_asked_for(seed: int) -> None:
    steps = walk(seed, 15 * MINUTE, 100.0)
    rate = sum(len(step.quotes) for step in steps) / sum(step.dt for step in steps)
    assert 70.0 < rate < 140.0


def test_there_are_bursts_with_wide_spreads_and_quiet_spells(seed: int) -> None:
    market = Market([INSTRUMENTS["EURUSD"]], seed=seed, rate=8.0)
    count: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    spreads: defaultdict[str, list[float]] = defaultdict(list)
    for step in islice(market.steps(), 30 * MINUTE):
        spell = market.spell("EURUSD")
        seconds[spell] += step.dt
        count[spell] += len(step.quotes)
        spreads[spell] += [quote.ask - quote.bid for quote in step.quotes]
    rate = {spell: count[spell] / seconds[spell] for spell in seconds}
    assert rate["busy"] > 2 * rate["normal"] > 3 * rate["quiet"]
    mean = {spell: statistics.fmean(values) for spell, values in spreads.items()}
    assert mean["busy"] > 1.3 * mean["normal"] > 1.3 * mean["quiet"] * 0.95


def test_providers_quote_around_a_common_mid_with_spreads_of_their_own(seed: int) -> None:
    spreads: defaultdict[str, list[float]] = defaultdict(list)
    mids: dict[str, float] = {}
    for step in walk(seed, 10 * MINUTE, 20.0, "BTCUSD"):
        for quote in step.quotes:
            spreads[quote.lp].append(quote.ask - quote.bid)
            mids[quote.lp] = (quote.bid + quote.ask) / 2
    assert set(spreads) == {provider.name for provider in PROVIDERS}
    means = [statistics.fmean(spreads[provider.name]) for provider in PROVIDERS]
    assert means == sorted(means)
    assert max(mids.values()) / min(mids.values()) < 1.001


def test_prices_move_as_far_as_the_yearly_volatility_says(seed: int) -> None:
    moves = []
    for offset in range(12):  # many short walks: one long one may sit in a single spell
        mids = [
            math.log((step.quotes[-1].bid + step.quotes[-1].ask) / 2)
            for step in walk(seed + offset, 3 * MINUTE, 40.0, "BTCUSD")
            if step.quotes
        ][::40]
        moves += [after - before for before, after in pairwise(mids)]
    per_step = statistics.pstdev(moves)
    covered = 12 * 180.0 / len(moves)
    yearly = per_step * math.sqrt(YEAR / covered)
    assert yearly == pytest.approx(INSTRUMENTS["BTCUSD"].volatility, rel=0.4)


def test_a_cross_stays_the_quotient_of_its_pairs(seed: int) -> None:
    mids: dict[str, float] = {}
    for step in walk(seed, 20 * MINUTE, 80.0, "EURUSD", "GBPUSD", "EURGBP"):
        for quote in step.quotes:
            mids[quote.symbol] = (quote.bid + quote.ask) / 2
    assert mids["EURGBP"] == pytest.approx(mids["EURUSD"] / mids["GBPUSD"], rel=5e-4)


async def test_the_feed_keeps_the_pace_of_the_clock_and_the_path_of_the_seed(seed: int) -> None:
    clock = ManualClock()
    feed = SimulatedFeed(seed=seed, clock=clock, sleep=clock.sleep)
    batches = feed.batches()
    got = []
    while clock.now < 1010.0:
        got += [(tick.symbol, tick.bid, tick.ask, tick.lp) for tick in await anext(batches)]
    await batches.aclose()
    steps = walk(seed, round(10 / STEP) + 5)
    assert got == [tuple(quote) for step in steps for quote in step.quotes][: len(got)]
    assert feed.stats.ticks == len(got)
    assert sum(clock.slept) == pytest.approx(10.0, abs=0.1)


async def test_after_a_standstill_the_feed_goes_on_from_now(seed: int) -> None:
    clock = ManualClock()
    feed = SimulatedFeed(seed=seed, rate=200.0, clock=clock, sleep=clock.sleep)
    batches = feed.batches()
    await anext(batches)
    clock.now += 30.0
    await anext(batches)
    slept = len(clock.slept)
    for _ in range(20):
        await anext(batches)
    waits = clock.slept[slept:]
    assert statistics.fmean(waits) == pytest.approx(STEP, rel=0.2)
    await batches.aclose()


async def test_batches_are_bounded_at_extreme_rates(seed: int) -> None:
    clock = ManualClock()
    feed = SimulatedFeed(seed=seed, rate=50_000.0, clock=clock, sleep=clock.sleep)
    batches = feed.batches()
    sizes = [len(await anext(batches)) for _ in range(20)]
    await batches.aclose()
    assert max(sizes) == 500


def test_a_drawn_seed_is_told_and_specs_match() -> None:
    feed = SimulatedFeed(symbols=["XAUUSD", "EURUSD", "XAUUSD"])
    assert isinstance(feed.seed, int)
    assert [spec.symbol for spec in feed.specs] == ["XAUUSD", "EURUSD"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"symbols": ["EURUSD", "NOPE"]}, "no simulated symbol NOPE; choose from AUDUSD"),
        ({"symbols": []}, "no simulated symbol given"),
        ({"rate": 0.0}, "rate is ticks per second above 0"),
        ({"rate": math.nan}, "rate is ticks per second above 0"),
    ],
)
def test_impossible_wishes_name_the_remedy(options: dict, words: str) -> None:
    with pytest.raises(FeedError, match=words):
        SimulatedFeed(**options)
