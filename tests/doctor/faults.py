"""A planted fault for every check: its name, its severity, who has it, and what is to be told."""

from __future__ import annotations

from dataclasses import replace

from rtx import urls
from rtx.monitoring.doctor.sample import Key, Sample
from rtx.monitoring.doctor.server import Server, Slow
from rtx.topology import Role
from rtx.urls import Address
from tests.doctor.healthy import (
    CLUSTER,
    HOST,
    SENTINELS,
    USERS,
    Subject,
    entry,
    family,
    node,
    nodes,
    replica,
    sentinel,
    server,
    service,
    setup,
)

CACHE = frozenset({Role.CACHE})
NO_PASSWORD = {**USERS, "default": ("on", "nopass", "~*", "+@all")}


def keys(*several: Key) -> Server:
    return server(sample=Sample(several, ((0, 1000),)))


def in_cluster(config: dict[str, str]) -> Server:
    return server(config=config, location=CLUSTER, alone=False)


def other_view() -> Subject:
    return nodes(node(1, slots=5463), node(2, slots=5460), seen_by=3)


FAULTS: list[tuple[str, str, Subject, str]] = [
    # access
    ("unreachable", "critical", server(error="no answer"), "no answer"),
    ("login-refused", "critical", server(error="WRONGPASS", denied=True), "WRONGPASS"),
    ("no-password", "warning", server(users=NO_PASSWORD), "protected-mode yes"),
    (
        "no-password",
        "critical",
        server(config={"protected-mode": "no"}, users=NO_PASSWORD),
        "nopass",
    ),
    (
        "user-without-password",
        "critical",
        server(users={**USERS, "guest": ("on", "nopass", "+get")}),
        "user guest",
    ),
    ("protected-mode-off", "info", server(config={"protected-mode": "no"}), "protected-mode no"),
    (
        "default-user-may-do-all",
        "warning",
        server(users={"default": ("on", "#…", "~*", "+@all")}),
        "+@all",
    ),
    (
        "traffic-in-the-clear",
        "warning",
        server(location=urls.parse("redis://10.0.0.1")),
        "not rediss",
    ),
    ("certificate-ends-soon", "warning", server(certificate_left=29 * 86_400.0), "29.0 days"),
    ("certificate-ends-soon", "critical", server(certificate_left=6 * 86_400.0), "6.0 days"),
    (
        "socket-open-to-all",
        "warning",
        server(config={"unixsocket": "/run/s.sock", "unixsocketperm": "777"}, users=NO_PASSWORD),
        "777",
    ),
    ("access-denied", "info", server({"acl_access_denied_auth": "7"}), "auth 7"),
    # memory
    (
        "state-can-be-evicted",
        "critical",
        server(config={"maxmemory-policy": "allkeys-lru"}),
        "allkeys-lru",
    ),
    ("memory-without-bound", "warning", server(config={"maxmemory": "0"}), "maxmemory 0"),
    (
        "memory-beyond-machine",
        "critical",
        server(config={"maxmemory": "17179869184"}),
        "total_system_memory",
    ),
    (
        "memory-beyond-machine",
        "warning",
        server(config={"maxmemory": "15500000000"}),
        "total_system_memory",
    ),
    ("cache-refuses-when-full", "warning", server(roles=CACHE), "noeviction"),
    ("memory-nearly-full", "warning", server({"used_memory": "4000000000"}), "93%"),
    (
        "memory-fragmented",
        "warning",
        server({"mem_fragmentation_ratio": "1.9", "mem_fragmentation_bytes": "900000000"}),
        "1.9",
    ),
    (
        "freed-in-the-way",
        "warning",
        server(config={"lazyfree-lazy-expire": "no"}),
        "lazyfree-lazy-expire no",
    ),
    (
        "subscriber-unbounded",
        "warning",
        server(config={"client-output-buffer-limit": "pubsub 0 0 0"}),
        "pubsub 0 0 0",
    ),
    (
        "subscriber-cut-off-early",
        "warning",
        server(config={"client-output-buffer-limit": "pubsub 1048576 0 0"}),
        "1048576",
    ),
    # 32 MB are 1.6 s of what each of ten subscribers is sent
    (
        "subscriber-cut-off-early",
        "warning",
        server({"instantaneous_output_kbps": "200000"}),
        "20,000 kB/s",
    ),
    (
        "clients-cut-off",
        "warning",
        server({"client_output_buffer_limit_disconnections": "3"}),
        "3 since",
    ),
    (
        "replica-cut-off-early",
        "warning",
        server(config={"client-output-buffer-limit": "slave 1048576 0 0"}),
        "1048576",
    ),
    # durability
    (
        "state-not-persisted",
        "critical",
        server(config={"appendonly": "no", "save": ""}),
        "appendonly no",
    ),
    (
        "scripts-lost-at-restart",
        "critical",
        server({"valkey_version": "8.1.4"}),
        "user default off -@all",
    ),
    ("state-only-in-snapshots", "warning", server(config={"appendonly": "no"}), "900 1"),
    ("sync-left-to-the-system", "warning", server(config={"appendfsync": "no"}), "appendfsync no"),
    ("sync-at-every-write", "info", server(config={"appendfsync": "always"}), "always"),
    (
        "no-sync-while-rewriting",
        "warning",
        server(config={"no-appendfsync-on-rewrite": "yes"}),
        "yes",
    ),
    ("saving-fails", "critical", server({"aof_last_write_status": "err"}), "err"),
    ("saving-fails", "critical", server({"rdb_last_bgsave_status": "err"}), "rdb"),
    (
        "failed-snapshots-ignored",
        "warning",
        server(config={"stop-writes-on-bgsave-error": "no"}),
        "900 1",
    ),
    ("disk-too-slow", "warning", server({"aof_delayed_fsync": "500"}), "500 in 24.0 h"),
    ("cache-persisted", "info", server(roles=CACHE), "appendonly yes"),
    ("no-conf-file", "info", server({"config_file": ""}), "empty"),
    # replication, one server
    ("is-a-replica", "critical", replica(alone=True), "slave of 10.0.0.1:6379"),
    ("no-replica", "warning", server({"connected_slaves": "0"}), "connected_slaves 0"),
    (
        "writes-without-replicas",
        "warning",
        server(config={"min-replicas-to-write": "0"}),
        "min-replicas-to-write 0",
    ),
    (
        "no-replica-to-spare",
        "warning",
        server({"min_slaves_good_slaves": "1"}),
        "good replicas 1",
    ),
    (
        "no-replica-to-spare",
        "critical",
        server({"min_slaves_good_slaves": "0"}),
        "good replicas 0",
    ),
    ("link-down", "critical", replica(info={"master_link_status": "down"}), "10.0.0.1:6379"),
    (
        "replica-lags",
        "warning",
        server({"slave1": "ip=10.0.0.3,port=6379,state=online,offset=990,lag=9"}),
        "10.0.0.3:6379: state online, lag 9 s, 10 bytes",
    ),
    (
        "replica-lags",
        "warning",
        server({"slave1": "ip=h,port=1,state=wait_bgsave,offset=0,lag=0"}),
        "wait_bgsave",
    ),
    ("replica-lags", "warning", server({"master_repl_offset": "99000000"}), "98,999,000 bytes"),
    ("replica-writable", "warning", replica(config={"replica-read-only": "no"}), "no"),
    ("backlog-short", "warning", server(config={"repl-backlog-size": "1048576"}), "1,048,576"),
    ("backlog-short", "warning", server({"instantaneous_output_repl_kbps": "9e3"}), "kB written"),
    # clients
    ("connections-refused", "warning", server({"rejected_connections": "5"}), "5, maxclients"),
    ("connections-nearly-full", "warning", server({"connected_clients": "9100"}), "9,100 of"),
    ("keepalive-off", "warning", server(config={"tcp-keepalive": "0"}), "tcp-keepalive 0"),
    ("idle-clients-cut-off", "warning", server(config={"timeout": "30"}), "timeout 30"),
    # time
    ("slowlog-off", "warning", server(config={"slowlog-log-slower-than": "-1"}), "-1"),
    ("slowlog-off", "warning", server(config={"slowlog-max-len": "0"}), "slowlog-max-len 0"),
    ("slow-commands", "warning", server(slow=(Slow("KEYS", 340.0, 90.0),)), "KEYS 340 ms, 90 s"),
    ("latency-monitor-off", "info", server(config={"latency-monitor-threshold": "0"}), "0"),
    ("stood-still", "warning", server(events=(Slow("fork", 512.0, 600.0),)), "fork 512 ms, 10 min"),
    ("clock-off", "warning", server(skew=-0.4), "0.40 s behind"),
    ("clock-off", "critical", server(skew=3.0), "3.00 s ahead"),
    ("walkers", "warning", server(calls={"keys": 3, "debug|sleep": 1}), "KEYS 3, DEBUG 1"),
    ("scripts-without-end", "warning", server(config={"busy-reply-threshold": "0"}), "threshold 0"),
    (
        "scripts-without-end",
        "warning",
        server(config={"busy-reply-threshold": "60000"}),
        "60000",
    ),
    ("too-many-scripts", "warning", server({"number_of_cached_scripts": "4000"}), "4,000"),
    ("key-events", "warning", server(config={"notify-keyspace-events": "AKE"}), "AKE"),
    # contents
    ("keys-without-ttl", "warning", keys(Key(0, "price:EURUSD", 90, False)), "price:EURUSD"),
    ("foreign-keys", "info", keys(Key(0, "celery", 90, False)), "celery in database 0"),
    (
        "several-namespaces",
        "info",
        keys(Key(0, "price:A", 90, True), Key(0, "staging:price:A", 90, True)),
        "(none), staging",
    ),
    ("big-keys", "warning", keys(Key(1, "{executions:1}:log", 9 << 20, True)), "9 MB"),
    ("other-databases", "info", server({"db7": "keys=4,expires=0"}), "database 7: 4 keys"),
    # the machine
    ("huge-pages", "warning", server(host=replace(HOST, huge_pages="always")), "[always]"),
    ("fork-may-fail", "warning", server(host=replace(HOST, overcommit=0)), "overcommit_memory 0"),
    ("backlog-shortened", "info", server(host=replace(HOST, backlog=128)), "somaxconn 128"),
    ("too-few-files", "warning", server(host=replace(HOST, open_files=1024)), "open files 1,024"),
    ("swapped-out", "critical", server(host=replace(HOST, swapped=90 << 20)), "90 MB"),
    # versions
    ("known-hole", "warning", server({"valkey_version": "9.0.2"}), "CVE-2026-27623"),
    ("known-hole", "critical", server({"valkey_version": "8.1.3"}), "CVE-2025-49844"),
    # a primary and its replicas
    (
        "versions-differ",
        "warning",
        family(None, replica(info={"valkey_version": "9.1.1"})),
        "Valkey 9.1.1",
    ),
    (
        "histories-differ",
        "critical",
        family(None, replica(info={"master_replid": "bbbbbbbb22"})),
        "bbbbbbbb",
    ),
    (
        "settings-differ",
        "warning",
        family(None, replica(config={"appendonly": "no"})),
        "appendonly 'no', primary 'yes'",
    ),
    (
        "users-differ",
        "critical",
        family(None, replica(users={"default": USERS["default"]})),
        "rules for engine",
    ),
    (
        "users-differ",
        "critical",
        family(None, replica(passwords={"default": 0, "engine": 2})),
        "passwords for engine",
    ),
    ("cannot-rejoin", "critical", family(server(config={"masterauth": ""})), "masterauth"),
    (
        "none-may-be-promoted",
        "critical",
        family(None, replica(info={"slave_priority": "0"})),
        "slave_priority 0",
    ),
    ("clocks-differ", "warning", family(None, replica(skew=0.6)), "0.60 s"),
    # sentinels
    ("sentinel-away", "warning", service(sentinel(3, error="no answer")), "no answer"),
    (
        "no-sentinels",
        "critical",
        service(*(sentinel(n, error="no") for n in (1, 2, 3))),
        "3 sentinels",
    ),
    ("no-quorum", "critical", service(sentinel(2, quorum="NOQUORUM 1 usable")), "NOQUORUM"),
    (
        "few-sentinels",
        "warning",
        service(*(sentinel(n, primary={"num-other-sentinels": "1"}) for n in (1, 2, 3))),
        "2 in all",
    ),
    ("odd-quorum", "warning", service(sentinel(2, primary={"quorum": "1"})), "quorum 1 of 3"),
    ("odd-quorum", "warning", service(sentinel(2, primary={"quorum": "3"})), "quorum 3 of 3"),
    (
        "down-after-short",
        "warning",
        service(sentinel(1, primary={"down-after-milliseconds": "1000"})),
        "1000",
    ),
    (
        "down-after-long",
        "warning",
        service(sentinel(1, primary={"down-after-milliseconds": "30000"})),
        "30000",
    ),
    (
        "sentinels-disagree",
        "critical",
        service(sentinel(3, primary={"ip": "10.0.0.2"})),
        "10.0.0.3:26379 says 10.0.0.2:6379",
    ),
    (
        "wrong-primary",
        "critical",
        service(servers=(replica(1), server(url="10.0.0.2:6379"))),
        "10.0.0.2:6379 calls itself",
    ),
    (
        "loopback-announced",
        "critical",
        service(sentinel(2, primary={"ip": "127.0.0.1"})),
        "127.0.0.1:6379",
    ),
    (
        "gone-but-counted",
        "warning",
        service(sentinel(1, others=(entry(9, 26379, "sentinel,s_down"),))),
        "10.0.0.9:26379",
    ),
    (
        "failover-going-on",
        "warning",
        service(sentinel(1, primary={"flags": "master,o_down"})),
        "o_down",
    ),
    (
        "sentinel-in-tilt",
        "warning",
        service(sentinel(1, info={"sentinel_tilt": "1"})),
        "sentinel_tilt 1",
    ),
    (
        "one-machine",
        "warning",
        service(servers=(server(url="a"), replica(2, address=Address("10.0.0.1", 6380)))),
        "servers at 10.0.0.1",
    ),
    (
        "sentinel-open",
        "warning",
        service(sentinel(1, users={"default": ("on", "nopass", "+@all")})),
        "nopass",
    ),
    (
        "sentinels-not-named",
        "info",
        service(location=replace(SENTINELS, sentinels=SENTINELS.sentinels[:1])),
        "1 of 3",
    ),
    # a cluster
    ("cluster-down", "critical", nodes(cluster_state="fail"), "cluster_state fail"),
    ("slots-uncovered", "critical", nodes(node(2, slots=5460)), "1 of 16,384"),
    (
        "nodes-failing",
        "critical",
        nodes(node(2, flags=frozenset({"master", "fail?"}))),
        "10.0.0.2:6379 (fail?",
    ),
    (
        "nodes-failing",
        "warning",
        nodes(node(5, flags=frozenset({"slave", "fail"}))),
        "10.0.0.5:6379 (fail",
    ),
    ("nodes-disagree", "critical", other_view(), "2 different views"),
    ("slots-moving", "warning", nodes(node(1, moving=2)), "2 slots"),
    (
        "few-primaries",
        "critical",
        nodes(node(1, slots=16384), node(2, slots=0), node(3, slots=0)),
        "1 primaries",
    ),
    (
        "nodes-on-one-machine",
        "warning",
        nodes(node(5, address=Address("10.0.0.2", 6380))),
        "nodes at 10.0.0.2",
    ),
    (
        "loopback-in-cluster",
        "critical",
        nodes(node(2, address=Address("127.0.0.1", 6379))),
        "127.0.0.1:6379",
    ),
    (
        "full-coverage-required",
        "info",
        in_cluster({"cluster-require-full-coverage": "yes"}),
        "yes",
    ),
    ("node-timeout", "warning", in_cluster({"cluster-node-timeout": "500"}), "500"),
    ("node-timeout", "warning", in_cluster({"cluster-node-timeout": "60000"}), "60000"),
    (
        "reads-while-down",
        "warning",
        in_cluster({"cluster-allow-reads-when-down": "yes"}),
        "yes",
    ),
    (
        "failover-forbidden",
        "warning",
        in_cluster({"cluster-replica-no-failover": "yes"}),
        "yes",
    ),
    # the settings
    ("pool-too-large", "warning", setup(pool={"size": 2000}), "6000 of maxclients 10000"),
    ("password-in-url", "info", setup(limits_url="rediss://u:s3cret@10.0.0.1"), "limits_url"),
    ("certificates-unverified", "warning", setup(tls={"verify": False}), "tls.verify is off"),
    ("gateway-open", "critical", setup(gateway={"auth": "open", "host": "0.0.0.0"}), "0.0.0.0"),
    (
        "orders-unlimited",
        "warning",
        setup(limits={"orders": {"limit": 10, "per": 1.0, "when_down": "open"}}),
        '"open"',
    ),
    (
        "one-entry",
        "info",
        setup(server(location=urls.parse("redis+cluster://10.0.0.1"))),
        "10.0.0.1:6379",
    ),
]
