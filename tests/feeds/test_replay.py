"""Replay: nothing lost, order kept, broken lines told, and the pace by the file's own times."""

import asyncio
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rtx.errors import FeedError
from rtx.feeds import ReplayFeed, parse_speed, pump
from rtx.feeds.times import iso_ms
from rtx.models import Tick

DATA = Path(__file__).parents[2].parent / "shared" / "data"
HISTDATA = DATA / "eurusd-2020-01-01.histdata.csv"
CAPTURE = DATA / "coinbase-2021-04-17.ws.log"
needs_data = pytest.mark.skipif(not HISTDATA.exists(), reason="no ../shared/data beside this tree")

START = iso_ms("2020-01-01T22:00:00Z")


@dataclass
class Published:
    count: int
    refused: dict[str, int] = field(default_factory=dict)


class ManualClock:
    """Time that passes only while someone sleeps, plus what each publish is said to cost."""

    def __init__(self) -> None:
        self.now = 50.0
        self.oversleep = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.oversleep
        await asyncio.sleep(0)


class Sink:
    """A publisher that keeps what it got and when."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.ticks: list[Tick] = []
        self.times: list[float] = []
        self.sizes: list[int] = []

    async def __call__(self, batch: Sequence[Tick]) -> Published:
        self.ticks += batch
        self.times += [self.clock.now] * len(batch)
        self.sizes.append(len(batch))
        return Published(len(batch))


def write(path: Path, *offsets: float) -> Path:
    """A file of ticks at these seconds after the start."""
    lines = [f"{START + round(offset * 1000)},1.1,1.2" for offset in offsets]
    path.write_text("\n".join(["time,bid,ask", *lines]) + "\n")
    return path


async def replay(path: Path, speed: float = math.inf, **options: object) -> tuple[ReplayFeed, Sink]:
    sink = Sink()
    feed = ReplayFeed(path, "EURUSD", speed, clock=sink.clock, sleep=sink.clock.sleep, **options)
    await pump(feed, sink)
    return feed, sink


# --- real recordings -------------------------------------------------------------------------


@needs_data
async def test_a_real_histdata_file_loses_no_tick() -> None:
    sink = Sink()
    feed = ReplayFeed(HISTDATA, "EURUSD", math.inf)
    report = await pump(feed, sink)
    assert feed.layout.name == "histdata"
    assert report.published == len(sink.ticks) == 9500
    assert report.refused == {}
    assert max(sink.sizes) == 500
    first, last = sink.ticks[0], sink.ticks[-1]
    time = iso_ms("2020-01-01T22:00:00.065Z")
    assert first == Tick("EURUSD", time=time, bid=1.1212, ask=1.12172, lp="REPLAY")
    assert last.time == iso_ms("2020-01-02T04:00:52.125Z")
    assert feed.progress == 1.0
    assert feed.total == 9500


@needs_data
async def test_the_same_file_packed_gives_the_same_ticks(tmp_path: Path) -> None:
    packed = tmp_path / "ticks.csv.gz"
    packed.write_bytes(gzip.compress(HISTDATA.read_bytes()))
    plain, unpacked = Sink(), Sink()
    await pump(ReplayFeed(HISTDATA, "EURUSD", math.inf), plain)
    await pump(ReplayFeed(packed, "EURUSD", math.inf), unpacked)
    assert plain.ticks == unpacked.ticks


@needs_data
async def test_a_coinbase_capture_gives_its_tickers() -> None:
    sink = Sink()
    feed = ReplayFeed(CAPTURE, speed=math.inf, lp="COINBASE")
    report = await pump(feed, sink)
    assert feed.layout.name == "coinbase"
    assert report.published == 107
    assert report.refused == {}
    time = iso_ms("2021-04-17T16:43:30.244Z")
    assert sink.ticks[0] == Tick("BANDGBP", time=time, bid=14.755, ask=14.806, lp="COINBASE")
    assert {"SKLGBP", "YFIBTC"} < {tick.symbol for tick in sink.ticks}


@needs_data
async def test_a_capture_is_paced_by_when_its_messages_came() -> None:
    sink = Sink()
    feed = ReplayFeed(CAPTURE, None, 1.0, clock=sink.clock, sleep=sink.clock.sleep)
    await pump(feed, sink)
    assert 20 < sink.times[-1] - sink.times[0] < 31  # the capture ran for 31 s


# --- what is in the file ---------------------------------------------------------------------


async def test_broken_lines_are_skipped_counted_and_the_first_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ticks.csv"
    good = "20200101 170000065,1.1,1.2,0\n"
    path.write_bytes((good * 60).encode() + b"20200101 17,1\xff\n\n" + (good + "oops\n").encode())
    sink = Sink()
    report = await pump(ReplayFeed(path, "EURUSD", math.inf), sink)
    assert report.published == 61
    assert report.refused == {"malformed": 2}
    assert report.first_malformed == "ticks.csv line 61: '20200101 17,1\ufffd'"


async def test_order_is_kept_and_a_step_back_is_counted_and_published(tmp_path: Path) -> None:
    feed, sink = await replay(write(tmp_path / "a.csv", 0, 2, 1, 1, 3), 1.0)
    assert [tick.time - START for tick in sink.ticks] == [0, 2000, 1000, 1000, 3000]
    assert feed.stats.steps_back == 1


async def test_symbols_of_a_file_are_taken_or_picked(tmp_path: Path) -> None:
    path = tmp_path / "truefx.csv"
    path.write_text(
        "EUR/USD,20200101 22:00:00.100,1.1,1.2\nGBP/USD,20200101 22:00:00.050,1.3,1.4\n"
    )
    all_of_them, one = Sink(), Sink()
    report = await pump(ReplayFeed(path, speed=math.inf), all_of_them)
    assert [tick.symbol for tick in all_of_them.ticks] == ["EURUSD", "GBPUSD"]
    assert report.steps_back == 0  # each symbol has a time of its own
    report = await pump(ReplayFeed(path, "GBPUSD", math.inf), one)
    assert [tick.symbol for tick in one.ticks] == ["GBPUSD"]
    assert report.refused == {"other_symbol": 1}


async def test_comments_a_byte_order_mark_and_a_repeated_header_are_no_ticks(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.csv"
    block = "time,bid,ask\r\n2020-01-01T22:00:00Z,1.1,1.2\r\n"
    path.write_text("\ufeff# made by hand\r\n\r\n" + block * 2, encoding="utf-8")
    feed, sink = await replay(path)
    assert len(sink.ticks) == 2
    assert feed.stats.refused == {}


async def test_long_stretches_without_ticks_leave_the_loop_to_others(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("2020-01-01T22:00:00Z,1.1,1.2\n" * 40 + "oops\n" * 5000)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await replay(path)
    task.cancel()
    assert turns >= 5


async def test_progress_and_total_grow_with_the_bytes_read(tmp_path: Path) -> None:
    feed = ReplayFeed(write(tmp_path / "a.csv", *range(2000)), "EURUSD", math.inf)
    batches = feed.batches()
    await anext(batches)
    assert 0.2 < feed.progress < 0.3
    assert feed.total == pytest.approx(2000, rel=0.05)
    await batches.aclose()


# --- pace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [1.0, 60.0])
async def test_ticks_come_when_the_file_says_divided_by_the_speed(
    tmp_path: Path, speed: float
) -> None:
    offsets = [0, 0.25, 3, 3, 60]
    _, sink = await replay(write(tmp_path / "a.csv", *offsets), speed)
    assert [at - 50.0 for at in sink.times] == pytest.approx([o / speed for o in offsets])
    assert sink.sizes == [1, 1, 2, 1]


async def test_late_sleeps_do_not_add_up(tmp_path: Path) -> None:
    sink = Sink()
    sink.clock.oversleep = 0.05
    path = write(tmp_path / "a.csv", *(index * 0.1 for index in range(1001)))
    await pump(ReplayFeed(path, "X", clock=sink.clock, sleep=sink.clock.sleep), sink)
    late = [at - 50.0 - index * 0.1 for index, at in enumerate(sink.times)]
    assert max(late) < 0.06
    assert min(late) >= 0.0


async def test_a_long_silence_can_be_cut_short(tmp_path: Path) -> None:
    weekend = 48 * 3600
    path = write(tmp_path / "a.csv", 0, 1, weekend, weekend + 1)
    _, sink = await replay(path, 1.0, max_wait=5.0)
    assert [at - 50.0 for at in sink.times] == pytest.approx([0, 1, 6, 7])


async def test_a_second_recording_in_one_file_is_paced_afresh(tmp_path: Path) -> None:
    _, sink = await replay(write(tmp_path / "a.csv", 3600, 3601, 0, 2, 4), 1.0)
    assert [at - 50.0 for at in sink.times] == pytest.approx([0, 1, 1, 3, 5])


async def test_at_full_speed_no_time_passes(tmp_path: Path) -> None:
    _, sink = await replay(write(tmp_path / "a.csv", *range(1200)), math.inf)
    assert sink.clock.now == 50.0
    assert sink.sizes == [500, 500, 200]


async def test_a_cancelled_replay_closes_its_file(tmp_path: Path) -> None:
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    feed = ReplayFeed(write(tmp_path / "a.csv", 0, 3600), "EURUSD", sleep=sleep)
    sink = Sink()
    task = asyncio.create_task(pump(feed, sink))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task  # an unclosed file would warn, and warnings are errors
    assert len(sink.ticks) == 1


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty; name a file with ticks", id="empty"),
        pytest.param(b"\n\n# only a remark\n", "is empty", id="blank"),
        pytest.param(b"hello\nworld\n", "is not a tick file in a known layout: its", id="prose"),
        pytest.param(bytes(range(256)) * 9, "is not a tick file", id="binary"),
        pytest.param(b"PK\x03\x04rest", "is a zip archive; unpack it", id="zip"),
        pytest.param(b"\x1f\x8b\x08\x00garbage", "is a damaged gzip file", id="bad gzip"),
    ],
)
def test_a_file_that_cannot_be_replayed_says_why(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(FeedError, match=words):
        ReplayFeed(path, "EURUSD")


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="no such file"):
        ReplayFeed(tmp_path / "none.csv", "EURUSD")
    with pytest.raises(FeedError, match="is a directory"):
        ReplayFeed(tmp_path, "EURUSD")


def test_a_file_without_symbols_wants_one_named(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="does not say which symbol it is of"):
        ReplayFeed(write(tmp_path / "a.csv", 0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "csv"}, "unknown layout 'csv'; choose from histdata"),
        ({"layout": "truefx"}, "is not a truefx tick file"),
        ({"speed": 0.0}, "speed is a number above 0"),
        ({"speed": math.nan}, "speed is a number above 0"),
        ({"max_wait": 0.0}, "max_wait is seconds above 0"),
    ],
)
def test_impossible_options_name_the_remedy(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(FeedError, match=words):
        ReplayFeed(write(tmp_path / "a.csv", 0), "EURUSD", **options)


async def test_a_gzip_file_that_breaks_off_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress(write(tmp_path / "a.csv", *range(20_000)).read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeedError, match=r"damaged gzip file after line \d+"):
        await replay(path)


def test_speeds_are_numbers_or_max() -> None:
    assert [parse_speed(text) for text in ("1", "60", "0.5", "max")] == [1, 60, 0.5, math.inf]
    for text in ("0", "-1", "fast", "nan"):
        with pytest.raises(FeedError, match="speed is a number above 0 or max"):
            parse_speed(text)
