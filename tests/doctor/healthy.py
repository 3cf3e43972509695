"""Servers, sentinels and a cluster as the doctor sees healthy ones: recorded, and faults put in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rtx import urls
from rtx.monitoring.doctor.findings import Finding
from rtx.monitoring.doctor.groups import Family, Nodes, Sentinel, Service, Setup
from rtx.monitoring.doctor.groups import family as family_checks
from rtx.monitoring.doctor.groups import nodes as nodes_checks
from rtx.monitoring.doctor.groups import service as service_checks
from rtx.monitoring.doctor.groups import setup as setup_checks
from rtx.monitoring.doctor.host import Host
from rtx.monitoring.doctor.server import Node, Server, check
from rtx.settings import Settings
from rtx.topology import Role
from rtx.urls import Address

INFO = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "run_id": "1f3c",
    "tcp_port": "6379",
    "config_file": "/data/server.conf",
    "uptime_in_seconds": "86400",
    "connected_clients": "40",
    "pubsub_clients": "10",
    "maxclients": "10000",
    "rejected_connections": "0",
    "used_memory": "900000000",
    "used_memory_human": "858.31M",
    "maxmemory": "4294967296",
    "total_system_memory": "16000000000",
    "mem_fragmentation_ratio": "1.08",
    "mem_fragmentation_bytes": "72000000",
    "number_of_cached_scripts": "20",
    "client_output_buffer_limit_disconnections": "0",
    "instantaneous_output_kbps": "20000.5",
    "instantaneous_output_repl_kbps": "900.1",
    "acl_access_denied_auth": "0",
    "acl_access_denied_cmd": "0",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "aof_delayed_fsync": "0",
    "role": "master",
    "connected_slaves": "2",
    "min_slaves_good_slaves": "2",
    "slave0": "ip=10.0.0.2,port=6379,state=online,offset=1000,lag=0",
    "slave1": "ip=10.0.0.3,port=6379,state=online,offset=1000,lag=1",
    "master_repl_offset": "1000",
    "master_replid": "aaaaaaaa11",
    "db0": "keys=3,expires=3,avg_ttl=0",
}
OF_A_REPLICA = {
    "role": "slave",
    "connected_slaves": "0",
    "slave0": "",
    "slave1": "",
    "master_host": "10.0.0.1",
    "master_port": "6379",
    "master_link_status": "up",
    "slave_priority": "100",
}
CONFIG = {
    "port": "6379",
    "bind": "10.0.0.1 127.0.0.1",
    "protected-mode": "yes",
    "requirepass": "",
    "masterauth": "(set)",
    "maxmemory": "4294967296",
    "maxmemory-policy": "noeviction",
    "maxclients": "10000",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "no-appendfsync-on-rewrite": "no",
    "save": "900 1",
    "stop-writes-on-bgsave-error": "yes",
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-eviction": "yes",
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 "
    "pubsub 33554432 8388608 60",
    "min-replicas-to-write": "1",
    "replica-read-only": "yes",
    "repl-backlog-size": "67108864",
    "slowlog-log-slower-than": "10000",
    "slowlog-max-len": "128",
    "latency-monitor-threshold": "100",
    "notify-keyspace-events": "",
    "busy-reply-threshold": "5000",
    "tcp-keepalive": "300",
    "timeout": "0",
    "tcp-backlog": "511",
    "cluster-require-full-coverage": "no",
    "cluster-node-timeout": "5000",
    "cluster-allow-reads-when-down": "no",
    "cluster-replica-no-failover": "no",
}
USERS = {"default": ("off", "-@all"), "engine": ("on", "#…", "~*", "+get")}
HOST = Host(huge_pages="never", overcommit=1, backlog=4096, open_files=65536, swapped=0)

STANDALONE = urls.parse("rediss://10.0.0.1")
SENTINELS = urls.parse("rediss+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/trading")
CLUSTER = urls.parse("rediss+cluster://10.0.0.1,10.0.0.2,10.0.0.3")
assert isinstance(SENTINELS, urls.Sentinel)
assert isinstance(CLUSTER, urls.Cluster)


def server(
    info: Mapping[str, str] | None = None, config: Mapping[str, str] | None = None, **facts: Any
) -> Server:
    """A healthy server of all roles, except for these facts."""
    healthy = Server(
        "rediss://10.0.0.1:6379",
        STANDALONE,
        frozenset(Role),
        Address("10.0.0.1"),
        info={**INFO, **(info or {})},
        config={**CONFIG, **(config or {})},
        users=USERS,
        passwords={"default": 0, "engine": 1},
        calls={"get": 1000},
        host=HOST,
    )
    return replace(healthy, **facts)


def replica(number: int = 2, info: Mapping[str, str] | None = None, **facts: Any) -> Server:
    """A healthy replica of it."""
    address = Address(f"10.0.0.{number}")
    return server(
        {"run_id": f"r{number}", **OF_A_REPLICA, **(info or {})},
        **{"url": str(address), "address": address, "alone": False, **facts},
    )


def family(primary: Server | None = None, *replicas: Server) -> Family:
    return Family(primary or server(), replicas or (replica(2), replica(3)))


def sentinel(number: int = 1, **facts: Any) -> Sentinel:
    """A healthy sentinel; `primary` adds to its fields of SENTINEL MASTER."""
    fields = {
        "ip": "10.0.0.1",
        "port": "6379",
        "flags": "master",
        "quorum": "2",
        "num-other-sentinels": "2",
        "down-after-milliseconds": "5000",
    }
    others = [other for other in (1, 2, 3) if other != number]
    return replace(
        Sentinel(
            Address(f"10.0.0.{number}", 26379),
            id=f"id{number}",
            info={"sentinel_tilt": "0", "redis_version": "7.2.4"},
            users={"default": ("on", "#…", "+@all")},
            replicas=tuple(entry(other, 6379, "slave") for other in (2, 3)),
            others=tuple(entry(other, 26379, "sentinel") for other in others),
        ),
        **{**facts, "primary": {**fields, **facts.get("primary", {})}},
    )


def entry(number: int, port: int, flags: str) -> dict[str, str]:
    return {"ip": f"10.0.0.{number}", "port": str(port), "flags": flags}


def service(
    *sentinels: Sentinel,
    servers: tuple[Server, ...] | None = None,
    location: urls.Sentinel = SENTINELS,
) -> Service:
    seen = {one.address: one for one in (sentinel(1), sentinel(2), sentinel(3), *sentinels)}
    return Service(
        location,
        frozenset(Role),
        tuple(seen.values()),
        servers or (server(url="10.0.0.1:6379", alone=False), replica(2), replica(3)),
    )


def node(number: int, **facts: Any) -> Node:
    """Three primaries, 1 to 3, with a replica each, 4 to 6."""
    slots = 16384 // 3 + (number == 1) if number <= 3 else 0
    flags = frozenset({"master"} if slots else {"slave"})
    primary = "" if slots else f"n{number - 3}"
    healthy = Node(f"n{number}", Address(f"10.0.0.{number}"), flags, primary, slots, 0)
    return replace(healthy, **facts)


def nodes(
    *changed: Node, seen_by: int = 6, location: urls.Cluster = CLUSTER, **facts: Any
) -> Nodes:
    """A healthy cluster, but for the nodes that are given, as the first `seen_by` see them."""
    views = []
    for number in range(1, 7):
        given = changed if number <= seen_by else ()
        known = {one.id: one for one in (*map(node, range(1, 7)), *given)}
        own = known[f"n{number}"]
        known[own.id] = replace(own, flags=own.flags | {"myself"})
        views.append(
            server(
                url=str(own.address),
                address=own.address,
                location=CLUSTER,
                alone=False,
                nodes=tuple(known.values()),
                cluster={"cluster_state": "ok", **facts},
            )
        )
    return Nodes(location, tuple(views))


def setup(*servers: Server, **settings: Any) -> Setup:
    return Setup(Settings(**{"url": "rediss://10.0.0.1", **settings}), servers or (server(),))


Subject = Server | Family | Service | Nodes | Setup


def findings(subject: Subject) -> dict[str, Finding]:
    """What the doctor says of it, by check."""
    match subject:
        case Server():
            found = check.findings(subject)
        case Family():
            found = family_checks.findings(subject)
        case Service():
            found = service_checks.findings(subject)
        case Nodes():
            found = nodes_checks.findings(subject)
        case Setup():
            found = setup_checks.findings(subject)
    return {finding.check: finding for finding in found}
