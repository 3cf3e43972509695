"""`rtx server failover`: a planned failover, for maintenance, that loses nothing."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from rtx import urls
from rtx.cli import options, terminal
from rtx.cli.running import run
from rtx.errors import SettingsError, Unavailable
from rtx.keys import Keys
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.base import Manner
from rtx.topology.handover import Handover
from rtx.topology.handover_cluster import hand_over_in_cluster
from rtx.topology.handover_sentinel import hand_over_by_sentinels

_UNFINISHED = 3
_PROBE = "rtx-failover-probe"  # no symbol has this name


def failover(
    url: options.Url = None,
    role: Annotated[
        Role | None, typer.Option(help="Whose server, where the roles have servers of their own.")
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Of a cluster: the primary to be relieved, or the replica to take over.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds in which it must end.")] = 30.0,
    json: options.Json = False,
) -> None:
    """Have a replica take the primary's place, and wait until that is done.

    Sentinels are asked for a coordinated failover: the primary holds writes up until its replica
    has them all, so that none is lost. Sentinels before Valkey 9 do not know it; then a warning
    says that acknowledged writes may be lost. A cluster's own failover loses none either; it is for
    one primary, which --node names.

    It ends when the new primary says that it is one and every sentinel, or every node, that answers
    names it. Exit code 0: done. 1: refused, and nothing has changed. 3: begun, but its end was not
    seen in time.

    \b
    Examples:
      RTX_URL=redis+sentinel://h1:26379,h2:26379/trading-redis rtx server failover
      rtx server failover --url redis+cluster://h1:6379 --node h1:6379 --json
    """

    async def main(_: asyncio.Event) -> int | None:
        settings = options.load(url)
        try:
            done = await _hand_over(settings, _location(settings, role), node, timeout)
        except Unavailable as error:
            if not error.maybe_applied:
                raise
            terminal.error(str(error))
            return _UNFINISHED
        _show(done, json)
        return None

    run(main)


def _location(settings: Settings, role: Role | None) -> urls.Location:
    """Where the primary to be replaced is."""
    locations = {each: settings.location(each.value) for each in Role}
    if role is not None:
        return locations[role]
    if len({*locations.values()}) > 1:
        raise SettingsError(
            "the roles have servers of their own; choose one with --role cache, pubsub or limits"
        )
    return locations[Role.CACHE]


async def _hand_over(
    settings: Settings, location: urls.Location, node: str | None, within: float
) -> Handover:
    manner = Manner.of(settings, location)
    key = Keys(settings.namespace).price(_PROBE)
    match location:
        case urls.Cluster():
            address = None if node is None else _address(node)
            return await hand_over_in_cluster(location, manner, key, node=address, within=within)
        case urls.Sentinel() if node is None:
            return await hand_over_by_sentinels(
                location,
                manner,
                key,
                within=within,
                warn=lambda text: terminal.note(f"warning: {text}"),
            )
        case urls.Sentinel():
            raise SettingsError(
                "--node is for a cluster; sentinels choose the replica, which its replica-priority "
                "tells them"
            )
    raise SettingsError(
        f"{location} is a single server, which no replica can take over from; a planned failover "
        "needs redis+sentinel:// or redis+cluster:// (to try one: rtx server --topology sentinel)"
    )


def _address(node: str) -> urls.Address:
    location = urls.parse(f"redis://{node}")
    assert isinstance(location, urls.Standalone)
    return location.address


def _show(done: Handover, json: bool) -> None:
    if json:
        import msgspec

        report = {
            "old": str(done.old),
            "new": str(done.new),
            "held_up": None if done.held_up is None else round(done.held_up, 3),
            "lossless": done.lossless,
        }
        terminal.stdout().out(msgspec.json.encode(report).decode())
        return
    if done.held_up is None:
        held = "how long writes were held up was not seen: this user may not delete price:*"
    else:
        held = f"writes held up for {done.held_up:.2f} s"
    terminal.stdout().print(f"{done.old} -> {done.new}; {held}", markup=False, soft_wrap=True)
