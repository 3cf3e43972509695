"""The live page of the demo, in a real browser."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from rtx.demo.run import DemoEvent, DemoOptions, Started, run_demo
from tests.conftest import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)"),
    pytest.mark.timeout(120),
]

# Without them a browser tries to reach its maker's hosts; --no-sandbox because CI runs as root.
_QUIET = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Started]:
    events: list[DemoEvent] = []
    stop = asyncio.Event()
    # The directory keeps the server's data, so that its restart is seen as one.
    options = DemoOptions(port=0, seed=7, directory=tmp_path / "demo")
    demo = asyncio.create_task(run_demo(options, stop, events.append))

    def up() -> Started | None:
        if demo.done():
            demo.result()
        return next((event for event in events if isinstance(event, Started)), None)

    found = await eventually(up, within=30)
    assert isinstance(found, Started)
    yield found
    stop.set()
    await asyncio.wait_for(demo, 10)


@pytest.fixture
async def page(started: Started) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        opened = await browser.new_page(viewport={"width": 1440, "height": 900})
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        await opened.goto(started.url)
        yield opened
        await browser.close()
        assert faults == []


def server_pid(started: Started) -> int:
    """The demo's server, by the port it was started with."""
    port = started.redis_url.rpartition(":")[2]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            command = (entry / "cmdline").read_bytes() if (entry / "cmdline").exists() else b""
            if b"valkey-server" in command and port.encode() in command:
                return int(entry.name)
    raise AssertionError("the demo's server is not running")


async def test_prices_move_and_an_order_comes_back_as_a_fill(page: Page) -> None:
    await expect(page.locator("#pill-text")).to_have_text("live", timeout=15_000)
    row = page.locator("tr[data-symbol=EURUSD]")
    before = await row.inner_text()
    await expect(row).not_to_have_text(before, timeout=15_000)
    await row.click()
    await page.fill("#volume", "0.1")
    await page.click("#buy")
    await expect(page.locator("#order-result")).to_contain_text("BUY 0.10 EURUSD", timeout=10_000)
    fill = page.locator("#feed-list li[data-kind=execution]").first
    await expect(fill).to_contain_text("EURUSD", timeout=10_000)


async def test_a_burst_of_15_orders_is_cut_at_10(page: Page) -> None:
    await expect(page.locator("#pill-text")).to_have_text("live", timeout=15_000)
    await expect(page.locator("tr[data-symbol=EURUSD]")).to_be_visible(timeout=15_000)
    await page.locator("tr[data-symbol=EURUSD]").click()
    await page.click("#burst")
    await expect(page.locator("#burst-result")).to_contain_text(
        "10 filled, 5 refused", timeout=15_000
    )


async def test_a_killed_server_is_told_and_the_page_goes_on_by_itself(
    page: Page, started: Started
) -> None:
    pill = page.locator("#pill-text")
    await expect(pill).to_have_text("live", timeout=15_000)
    os.kill(server_pid(started), signal.SIGKILL)
    await expect(page.locator("#banner-text")).to_contain_text("Redis", timeout=10_000)
    await expect(pill).to_have_text("live", timeout=20_000)
    row = page.locator("tr[data-symbol=EURUSD]")
    before = await row.inner_text()
    await expect(row).not_to_have_text(before, timeout=15_000)
