"""Checks of sentinels: whether a failover would happen, once, and be followed by everyone."""

from __future__ import annotations

from collections.abc import Iterator

from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.groups import Service, address_of, crowded, service
from rtx.monitoring.doctor.parsing import flags_of
from rtx.monitoring.doctor.server import is_loopback

_ENOUGH = 3
_TOO_SHORT_MS = 1_000
_TOO_LONG_MS = 30_000
_MASTER = ("SENTINEL MASTER",)


@service(
    "warning",
    title="a sentinel cannot be asked",
    why="with one sentinel less there is no majority for a failover after the next one is lost",
    fix="start it, correct the URL or [sentinel_login], or add the service to its conf file",
)
def sentinel_away(group: Service) -> Iterator[Seen]:
    for one in group.sentinels:
        if one.error:
            yield Seen(one.error, server=str(one.address))


@service(
    "critical",
    title="no sentinel can be asked",
    why="programs that start now do not find the primary, and none would follow a failover",
    fix="start the sentinels, or correct the hosts and the service in the URL",
)
def no_sentinels(group: Service) -> Iterator[Seen]:
    if not group.awake:
        yield Seen(f"{len(group.sentinels)} sentinels asked in vain")


@service(
    "critical",
    title="there would be no failover",
    why="too few sentinels can agree: when the primary dies it stays dead, and orders with it",
    fix="start sentinels until a majority and the quorum of {quorum} are there; SENTINEL CKQUORUM "
    "{service} says OK then; SENTINEL RESET {service} forgets those that are gone for good",
    needs=("SENTINEL CKQUORUM",),
)
def no_quorum(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        if one.quorum:
            facts = {"service": group.location.service, "quorum": one.primary.get("quorum", "?")}
            yield Seen(one.quorum, server=str(one.address), facts=facts)
            return


@service(
    "warning",
    title="too few sentinels",
    why="a failover needs a majority: of two sentinels both, so that a machine that takes one of "
    "them along cannot be replaced",
    fix="run three sentinels or more, an odd number, on machines of their own",
    needs=_MASTER,
)
def few_sentinels(group: Service) -> Iterator[Seen]:
    known = max((one.number("num-other-sentinels") + 1 for one in group.awake), default=0)
    if 0 < known < _ENOUGH:
        yield Seen(f"num-other-sentinels {known - 1}, so {known} in all")


@service(
    "warning",
    title="the quorum is {what}",
    why="with a quorum of 1 a single sentinel that is cut off begins failovers; with all of them "
    "one that is away prevents every failover",
    fix="SENTINEL SET {service} quorum {majority} on each sentinel",
    needs=_MASTER,
)
def odd_quorum(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        known, quorum = one.number("num-other-sentinels") + 1, one.number("quorum")
        if known < _ENOUGH or not (quorum == 1 or quorum >= known):
            continue
        facts = {
            "what": "a single sentinel" if quorum == 1 else "all sentinels",
            "service": group.location.service,
            "majority": str(known // 2 + 1),
        }
        yield Seen(f"quorum {quorum} of {known} sentinels", facts=facts, server=str(one.address))


@service(
    "warning",
    title="a primary is taken for dead too soon",
    why="at 1 s and less a primary that was just promoted can be replaced at once: 3 of 18 planned "
    "failovers were followed by another one, uncoordinated; at 1.5 s none was (measured)",
    fix="SENTINEL SET {service} down-after-milliseconds 1500 (or more) on each sentinel",
    needs=_MASTER,
)
def down_after_short(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        if 0 < one.number("down-after-milliseconds") <= _TOO_SHORT_MS:
            yield Seen(
                f"down-after-milliseconds {one.primary['down-after-milliseconds']}",
                facts={"service": group.location.service},
                server=str(one.address),
            )


@service(
    "warning",
    title="a dead primary is noticed late",
    why="for this long, and a second or two more, no order passes",
    fix="SENTINEL SET {service} down-after-milliseconds 5000 on each sentinel",
    needs=_MASTER,
)
def down_after_long(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        if one.number("down-after-milliseconds") >= _TOO_LONG_MS:
            yield Seen(
                f"down-after-milliseconds {one.primary['down-after-milliseconds']}",
                facts={"service": group.location.service},
                server=str(one.address),
            )


@service(
    "critical",
    title="sentinels name different primaries",
    why="programs write to different servers, and the writes to one of them will be thrown away",
    fix="wait ten seconds and look again; then SENTINEL REMOVE {service} on whoever is wrong, and "
    "SENTINEL MONITOR {service} HOST PORT QUORUM there",
    needs=_MASTER,
)
def sentinels_disagree(group: Service) -> Iterator[Seen]:
    said = {str(one.named): str(one.address) for one in group.awake if one.named}
    if len(said) > 1:
        told = "; ".join(f"{who} says {named}" for named, who in said.items())
        yield Seen(told, facts={"service": group.location.service})


@service(
    "critical",
    title="what the sentinels call the primary is none",
    why="programs find no server that takes writes, or several that do: what one of them takes "
    "will be thrown away",
    fix="wait for the failover to end and look again; then REPLICAOF {primary} on whoever is none",
    needs=_MASTER,
)
def wrong_primary(group: Service) -> Iterator[Seen]:
    named = {str(one.named) for one in group.awake if one.named}
    awake = [server for server in group.servers if server.part]
    wrong = [server for server in awake if server.name in named and not server.is_primary]
    also = [server for server in awake if server.name not in named and server.is_primary]
    facts = {"primary": next(iter(named)).replace(":", " ")} if len(named) == 1 else {}
    for server in wrong:
        yield Seen(f"ROLE of {server.name} is {server.part}", facts=facts, server=server.name)
    for server in also:
        yield Seen(
            f"{server.name} calls itself the primary, the sentinels name {', '.join(named)}",
            facts=facts,
            server=server.name,
        )


@service(
    "critical",
    title="addresses of this machine only are given to others",
    why="programs on other machines are told to connect to themselves, and find nothing after "
    "the next failover",
    fix="sentinel monitor with an address that all machines reach; replica-announce-ip and "
    "sentinel announce-ip where that differs from what they bind",
    needs=_MASTER,
)
def loopback_announced(group: Service) -> Iterator[Seen]:
    if all(is_loopback(address.host) for address in group.location.sentinels):
        return
    for one in group.awake:
        given = [one.named, *(address_of(fields) for fields in (*one.replicas, *one.others))]
        if found := [str(address) for address in given if address and is_loopback(address.host)]:
            yield Seen(f"it names {', '.join(found[:3])}", server=str(one.address))


@service(
    "warning",
    title="servers or sentinels that are gone are still counted",
    why="a majority is of all sentinels that are known, and a replica that is gone hides that "
    "there is one less",
    fix="bring it back; if it is gone for good, SENTINEL RESET {service} on one sentinel after "
    "the other, half a minute apart",
    needs=("SENTINEL REPLICAS", "SENTINEL SENTINELS"),
)
def gone_but_counted(group: Service) -> Iterator[Seen]:
    gone: dict[str, str] = {}
    for one in group.awake:
        for kind, entries in (("replica", one.replicas), ("sentinel", one.others)):
            for fields in entries:
                flags = flags_of(fields) & {"s_down", "o_down"}
                if flags:
                    gone[f"{kind} {address_of(fields)}"] = ", ".join(sorted(flags))
    if gone:
        told = "; ".join(f"{name}: {flags}" for name, flags in gone.items())
        yield Seen(told, facts={"service": group.location.service})


@service(
    "warning",
    title="a failover is going on",
    why="writes wait or fail until it ends, and what else is found may be of the moment",
    fix="look again in ten seconds; one that does not end has its reason in the sentinels' logs",
    needs=_MASTER,
)
def failover_going_on(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        flags = flags_of(one.primary) & {"failover_in_progress", "o_down", "s_down"}
        if flags:
            yield Seen(f"flags {', '.join(sorted(flags))}", server=str(one.address))
            return


@service(
    "warning",
    title="a sentinel does not trust its own clock",
    why="while it is in tilt it takes part in no failover",
    fix="see what held its machine up or moved its clock: processor, swap, virtual machine; it "
    "ends 30 s after the last jump",
    needs=("INFO",),
)
def sentinel_in_tilt(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        if one.info.get("sentinel_tilt", "0") != "0":
            yield Seen(f"sentinel_tilt {one.info['sentinel_tilt']}", server=str(one.address))


@service(
    "warning",
    title="several of them share one machine",
    why="when that machine goes, the primary goes together with its replica, or with the sentinels "
    "that should replace it",
    fix="one server and one sentinel on each machine, three machines or more",
    needs=_MASTER,
)
def one_machine(group: Service) -> Iterator[Seen]:
    servers = [server.address for server in group.servers if server.address]
    for kind, addresses in (
        ("servers", servers),
        ("sentinels", [one.address for one in group.sentinels]),
    ):
        if host := crowded(addresses):
            yield Seen(f"several {kind} at {host}")


@service(
    "warning",
    title="a sentinel needs no password",
    why="whoever reaches its port can point every program at a server of their own",
    fix="requirepass in each sentinel's conf file (the same one, they ask each other with it), and "
    "[sentinel_login] in the settings",
    needs=("ACL LIST",),
)
def sentinel_open(group: Service) -> Iterator[Seen]:
    for one in group.awake:
        rules = one.users.get("default", ())
        if {"on", "nopass"} <= set(rules) and not is_loopback(one.address.host):
            yield Seen(f"user default {' '.join(rules)}", server=str(one.address))


@service(
    "info",
    title="the URL names fewer sentinels than there are",
    why="a program that starts while these are away does not find the primary, though the others "
    "know it",
    fix="name all of them in the URL: {all}",
    needs=_MASTER,
)
def sentinels_not_named(group: Service) -> Iterator[Seen]:
    named, known = len(group.location.sentinels), len(group.sentinels)
    if named < _ENOUGH and known > named:
        hosts = ",".join(str(one.address) for one in group.sentinels)
        yield Seen(f"{named} of {known} named", facts={"all": hosts})
