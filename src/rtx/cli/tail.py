"""`rtx tail`: executions and alerts of an account, as they come."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeAlias

import msgspec
import typer

import rtx
from rtx import codecs
from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.cli.watch import gap_line
from rtx.keys import SYSTEM
from rtx.pubsub import JournalSubscription

_Message: TypeAlias = rtx.Execution | rtx.Alert


def tail(
    account: Annotated[int, typer.Argument(min=0, help="Id of the account.")],
    after: Annotated[
        str | None,
        typer.Option(
            metavar="EPOCH:SEQ", help="Begin with the executions after this position; epoch:0 all."
        ),
    ] = None,
    alerts: Annotated[
        bool, typer.Option("--alerts/--no-alerts", help="Alerts to the account and to everyone.")
    ] = True,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after this many messages.")
    ] = None,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """Follow the executions of an account, and its alerts.

    Each line ends with the position of its message, which --after takes: a tail that goes on from
    there misses nothing, or says that it does. Breaks are told as a line that begins with gap.

    \b
    Examples:
      rtx tail 1
      rtx tail 1 --after 5f0c9e1a2b3d4c5e:42 --no-alerts
      rtx tail 1 --json | jq .price
    """
    position = None
    if after is not None:
        try:
            position = rtx.Offset.parse(after)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--after") from None

    async def main(_: asyncio.Event) -> None:
        settings = options.load_for_server(url, "follow")
        async with rtx.open(settings) as layer:
            follower = _Follower(json, count)
            async with asyncio.TaskGroup() as group:
                follow = [follower.follow(layer.executions.subscribe(account, after=position))]
                if alerts:
                    follow += [
                        follower.follow(layer.alerts.subscribe(whom)) for whom in (account, SYSTEM)
                    ]
                tasks = [group.create_task(each) for each in follow]
                await follower.enough.wait()
                for task in tasks:
                    task.cancel()

    run(main)


class _Follower:
    """Writes what several subscriptions bring, whole lines at a time."""

    def __init__(self, json: bool, count: int | None) -> None:
        self._form = _json_line if json else _plain_line
        self._left = count
        self._turn = asyncio.Lock()
        self.enough = asyncio.Event()

    async def follow(
        self, subscription: JournalSubscription[rtx.Execution] | JournalSubscription[rtx.Alert]
    ) -> None:
        async with subscription:
            async for item in subscription:
                async with self._turn:
                    if self._left == 0:
                        return
                    await terminal.write(self._form(item))
                    if self._left is not None and not isinstance(item, rtx.Gap):
                        self._left -= 1
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
