"""A planned failover of one primary of a cluster."""

from __future__ import annotations

import asyncio
import random

from rtx import urls
from rtx.errors import RtxError, ServerError, SettingsError, Unavailable
from rtx.topology.base import Manner
from rtx.topology.cluster import ClusterTopology
from rtx.topology.cluster_view import Witness
from rtx.topology.handover import (
    LOOK_EVERY,
    Handover,
    WriteProbe,
    connected,
    nothing_begun,
    unfinished,
)
from rtx.topology.slots import key_slot
from rtx.topology.standing import standing_of
from rtx.urls import Address
from rtx.wire.options import ConnectOptions

_ASKED_FOR = 1.0


async def hand_over_in_cluster(
    location: urls.Cluster,
    manner: Manner,
    key: str,
    *,
    node: Address | None,
    within: float,
) -> Handover:
    """Have a replica take a primary's slots, and wait until all nodes that answer say so.

    `node` is the primary to be relieved, of whose replicas the one with most data takes over, or
    the replica that is to take over. A hash tag is appended to `key` that makes it the primary's;
    it must be one that does not exist, and that the user may delete. `within` is in seconds, from
    the beginning to the end.

    Raises `SettingsError` where `node` is none that can be meant, `Unavailable` kinds, with
    `maybe_applied` where the failover was begun but its end was not seen, and `ServerError` kinds
    where it is refused, such as `NOGOODSLAVE`.
    """
    give_up = asyncio.get_running_loop().time() + within
    topology = ClusterTopology(location, manner)
    await topology.open()
    try:
        options = manner.options(location.credentials, tls=location.tls)
        with nothing_begun():
            old, new = await _chosen(topology, node, options)
        slots = [slot for slot, owner in enumerate(topology.owners) if owner == old]
        probe = WriteProbe((old, new), _key_of(set(slots), key))
        async with probe.running(options):
            await _begin(new, options)
            nodes = [*topology.primaries, *topology.replicas]
            await _ended(nodes, slots[0], new, probe, options, give_up, within)
    finally:
        await topology.close()
    return Handover(old, new, probe.held_up(old, new), True)


async def _chosen(
    topology: ClusterTopology, node: Address | None, options: ConnectOptions
) -> tuple[Address, Address]:
    """The primary that is relieved, and the replica that takes over."""
    primaries = ", ".join(map(str, topology.primaries))
    if node is None:
        raise SettingsError(
            f"a cluster has several primaries; name the one to be relieved with --node: {primaries}"
        )
    for primary in topology.primaries:
        replicas = topology.replicas_of(primary)
        if node in replicas:
            return primary, node
        if node == primary:
            return primary, await _best(primary, replicas, options)
    raise SettingsError(
        f"{node} is no node of the cluster that has slots or replicates one; its primaries are "
        f"{primaries}"
    )


async def _best(primary: Address, replicas: list[Address], options: ConnectOptions) -> Address:
    """The replica that is in sync and has most data."""
    offsets: dict[Address, int] = {}
    async with connected(replicas, options) as (connections, _):
        for address, connection in connections.items():
            standing = standing_of(await connection.call("ROLE"))
            if standing.follows(primary):
                offsets[address] = standing.offset
    if not offsets:
        raise ServerError(
            f"no replica of {primary} is in sync with it; start one, or see why the links of its "
            "replicas are down (INFO replication)",
            "NOGOODSLAVE",
        )
    return max(offsets, key=lambda address: offsets[address])


def _key_of(slots: set[int], key: str) -> str:
    """A key in one of the slots."""
    while True:
        tagged = f"{key}{{{random.getrandbits(32):x}}}"
        if key_slot(tagged.encode()) in slots:
            return tagged


async def _begin(replica: Address, options: ConnectOptions) -> None:
    async with connected([replica], options) as (connections, errors):
        for error in errors.values():
            raise Unavailable(f"the replica {replica} does not answer ({error}); see that it runs")
        try:
            await connections[replica].call("CLUSTER", "FAILOVER")
        except ServerError as error:
            raise ServerError(
                f"{replica} refuses to take over: {error}; see CLUSTER NODES and INFO replication "
                "there",
                error.prefix,
            ) from None


async def _ended(
    nodes: list[Address],
    slot: int,
    new: Address,
    probe: WriteProbe,
    options: ConnectOptions,
    give_up: float,
    within: float,
) -> None:
    """Return when the replica says that it is a primary, and all nodes that answer name it."""
    loop = asyncio.get_running_loop()
    witnesses = [Witness(address, options) for address in nodes]
    said = f"{new} did not become a primary (its log and the old primary's say why)"
    try:
        while loop.time() < give_up:
            await asyncio.sleep(LOOK_EVERY)
            if new not in probe.primaries:
                continue
            views = await asyncio.gather(*(_owner(witness, slot) for witness in witnesses))
            named = dict(zip(nodes, views, strict=True))
            late = [str(address) for address, owner in named.items() if owner not in (new, None)]
            if not late and named[new] == new:
                return
            said = f"{new} became a primary, but {', '.join(late) or new} did not name it"
    finally:
        await asyncio.gather(*(witness.close() for witness in witnesses))
    raise unfinished(said, within)


async def _owner(witness: Witness, slot: int) -> Address | None:
    """The node that has a slot, as one of them says; None where it does not answer."""
    try:
        view = await witness.view(_ASKED_FOR)
    except RtxError:
        witness.drop()
        return None
    return view.slots.owners()[slot]
