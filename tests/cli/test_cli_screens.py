"""Commands in a real terminal: full screens, keys, sizes, colours and their absence."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
import redis.asyncio as redis_py

import rtx as package
from tests.cli.conftest import Rtx
from tests.cli.screens import FRAME, Terminal, in_terminal
from tests.cli.test_cli_watch import TICK, subscribed
from tests.conftest import eventually

_ALTERNATE, _MAIN = "\x1b[?1049h", "\x1b[?1049l"
_CURSOR = "\x1b[?25h"
_COLOURED = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|4[0-7]|9[0-7]|38|48)(?:;[0-9;]*)?m")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


async def test_watch_fills_the_screen_and_q_gives_it_back(
    connected: Rtx, layer: package.DataLayer, witness: redis_py.Redis, namespace: str,
    terminal: Terminal,
) -> None:  # fmt: skip
    before = terminal.settings()
    began = time.monotonic()
    watching = await in_terminal(
        connected, terminal, "watch", "EURUSD", "--limit", "orders:1", "--limit", "api:ann"
    )
    await subscribed(witness, f"{namespace}:market_data:EURUSD")
    await eventually(terminal.shows("waiting for the first price"))
    assert _ALTERNATE in terminal.raw
    for text in ("primary", "0 replicas", "orders 1: 10 of 10 left · api ann: 100 of 100 left"):
        await eventually(terminal.shows(text))
    await layer.market_data.publish(TICK)
    for text in ("1.0955", "1.0956", "0.0001", "OANDA", "stale"):
        await eventually(terminal.shows(text))
    terminal.press("xq")
    assert await terminal.ended(watching) == 0
    frames = terminal.raw.count(FRAME)
    assert frames <= 4 * (time.monotonic() - began) + 2
    assert terminal.raw.index(_MAIN) < terminal.raw.index("1 tick of 1 symbol")
    assert _CURSOR in terminal.raw
    assert terminal.settings() == before
    assert terminal.widest <= 80
    assert _COLOURED.search(terminal.raw)


async def test_watch_shows_as_many_symbols_as_fit_and_follows_the_size(
    connected: Rtx, layer: package.DataLayer, witness: redis_py.Redis, namespace: str,
    terminal: Terminal,
) -> None:  # fmt: skip
    watching = await in_terminal(connected, terminal, "watch", env={"NO_COLOR": "1"})

    async def patterned() -> bool:
        return await witness.pubsub_numpat() > 0

    await eventually(patterned)
    await layer.market_data.publish_many(
        [package.Tick(f"SYM{number:02}", bid=1.5, ask=1.6, lp="T") for number in range(40)]
    )
    await eventually(terminal.shows("more symbols: name those to see"))
    assert "SYM00" in terminal.look()
    assert "SYM39" not in terminal.look()
    terminal.resize(60, 60)
    await eventually(terminal.shows("SYM39"))
    whole = next(frame for frame in terminal.frames if "SYM39" in frame)
    assert max(map(len, whole.splitlines())) <= 60
    assert not _COLOURED.search(terminal.raw)
    watching.process.send_signal(signal.SIGINT)
    assert await terminal.ended(watching) == 130
    assert _MAIN in terminal.raw


async def test_a_second_ctrl_c_gives_the_screen_back_too(
    connected: Rtx, terminal: Terminal
) -> None:
    before = terminal.settings()
    watching = await in_terminal(connected, terminal, "watch", "EURUSD")
    await eventually(terminal.shows("rtx watch"))
    os.kill(watching.process.pid, signal.SIGSTOP)  # so that both are there when it goes on
    watching.process.send_signal(signal.SIGINT)
    watching.process.send_signal(signal.SIGTERM)
    os.kill(watching.process.pid, signal.SIGCONT)
    await terminal.ended(watching)
    assert _MAIN in terminal.raw
    assert terminal.settings() == before


async def test_in_a_terminal_without_a_cursor_watch_writes_lines(
    connected: Rtx, layer: package.DataLayer, witness: redis_py.Redis, namespace: str,
    terminal: Terminal,
) -> None:  # fmt: skip
    watching = await in_terminal(
        connected, terminal, "watch", "EURUSD", "--count", 1, env={"TERM": "dumb"}
    )
    await subscribed(witness, f"{namespace}:market_data:EURUSD")
    await layer.market_data.publish(TICK)
    assert await terminal.ended(watching) == 0
    assert "2026-01-18T10:30:45.123Z EURUSD 1.0955" in terminal.look()
    assert "\x1b" not in terminal.raw


@pytest.mark.parametrize("colour", [True, False])
async def test_latency_is_a_live_table_and_then_bars_within_80_columns(
    connected: Rtx, terminal: Terminal, colour: bool
) -> None:
    env = {} if colour else {"NO_COLOR": "1"}
    measuring = await in_terminal(connected, terminal, "latency", "--rate", 1000, env=env)
    await eventually(terminal.shows("limit hit"))
    measuring.process.send_signal(signal.SIGINT)
    assert await terminal.ended(measuring) == 0
    text = terminal.look()
    assert "round trips in" in text
    assert "█" in text
    assert terminal.widest <= 80
    assert not _COLOURED.search(terminal.raw)


@pytest.mark.parametrize("colour", [True, False])
async def test_doctor_fits_80_columns_and_has_colour_only_if_wanted(
    connected: Rtx, terminal: Terminal, colour: bool
) -> None:
    env = {} if colour else {"NO_COLOR": "1"}
    examining = await in_terminal(connected, terminal, "doctor", env=env)
    await terminal.ended(examining)
    assert " checks" in terminal.look()
    # A command that is there to be copied is never broken inside a word, whatever its length.
    wide = [line for line in re.split(r"[\r\n]+", terminal.look()) if len(line) > 80]
    assert [line for line in wide if len(line.split()) > 1] == []
    assert bool(_COLOURED.search(terminal.raw)) is colour


async def test_bench_shows_how_far_it_is_and_wipes_it(connected: Rtx, terminal: Terminal) -> None:
    benching = await in_terminal(connected, terminal, "bench", "--seconds", 0.1)
    assert await terminal.ended(benching) == 0
    assert "━" in terminal.look()
    assert "subscribe" in terminal.look()
    assert terminal.widest <= 80
