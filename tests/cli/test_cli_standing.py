"""What `rtx watch` shows of a group: roles, how far replicas are behind, and who is away."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

import rtx
from rtx.cli.board import Board
from rtx.cli.screen import Screen
from rtx.cli.servers import Server, Servers, behind
from rtx.settings import Settings
from rtx.topology.local import LocalSentinels
from rtx.topology.process import ServerProcess
from tests.conftest import eventually


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[tuple[rtx.DataLayer, Servers]]:
    async with rtx.open(Settings.load(url=url)) as layer:
        servers = Servers(layer)
        try:
            yield layer, servers
        finally:
            await servers.close()


def drawn(screen: Screen, lines: int = 24) -> list[str]:
    """The screen as 80 columns of text."""
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(screen.render(lines))
    return capture.get().splitlines()


def kinds(servers: list[Server]) -> list[str]:
    return [server.kind for server in servers]


async def test_a_group_is_seen_with_its_roles_its_lag_and_who_is_away() -> None:
    async with (
        LocalSentinels(replicas=1, sentinels=1) as group,
        looking(group.url) as (layer, servers),
    ):
        seen = await servers.look()
        assert kinds(seen) == ["primary", "replica", "sentinel"]
        assert all(server.round_trip is not None and not server.error for server in seen)
        await layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0))

        async def caught_up() -> bool:
            seen = await servers.look()
            return behind(seen[1], seen) == 0

        await eventually(caught_up)
        screen = Screen(layer, Board(stale_after=1.0), [])
        try:
            await screen.look()
            lines = drawn(screen)
            assert [line.split()[2] for line in lines[2:4]] == ["primary", "replica"]
            assert lines[2].rstrip().endswith("1 replica")
            assert "sentinels: 1 of 1 answer, enough agree" in [line.strip() for line in lines]
            assert max(map(len, lines)) <= 80
            assert len(lines) <= 24

            replica = next(s for s in group.servers if seen[1].name.endswith(f":{s.port}"))
            replica.kill()
            await replica.wait()
            await screen.look()
            lines = drawn(screen)
            assert replica.url.removeprefix("redis://") in lines[0]
            assert any(line.rstrip().endswith("away") for line in lines)
        finally:
            await screen.close()


async def test_a_frozen_server_is_away_within_its_second_and_back_after_it(
    own_server: ServerProcess,
) -> None:
    async with looking(own_server.url) as (_, servers):
        assert kinds(await servers.look()) == ["primary"]
        own_server.kill(signal.SIGSTOP)
        try:
            began = time.monotonic()
            (server,) = await servers.look()
            took = time.monotonic() - began
        finally:
            own_server.kill(signal.SIGCONT)
        assert server.round_trip is None
        assert server.error
        assert took > 0.9

        async def back() -> bool:
            return kinds(await servers.look()) == ["primary"]

        await eventually(back)


async def test_many_servers_leave_room_for_prices(
    layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"role": "master", "used_memory": "5000000", "maxmemory": "8000000"}
    many = [Server(f"node-{number}:6379", "all", 0.001, info) for number in range(60)]

    async def look(_: Servers) -> list[Server]:
        return many

    monkeypatch.setattr(Servers, "look", look)
    board = Board(stale_after=1.0)
    for number in range(9):
        board.take(rtx.Tick(f"SYM{number}", bid=1.5, ask=1.6))
    screen = Screen(layer, board, [])
    try:
        await screen.look()
        for height in (12, 24, 100):
            lines = drawn(screen, height)
            assert len(lines) <= height
            assert sum("SYM" in line for line in lines) >= min(4, height - 10)
            assert any("more server" in line for line in lines) == (height < 100)
    finally:
        await screen.close()
