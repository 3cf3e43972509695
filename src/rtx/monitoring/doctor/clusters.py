"""Checks of a cluster as a whole: every slot served, every node seen alike by all."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.groups import Nodes, crowded, nodes
from rtx.monitoring.doctor.server import Server, check, is_loopback
from rtx.topology.slots import SLOTS

_QUICK_MS = 1_000
_SLOW_MS = 15_000
_NEEDS = ("CLUSTER NODES",)


@nodes(
    "critical",
    title="the cluster is down",
    why="calls to some or all keys fail with CLUSTERDOWN: no limits, no logs, no prices",
    fix="CLUSTER NODES shows who failed and which slots have nobody: start those nodes, or CLUSTER "
    "FAILOVER TAKEOVER on a replica of theirs",
    needs=("CLUSTER INFO",),
)
def cluster_down(group: Nodes) -> Iterator[Seen]:
    down = [one.name for one in group.awake if one.cluster.get("cluster_state") not in (None, "ok")]
    if down:
        yield Seen(f"cluster_state fail by {', '.join(down[:6])}")


@nodes(
    "critical",
    title="slots are served by nobody",
    why="every account and symbol in them has no cache, no limits and no log",
    fix="redis-cli --cluster fix HOST:PORT, or CLUSTER ADDSLOTSRANGE for them on a primary",
    needs=_NEEDS,
)
def slots_uncovered(group: Nodes) -> Iterator[Seen]:
    covered = max(
        (sum(node.slots for node in one.nodes if "fail" not in node.flags) for one in group.awake),
        default=SLOTS,
    )
    if covered < SLOTS:
        yield Seen(f"{SLOTS - covered:,} of {SLOTS:,} slots")


@nodes(
    "critical",
    "warning",
    title="nodes are failing",
    why="a replica that is gone is not there for a failover; a primary that is gone takes its "
    "accounts along",
    fix="start them again; if they are gone for good CLUSTER FORGET {id} on every node",
    needs=_NEEDS,
)
def nodes_failing(group: Nodes) -> Iterator[Seen]:
    failing = {node.id: node for one in group.awake for node in one.nodes if node.failing}
    if failing:
        told = ", ".join(
            f"{node.address} ({', '.join(sorted(node.flags))})" for node in failing.values()
        )
        primaries = any(node.slots for node in failing.values())
        yield Seen(told, "critical" if primaries else "warning", {"id": next(iter(failing))})


@nodes(
    "critical",
    title="nodes see the slots otherwise",
    why="programs are sent to and fro, or write to a node whose writes will be thrown away",
    fix="wait for a failover or migration to end and look again; then redis-cli --cluster check "
    "HOST:PORT, and its bus port if a node is cut off",
    needs=_NEEDS,
)
def nodes_disagree(group: Nodes) -> Iterator[Seen]:
    views: dict[frozenset[tuple[str, int]], str] = {}
    for one in group.awake:
        if one.nodes:
            view = frozenset((node.id, node.slots) for node in one.nodes if node.slots)
            views.setdefault(view, one.name)
    if len(views) > 1:
        yield Seen(f"{len(views)} different views, such as those of {', '.join(views.values())}")


@nodes(
    "warning",
    title="slots are in the middle of a migration",
    why="calls to their keys take two ways, and those that need several keys fail with TRYAGAIN; a "
    "migration that nobody ends stays for ever",
    fix="let the resharding end; one that was abandoned ends with redis-cli --cluster fix "
    "HOST:PORT",
    needs=_NEEDS,
)
def slots_moving(group: Nodes) -> Iterator[Seen]:
    for one in group.awake:
        own = next((node for node in one.nodes if "myself" in node.flags), None)
        if own is not None and own.slots and own.moving:  # replicas repeat it
            yield Seen(f"{own.moving} slots at {one.name}", server=one.name)


@nodes(
    "critical",
    title="too few primaries for a majority",
    why="a replica is promoted by a majority of the primaries: of two none may fail",
    fix="three primaries or more: CLUSTER MEET, then redis-cli --cluster rebalance HOST:PORT "
    "--cluster-use-empty-masters",
    needs=_NEEDS,
)
def few_primaries(group: Nodes) -> Iterator[Seen]:
    count = max((sum(1 for node in one.nodes if node.slots) for one in group.awake), default=3)
    if count < 3:
        yield Seen(f"{count} primaries have slots")


@nodes(
    "warning",
    title="several nodes share one machine",
    why="when that machine goes, a primary goes together with its replica, or most primaries at "
    "once, and there is no failover",
    fix="one node on each machine; at least no primary beside another one, nor beside its replica",
    needs=_NEEDS,
)
def nodes_on_one_machine(group: Nodes) -> Iterator[Seen]:
    known = {node.id: node for one in group.awake for node in one.nodes if node.here}
    primaries = [node for node in known.values() if node.slots]
    told = crowded([node.address for node in primaries])
    for node in known.values():
        primary = known.get(node.primary)
        if primary is not None and (host := crowded([node.address, primary.address])):
            told = told or host
    if told:
        yield Seen(f"several nodes at {told}")


@nodes(
    "critical",
    title="addresses of one machine only are given to programs",
    why="programs on other machines are sent to themselves, and reach no key",
    fix="CONFIG SET cluster-announce-ip ADDRESS on each node (or cluster-announce-hostname), then "
    "CONFIG REWRITE",
    needs=_NEEDS,
)
def loopback_in_cluster(group: Nodes) -> Iterator[Seen]:
    if all(is_loopback(address.host) for address in group.location.nodes):
        return
    for one in group.awake:
        found = [node.address for node in one.nodes if is_loopback(node.address.host)]
        if found:
            yield Seen(f"it names {', '.join(map(str, found[:3]))}", server=one.name)


@check(
    "info",
    title="one lost shard stops the whole cluster",
    why="with full coverage required no account can trade while the primary of a few of them is "
    "away; without it the others go on",
    fix="CONFIG SET cluster-require-full-coverage no on each node, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def full_coverage_required(server: Server) -> Iterator[Seen]:
    if server.in_cluster and server.config.get("cluster-require-full-coverage") == "yes":
        yield Seen("cluster-require-full-coverage yes")


@check(
    "warning",
    title="a node is taken for dead too soon, or too late",
    why="at 1 s and less a busy machine looks like a dead one, and each failover loses writes; a "
    "long time-out is an outage of that length",
    fix="CONFIG SET cluster-node-timeout 5000 on each node, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def node_timeout(server: Server) -> Iterator[Seen]:
    timeout = server.size("cluster-node-timeout")
    if server.in_cluster and timeout and not _QUICK_MS < timeout <= _SLOW_MS:
        yield Seen(f"cluster-node-timeout {timeout} (milliseconds)")


@check(
    "warning",
    title="nodes answer reads while the cluster is down",
    why="a node that is cut off answers with what it had: an old balance, a limit that is used up "
    "elsewhere",
    fix="CONFIG SET cluster-allow-reads-when-down no on each node, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def reads_while_down(server: Server) -> Iterator[Seen]:
    if server.in_cluster and server.config.get("cluster-allow-reads-when-down") == "yes":
        yield Seen("cluster-allow-reads-when-down yes")


@check(
    "warning",
    title="a replica never takes its primary's place",
    why="when the primary dies its accounts stay without a server until somebody acts by hand",
    fix="CONFIG SET cluster-replica-no-failover no, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def failover_forbidden(server: Server) -> Iterator[Seen]:
    if server.in_cluster and server.config.get("cluster-replica-no-failover") == "yes":
        yield Seen("cluster-replica-no-failover yes")
