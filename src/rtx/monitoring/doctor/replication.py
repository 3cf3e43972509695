"""Checks of replication: of one server, and of a primary and its replicas together."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.groups import Family, family
from rtx.monitoring.doctor.parsing import SET
from rtx.monitoring.doctor.server import Server, check

_BEHIND = 2  # seconds since a replica last acknowledged; healthy ones do every second
_BEHIND_BYTES = 16 * 2**20
_SMALL_BACKLOG = 2**20  # the default of a server without a conf file
_BACKLOG_SECONDS = 60
_APART = 0.25  # seconds
_ALIKE = (
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "min-replicas-to-write",
    "client-output-buffer-limit",
)


@check(
    "critical",
    title="this is a replica, which takes no writes",
    why="every price, execution and limit hit fails with READONLY",
    fix="set the URL to the primary, or to the sentinels, which follow it",
    needs=("INFO",),
)
def is_a_replica(server: Server) -> Iterator[Seen]:
    if server.alone and server.part == "replica":
        yield Seen(f"role slave of {_primary_of(server)}")


@check(
    "warning",
    title="state has no replica",
    why="when this machine goes, orders stop until it is back, and what was not on its disk is "
    "lost",
    fix="start two replicas (replicaof HOST PORT) and sentinels that watch them; in a cluster "
    "CLUSTER REPLICATE {id} on a further node",
    needs=("INFO",),
)
def no_replica(server: Server) -> Iterator[Seen]:
    if server.has_state and server.is_primary and not server.number("connected_slaves"):
        own = next((node.id for node in server.nodes if "myself" in node.flags), "ID")
        yield Seen("connected_slaves 0", facts={"id": own})


@check(
    "warning",
    title="a primary cut off from its replicas goes on taking writes",
    why="after a network split all it took since is thrown away: nine in ten acknowledged writes "
    "of a 15 s split, measured",
    fix="with two replicas: CONFIG SET min-replicas-to-write 1, CONFIG SET min-replicas-max-lag 2, "
    "then CONFIG REWRITE; the same on the replicas",
    needs=("CONFIG GET", "INFO"),
)
def writes_without_replicas(server: Server) -> Iterator[Seen]:
    # In a cluster a primary that sees no majority stops by itself.
    if not server.has_state or server.in_cluster or not server.number("connected_slaves"):
        return
    if server.is_primary and not server.size("min-replicas-to-write"):
        yield Seen(f"connected_slaves {server.info['connected_slaves']}, min-replicas-to-write 0")


@check(
    "critical",
    "warning",
    title="writes stop with the next replica that goes",
    why="with fewer good replicas than min-replicas-to-write every write fails with NOREPLICAS: no "
    "orders, no prices",
    fix="start one replica more, or bring the missing one back; CONFIG SET min-replicas-to-write "
    "to one less than there are",
    needs=("CONFIG GET", "INFO"),
)
def no_replica_to_spare(server: Server) -> Iterator[Seen]:
    wanted = server.size("min-replicas-to-write")
    if not server.is_primary or not wanted:
        return
    good = server.number("min_slaves_good_slaves")
    if good <= wanted:
        yield Seen(
            f"min-replicas-to-write {wanted}, good replicas {good}",
            "critical" if good < wanted else "warning",
        )


@check(
    "critical",
    title="a replica has lost its primary",
    why="it falls further behind with every write, and a failover to it would lose them all",
    fix="its log has the reason: the network, masterauth, or a port that is closed; check that "
    "redis-cli reaches {primary} from there",
    needs=("INFO",),
)
def link_down(server: Server) -> Iterator[Seen]:
    if server.part == "replica" and server.info.get("master_link_status") == "down":
        if server.info.get("master_sync_in_progress") == "1":
            return  # it copies, which its primary tells
        seconds = server.info.get("master_link_down_since_seconds", "?")
        yield Seen(
            f"master_link_status down for {seconds} s, primary {_primary_of(server)}",
            facts={"primary": _primary_of(server)},
        )


@check(
    "warning",
    title="a replica lags",
    why="a failover now would lose what it has not got, and reads from it are old",
    fix="INFO replication on both shows whether it catches up; a slow disk, a slow network or a "
    "busy machine holds it back",
    needs=("INFO",),
)
def replica_lags(server: Server) -> Iterator[Seen]:
    written = server.number("master_repl_offset")
    for line in server.replica_lines() if server.is_primary else ():
        name = f"{line.get('ip')}:{line.get('port')}"
        state, offset, lag = line.get("state", ""), line.get("offset", ""), line.get("lag", "")
        missing = written - int(offset) if offset.isdecimal() else 0
        late = lag.isdecimal() and int(lag) > _BEHIND
        if state != "online" or late or missing > _BEHIND_BYTES:
            yield Seen(f"{name}: state {state}, lag {lag} s, {max(missing, 0):,} bytes behind")


@check(
    "warning",
    title="a replica takes writes",
    why="what is written there is on no other server, is gone after the next copy, and is read as "
    "if it were true",
    fix="CONFIG SET replica-read-only yes, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def replica_writable(server: Server) -> Iterator[Seen]:
    if server.config.get("replica-read-only") == "no":
        yield Seen("replica-read-only no")


@check(
    "warning",
    title="a replica that was away has to copy everything anew",
    why="the backlog is what it can catch up from; copying all takes long, costs the primary a "
    "fork, and leaves fewer replicas for a failover meanwhile",
    fix="CONFIG SET repl-backlog-size 64mb, then CONFIG REWRITE",
    needs=("CONFIG GET", "INFO"),
)
def backlog_short(server: Server) -> Iterator[Seen]:
    replicas = server.number("connected_slaves")
    if not (server.is_primary and server.has_state and replicas):
        return
    size = server.size("repl-backlog-size")
    rate = server.rate("instantaneous_output_repl_kbps") * 1024 / replicas
    if size <= _SMALL_BACKLOG or size < rate * _BACKLOG_SECONDS:
        yield Seen(f"repl-backlog-size {size:,}, {rate / 1024:,.0f} kB written a second now")


@family(
    "warning",
    title="a replica runs another version",
    why="after a failover another version serves, with other defaults; an older one may not "
    "understand what a newer one sends it, and Redis cannot read what Valkey writes",
    fix="update the replicas first, then `rtx server failover`, then the former primary",
    needs=("INFO",),
)
def versions_differ(group: Family) -> Iterator[Seen]:
    for replica in group.replicas:
        if replica.version != group.primary.version:
            yield Seen(
                f"{replica.version}; its primary {group.primary.name} {group.primary.version}",
                server=replica.name,
            )


@family(
    "critical",
    title="a replica copies another history",
    why="it does not follow this primary: a failover to it would bring back other data",
    fix="on the replica: REPLICAOF {primary}",
    needs=("INFO",),
)
def histories_differ(group: Family) -> Iterator[Seen]:
    ids = {group.primary.info.get(name) for name in ("master_replid", "master_replid2")}
    for replica in group.replicas:
        own = replica.info.get("master_replid")
        up = replica.info.get("master_link_status") == "up"
        if up and own and own not in ids:
            address = group.primary.address
            where = f"{address.host} {address.port}" if address else group.primary.name
            yield Seen(
                f"master_replid {own[:8]}…, that of {group.primary.name} "
                f"{group.primary.info.get('master_replid', '?')[:8]}…",
                server=replica.name,
                facts={"primary": where},
            )


@family(
    "warning",
    title="a replica is configured otherwise than its primary",
    why="after a failover it serves with these settings: with another limit of memory, or without "
    "a file on disk",
    fix="CONFIG SET {setting} {value} on the replica, then CONFIG REWRITE; keep the conf files "
    "alike",
    needs=("CONFIG GET",),
)
def settings_differ(group: Family) -> Iterator[Seen]:
    wanted = group.primary.config
    for replica in group.replicas:
        other = [name for name in _ALIKE if replica.config.get(name) != wanted.get(name)]
        if other:
            told = ", ".join(
                f"{name} {replica.config.get(name, '?')!r}, primary {wanted.get(name, '?')!r}"
                for name in other
            )
            facts = {"setting": other[0], "value": wanted.get(other[0], "") or '""'}
            yield Seen(told, server=replica.name, facts=facts)


@family(
    "critical",
    title="a replica knows other users than its primary",
    why="replication does not copy users: after a failover programs are refused, or may do what "
    "they should not",
    fix="copy the ACL file to the replica, then ACL LOAD there; see ACL LIST on both",
    needs=("ACL LIST",),
)
def users_differ(group: Family) -> Iterator[Seen]:
    wanted, passwords = group.primary.users, group.primary.passwords
    for replica in group.replicas:
        names = {*wanted, *replica.users}
        rules = {n for n in names if set(wanted.get(n, ())) != set(replica.users.get(n, ()))}
        others = {n for n in names - rules if passwords.get(n) != replica.passwords.get(n)}
        for what, differ in (("rules", rules), ("passwords", others)):
            if differ:
                told = ", ".join(sorted(differ))
                yield Seen(f"other {what} for {told}", server=replica.name)


@family(
    "critical",
    title="a server could not follow another one after a failover",
    why="the others ask for a password and it has none for them: after a failover it cannot copy, "
    "and there is one replica less",
    fix="CONFIG SET masteruser replica, CONFIG SET masterauth PASSWORD, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def cannot_rejoin(group: Family) -> Iterator[Seen]:
    everyone = (group.primary, *group.replicas)
    for server in everyone if group.replicas else ():
        asked = [other for other in everyone if other is not server and not other.open_to_all]
        if asked and server.config.get("masterauth") != SET:
            yield Seen(
                f"masterauth is empty, and {asked[0].name} wants a password", server=server.name
            )


@family(
    "critical",
    title="no replica may be promoted",
    why="a priority of 0 keeps a replica from becoming the primary: without another one there is "
    "no failover at all",
    fix="CONFIG SET replica-priority 100 on a replica, then CONFIG REWRITE",
    needs=("INFO",),
)
def none_may_be_promoted(group: Family) -> Iterator[Seen]:
    priorities = [replica.info.get("slave_priority", "100") for replica in group.replicas]
    if priorities and all(priority == "0" for priority in priorities):
        yield Seen(f"slave_priority 0 of {len(priorities)} replicas")


@family(
    "warning",
    title="the clocks of a primary and its replica differ",
    why="limits and sessions are counted by the server's clock: a failover moves time, and lets "
    "orders pass or holds them back",
    fix="run chrony or systemd-timesyncd on all of the servers' machines",
    needs=("TIME",),
)
def clocks_differ(group: Family) -> Iterator[Seen]:
    for replica in group.replicas:
        apart = abs(replica.skew - group.primary.skew)
        if apart >= _APART:
            yield Seen(f"at least {apart:.2f} s from {group.primary.name}", server=replica.name)


def _primary_of(server: Server) -> str:
    return f"{server.info.get('master_host', '?')}:{server.info.get('master_port', '?')}"
