"""Every layout of tick files, recognised from its lines, and every way to write a time."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtx.feeds.layouts import LAYOUTS, detect
from rtx.feeds.times import dukascopy_ms, epoch_reader, histdata_ms, iso_ms, truefx_ms

MS = 1577916000065  # 2020-01-01T22:00:00.065Z

TABLE = {
    "histdata": ("histdata", ["20200101 170000065,1.1212,1.1217,0"], None),
    "histdata semicolons": ("histdata", ["20200101 170000065;1.1212;1.1217;0"], None),
    "histdata with header": (
        "histdata",
        ["DateTime Stamp,Bid Quote,Ask Quote,Volume", "20200101 170000065,1.1212,1.1217,0"],
        None,
    ),
    "dukascopy": (
        "dukascopy",
        ["Gmt time,Ask,Bid,AskVolume,BidVolume", "01.01.2020 22:00:00.065,1.1217,1.1212,1,1.5"],
        None,
    ),
    "dukascopy, bid first": (
        "dukascopy",
        ["Gmt time,Bid,Ask,BidVolume,AskVolume", "01.01.2020 22:00:00.065,1.1212,1.1217,1,1.5"],
        None,
    ),
    "dukascopy local time": (
        "dukascopy",
        ["Local time,Ask,Bid", "02.01.2020 00:00:00.065 GMT+0200,1.1217,1.1212"],
        None,
    ),
    "dukascopy year first": (
        "dukascopy",
        ["Time (UTC);Ask;Bid;AskVolume;BidVolume", "2020.01.01 22:00:00.065;1.1217;1.1212;1;1"],
        None,
    ),
    "dukascopy without header": (
        "dukascopy",
        ["01.01.2020 22:00:00.065,1.1217,1.1212,1,1.5"],
        None,
    ),
    "iso": ("iso", ["time,bid,ask", "2020-01-01T22:00:00.065Z,1.1212,1.1217"], None),
    "iso with symbol": (
        "iso",
        ["symbol,timestamp,bid,ask", "EUR/USD,2020-01-01 17:00:00.065-05:00,1.1212,1.1217"],
        "EURUSD",
    ),
    "iso tabs and quotes": (
        "iso",
        ['"Timestamp"\t"Bid"\t"Ask"', '"2020-01-01 22:00:00.065"\t"1.1212"\t"1.1217"'],
        None,
    ),
    "iso without header": ("iso", ["2020-01-01 22:00:00.065000 UTC,1.1212,1.1217"], None),
    "epoch seconds": ("epoch", ["1577916000.065,1.1212,1.1217"], None),
    "epoch ms": (
        "epoch",
        ["timestamp,askPrice,bidPrice", "1577916000065,1.1217,1.1212"],
        None,
    ),
    "epoch us": ("epoch", ["1577916000065999,1.1212,1.1217"], None),
    "epoch ns": (
        "epoch",
        ["time\tbest_bid\tbest_ask\tpair", "1577916000065999999\t1.1212\t1.1217\teur-usd"],
        "EURUSD",
    ),
    "truefx": ("truefx", ["EUR/USD,20200101 22:00:00.065,1.1212,1.1217"], "EURUSD"),
    "coinbase": (
        "coinbase",
        [
            '1577916001.5: {"type":"ticker","product_id":"EUR-USD","best_bid":"1.1212",'
            '"best_ask":"1.1217","time":"2020-01-01T22:00:00.065000Z"}'
        ],
        "EURUSD",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_layout_is_recognised_and_read(case: str) -> None:
    name, lines, symbol = TABLE[case]
    for asked in (None, name):
        layout = detect(lines, asked)
        assert layout is not None
        assert layout.name == name
        assert layout.names_symbol == (symbol is not None)
        row = layout.parse(lines[-1])
        assert row is not None
        assert (row.symbol, row.time, row.bid, row.ask) == (symbol, MS, 1.1212, 1.1217)


def test_every_layout_is_in_the_table() -> None:
    assert {name for name, _, _ in TABLE.values()} == set(LAYOUTS)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["hello", "world"], id="prose"),
        pytest.param(["20200101 170000;1.1;1.2;1.0;1.1;0"] * 3, id="histdata bars"),
        pytest.param(["01.01.2020 00:00:00.000,1.1,1.2,1.0,1.1,5"] * 3, id="dukascopy bars"),
        pytest.param(["2020-01-01T00:00:00,1.1,1.2,1.0,1.1,5"] * 3, id="iso bars"),
        pytest.param(["20200101 170000;1.1212;0"] * 3, id="one price and a volume"),
        pytest.param(["time,bid,ask"], id="a header alone"),
        pytest.param(["time,bid,ask", "1,2,3"], id="no time"),
        pytest.param(["2020-01-01T22:00:00Z,1.2,1.1"] * 3, id="ask and bid swapped"),
        pytest.param(['{"type":"ticker"}'], id="json"),
    ],
)
def test_what_is_no_tick_file_is_not_taken_for_one(lines: list[str]) -> None:
    assert detect(lines) is None


def test_a_named_layout_is_not_tried_as_another() -> None:
    assert detect(["20200101 170000065,1.1212,1.1217,0"], "iso") is None


def test_broken_first_lines_do_not_hide_the_layout() -> None:
    good = ["20200101 170000065,1.1212,1.1217,0"] * 3
    layout = detect(["# rubbish", "20200101 1700", *good])
    assert layout is not None
    assert layout.name == "histdata"


@pytest.mark.parametrize(
    "line",
    [
        "20200101 170000065,1.1212,1.1217",
        "20200101 170000065,1.1212,1.1217,020200101 170000066,1.1212,1.1217,0",
        "20200101 170000065,1.1212,1.12x,0",
        "20200101 170000065,1_1,1.2,0",
        "20200101 250000065,1.1212,1.1217,0",
        "20200231 170000065,1.1212,1.1217,0",
        "19600101 170000065,1.1212,1.1217,0",
        "20200101 17000006,1.1212,1.1217,0",
        "",
    ],
)
def test_a_broken_line_is_an_error(line: str) -> None:
    layout = detect(["20200101 170000065,1.1212,1.1217,0"])
    assert layout is not None
    with pytest.raises(ValueError, match=r"."):
        layout.parse(line)


def test_a_nan_price_is_read_for_the_publisher_to_refuse() -> None:
    layout = detect(["20200101 170000065,1.1212,1.1217,0"])
    assert layout is not None
    row = layout.parse("20200101 170000065,nan,1.1217,0")
    assert row is not None
    assert row.bid != row.bid


def test_an_epoch_cut_short_is_an_error_and_not_another_unit() -> None:
    read = epoch_reader("1577916000065")
    assert read("1577916000065.7") == MS
    for cut in ("1577916000", "157791600006", "1577916000065000", "", "-1577916000065"):
        if cut == "157791600006":  # a digit less is still in the range of the unit: 1975
            assert read(cut) == 157791600006
            continue
        with pytest.raises(ValueError, match="epoch"):
            read(cut)


def test_histdata_is_five_hours_behind_utc_in_summer_too() -> None:
    assert histdata_ms("20200701 170000000") == iso_ms("2020-07-01T22:00:00Z")


MOMENTS = st.datetimes(datetime(1980, 1, 2), datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)


@given(MOMENTS)
def test_every_way_to_write_a_time_says_the_same(moment: datetime) -> None:
    ms = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )
    fraction = f"{moment.microsecond // 1000:03d}"
    india = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert histdata_ms(f"{moment - timedelta(hours=5):%Y%m%d %H%M%S}{fraction}") == ms
    assert truefx_ms(f"{moment:%Y%m%d %H:%M:%S}.{fraction}") == ms
    assert dukascopy_ms(f"{moment:%d.%m.%Y %H:%M:%S}.{fraction}") == ms
    assert dukascopy_ms(f"{india:%d.%m.%Y %H:%M:%S}.{fraction} GMT+0530") == ms
    assert iso_ms(moment.isoformat()) == ms
    assert iso_ms(india.isoformat()) == ms
    for unit, text in (("s", f"{ms // 1000}.{ms % 1000:03d}"), ("us", f"{ms}999")):
        assert epoch_reader(text)(text) == ms, unit
