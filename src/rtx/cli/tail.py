"""`rtx tail`: executions and alerts of an account, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import typer

import rtx
from rtx import codecs
from rtx.cli import options, terminal
from rtx.cli.doctor import Least
from rtx.cli.places import Places
from rtx.cli.running import run
from rtx.cli.watch import gap_line
from rtx.keys import SYSTEM
from rtx.pubsub import Journal, JournalSubscription

_Message: TypeAlias = rtx.Execution | rtx.Alert
_Subscription: TypeAlias = JournalSubscription[rtx.Execution] | JournalSubscription[rtx.Alert]

_AS_BAD_AS = {
    Least.CRITICAL: ("critical",),
    Least.WARNING: ("critical", "warning"),
    Least.INFO: ("critical", "warning", "info"),
}


def tail(
    account: Annotated[int, typer.Argument(min=0, help="Id of the account.")],
    after: Annotated[
        str | None,
        typer.Option(
            metavar="EPOCH:SEQ", help="Begin with the executions after this position; :0 all."
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, max=10_000, help="Begin with the last so many of each log."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Go on from the positions in this file, and keep them in it."
        ),
    ] = None,
    executions: Annotated[
        bool, typer.Option("--executions/--no-executions", help="Executions of the account.")
    ] = True,
    alerts: Annotated[
        bool, typer.Option("--alerts/--no-alerts", help="Alerts to the account and to everyone.")
    ] = True,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", "-s", help="Executions in this symbol; several with commas."),
    ] = None,
    severity: Annotated[
        Least, typer.Option("--severity", help="Alerts of this severity or worse.")
    ] = Least.INFO,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after this many messages.")
    ] = None,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """Follow the executions of an account, and its alerts.

    Each line ends with the position of its message, which --after takes: a tail that goes on from
    there misses nothing, or says that it does. Breaks are told as a line that begins with gap, also
    when what they lost would not be shown. With --resume the positions are written to a file once
    the lines are out, so that a tail which is killed may repeat a line and leaves none out. When
    it follows, it says so on standard error.

    \b
    Examples:
      rtx tail 1
      rtx tail 1 --last 20 --symbol EURUSD
      rtx tail 1 --after 5f0c9e1a2b3d4c5e:42 --no-alerts
      rtx tail 1 --json --resume tail-1.json | jq .price
    """
    position = None
    if after is not None:
        try:
            position = rtx.Offset.parse(after)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--after") from None
    if sum(given is not None for given in (after, last, resume)) > 1:
        raise typer.BadParameter("--after, --last and --resume exclude each other")
    if not (executions or alerts):
        raise typer.BadParameter("--no-executions --no-alerts leaves nothing to follow")
    wanted = _Wanted(frozenset(options.split(symbol)), severity)

    async def main(_: asyncio.Event) -> None:
        settings = options.load_for_server(url, "follow")
        places = Places.load(resume)
        async with rtx.open(settings) as layer:
            logs: list[tuple[Journal[rtx.Execution] | Journal[rtx.Alert], int | str, str]] = []
            if executions:
                logs.append((layer.executions, account, layer.keys.executions(account)))
            if alerts:
                whose = (account, SYSTEM)
                logs += [(layer.alerts, whom, layer.keys.alerts(whom)) for whom in whose]
            follower = _Follower(wanted, json, count, places)
            async with asyncio.TaskGroup() as group:
                follow = []
                for log, whom, channel in logs:
                    begin = places.of(channel)
                    if log is layer.executions and position is not None:
                        begin = position
                    if last is not None or (resume is not None and begin is None):
                        begin = await _before_last(log, whom, last or 0)
                        places.reached(channel, begin)
                    follow.append((log.subscribe(whom, after=begin), channel))
                tasks = [group.create_task(follower.follow(*each)) for each in follow]
                tasks.append(group.create_task(_tell_when_ready(follow)))
                await follower.enough.wait()
                for task in tasks:
                    task.cancel()

    run(main)


async def _before_last(
    log: Journal[rtx.Execution] | Journal[rtx.Alert], whom: int | str, number: int
) -> rtx.Offset:
    """The position that the last so many messages of a log come after, of 0 the newest."""
    found = await log.history(whom, limit=number)
    if not found.messages:
        return found.last
    return rtx.Offset(found.messages[0].epoch, found.messages[0].seq - 1)


async def _tell_when_ready(subscriptions: Sequence[tuple[_Subscription, str]]) -> None:
    """Say that nothing is missed from here on: a message before that would not be shown."""
    for subscription, _ in subscriptions:
        await subscription.ready()
    terminal.note(f"following {', '.join(channel for _, channel in subscriptions)}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which messages are shown: executions in these symbols, or all, and the worse alerts."""

    symbols: frozenset[str]
    severity: Least

    def __call__(self, item: _Message | rtx.Gap) -> bool:
        if isinstance(item, rtx.Execution):
            return not self.symbols or item.symbol in self.symbols
        if isinstance(item, rtx.Alert):
            return item.severity in _AS_BAD_AS[self.severity]
        return True


class _Follower:
    """Writes what several subscriptions bring, whole lines at a time."""

    def __init__(self, wanted: _Wanted, json: bool, count: int | None, places: Places) -> None:
        self._wanted = wanted
        self._form = _json_line if json else _plain_line
        self._left = count
        self._places = places
        self._turn = asyncio.Lock()
        self.enough = asyncio.Event()

    async def follow(self, subscription: _Subscription, channel: str) -> None:
        async with subscription:
            async for item in subscription:
                async with self._turn:
                    if self._left == 0:
                        return
                    if self._wanted(item):
                        await terminal.write(self._form(item))
                        if self._left is not None and not isinstance(item, rtx.Gap):
                            self._left -= 1
                    if not isinstance(item, rtx.Gap) and item.seq:
                        self._places.reached(channel, rtx.Offset(item.epoch, item.seq))
                    if self._left == 0:
                        self.enough.set()


def _json_line(item: _Message | rtx.Gap) -> bytes:
    return codecs.encode(item) + b"\n"


def _plain_line(item: _Message | rtx.Gap) -> bytes:
    if isinstance(item, rtx.Gap):
        return gap_line(item)
    time = codecs.iso(item.timestamp)
    position = rtx.Offset(item.epoch, item.seq)
    if isinstance(item, rtx.Alert):
        message = msgspec.json.encode(item.message).decode()  # quoted: it may have line ends
        return f"{time} alert {item.severity} {item.kind} {message} {position}\n".encode()
    return (
        f"{time} execution {item.side} {item.volume:g} {item.symbol} @ {item.price!r} "
        f"order {item.order_id} position {item.position_id} {position}\n"
    ).encode()
