"""What one node of a cluster says about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rtx.errors import ConnectFailed, ConnectionLost, ServerError, SettingsError
from rtx.topology.slots import SlotMap, SlotRange
from rtx.urls import Address
from rtx.wire.connection import Connection
from rtx.wire.options import ConnectOptions
from rtx.wire.replies import Reply


@dataclass(frozen=True, slots=True)
class View:
    """A node's slot map, its configuration epoch, and whether it calls the cluster `ok`."""

    slots: SlotMap
    epoch: int
    ok: bool


class Witness:
    """A connection to one node, kept to ask it about the cluster."""

    def __init__(self, address: Address, options: ConnectOptions) -> None:
        self.address = address
        self._options = options
        self._connection: Connection | None = None

    async def view(self, patience: float) -> View:
        """Ask the node; answers within `patience` seconds for each of dialing and asking.

        Raises `Unavailable` kinds, `AccessDenied`, and `SettingsError` when it is in no cluster.
        """
        connection = self._connection
        if connection is None or connection.error is not None:
            options = replace(self._options, connect_timeout=patience)
            connection = self._connection = await Connection.dial(self.address, options)
        commands = [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")]
        info, slots = await connection.batch(commands, timeout=patience)
        for reply in (slots, info):
            if isinstance(reply, ServerError):
                if "cluster support disabled" in str(reply):
                    raise SettingsError(
                        f"{self.address} is not a cluster node; connect to it with redis://, or "
                        "start it with `cluster-enabled yes`"
                    )
                raise reply
        return _view(info, slots, self.address)

    def drop(self) -> None:
        """End the connection; the next question dials another."""
        if self._connection is not None:
            self._connection.abort(ConnectionLost(f"{self.address} is not asked any more"))

    async def close(self) -> None:
        """End the connection, if there is one, and wait for its end."""
        if self._connection is not None:
            await self._connection.close()


def _view(info: Reply, slots: Reply, asked: Address) -> View:
    if not isinstance(info, bytes) or not isinstance(slots, list):
        raise ConnectFailed(f"{asked} answered CLUSTER SLOTS with something else")
    facts = dict(line.partition(":")[::2] for line in info.decode("utf-8", "replace").split("\r\n"))
    ranges: list[SlotRange] = []
    links: set[tuple[Address, Address]] = set()
    for item in slots:
        match item:
            case [int(first), int(last), primary, *others]:
                if address := _address(primary, asked):
                    ranges.append(SlotRange(first, last, address))
                    found = (_address(other, asked) for other in others)
                    links.update((address, replica) for replica in found if replica)
    return View(
        SlotMap.of(_joined(ranges), links),
        int(facts.get("cluster_current_epoch", "0")),
        facts.get("cluster_state") == "ok",
    )


def _address(node: Reply, asked: Address) -> Address | None:
    """A node's address; one that does not know its own host is where the one asked is."""
    match node:
        case [None | b"", int(port), *_]:
            return Address(asked.host, port)
        case [b"?", *_]:
            return None
        case [bytes(host), int(port), *_]:
            return Address(host.decode("utf-8", "replace"), port)
    return None


def _joined(ranges: Iterable[SlotRange]) -> list[SlotRange]:
    """Neighbours with one primary as one range, so that equal maps compare equal."""
    joined: list[SlotRange] = []
    for part in sorted(ranges, key=lambda part: part.first):
        last = joined[-1] if joined else None
        if last and last.primary == part.primary and last.last + 1 == part.first:
            joined[-1] = SlotRange(last.first, part.last, last.primary)
        else:
            joined.append(part)
    return joined
