"""Replies of servers and sentinels as facts; what cannot be understood is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rtx.monitoring.doctor.server import Node, Slow
from rtx.urls import Address
from rtx.wire import Reply

_SECRETS = (
    "requirepass",
    "masterauth",
    "primaryauth",
    "tls-key-file-pass",
    "tls-client-key-file-pass",
)
SET = "(set)"
"""What a secret that is set reads like."""


def lines_of(reply: Reply) -> dict[str, str]:
    """INFO and CLUSTER INFO: the lines `name:value`."""
    pairs = (line.partition(":") for line in text(reply).splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def calls_of(reply: Reply) -> dict[str, int]:
    """INFO commandstats: how often each command was called, by its name in lower case."""
    found = {}
    for name, value in lines_of(reply).items():
        calls = dict(item.partition("=")[::2] for item in value.split(",")).get("calls", "")
        if name.startswith("cmdstat_") and calls.isdecimal():
            found[name.removeprefix("cmdstat_")] = int(calls)
    return found


def fields_of(reply: Reply) -> dict[str, str]:
    """Names and values, as RESP3 has them (a map) or as RESP2 (in turn)."""
    match reply:
        case dict():
            return {text(name): text(value) for name, value in reply.items()}
        case list():
            return {text(n): text(v) for n, v in zip(reply[::2], reply[1::2], strict=False)}
    return {}


def config_of(reply: Reply) -> dict[str, str]:
    """CONFIG GET *; of a secret only whether it is set."""
    found = fields_of(reply)
    return {**found, **{name: SET for name in _SECRETS if found.get(name)}}


def users_of(reply: Reply) -> dict[str, tuple[str, ...]]:
    """ACL LIST: the rules of each user, such as `on`, `nopass` and `+@all`, without hashes."""
    return {
        name: tuple("#…" if rule.startswith("#") else rule for rule in rules)
        for name, rules in _rules_of(reply)
    }


def passwords_of(reply: Reply) -> dict[str, int]:
    """A number for the passwords of each user: the same for the same ones, in this process only."""
    return {
        name: hash(frozenset(rule for rule in rules if rule.startswith("#")))
        for name, rules in _rules_of(reply)
    }


def _rules_of(reply: Reply) -> Iterator[tuple[str, list[str]]]:
    for line in reply if isinstance(reply, list) else ():
        match text(line).replace("(", "( ").replace(")", " )").split():
            case ["user", name, *rules]:
                yield name, rules


def clock_of(reply: Reply, asked: float, answered: float) -> tuple[float, float]:
    """The server's time in seconds, and by how much it is off ours at the least.

    It read its clock at some moment between `asked` and `answered`; nothing more is known.
    """
    match reply:
        case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
            clock = int(seconds) + int(micros) / 1e6
            return clock, clock - min(max(clock, asked), answered)
    return answered, 0.0


def slow_of(reply: Reply, clock: float) -> tuple[Slow, ...]:
    """SLOWLOG GET, the slowest first. Of a command only its name is kept: the rest is private."""
    found = []
    for entry in reply if isinstance(reply, list) else ():
        match entry:
            case [int(), int(when), int(micros), [bytes(command), *_], *_]:
                name = command.decode("utf-8", "replace").upper()
                found.append(Slow(name, micros / 1000, clock - when))
    return tuple(sorted(found, key=lambda one: -one.ms))


def events_of(reply: Reply, clock: float) -> tuple[Slow, ...]:
    """LATENCY LATEST: the latest spike of each event, the longest first."""
    found = []
    for entry in reply if isinstance(reply, list) else ():
        match entry:
            case [bytes(event), int(when), int(latest), *_]:
                found.append(Slow(event.decode("utf-8", "replace"), float(latest), clock - when))
    return tuple(sorted(found, key=lambda one: -one.ms))


def nodes_of(reply: Reply, asked: Address | None, *, by_name: bool = False) -> tuple[Node, ...]:
    """CLUSTER NODES; the node that was asked may not know its own host.

    `by_name` takes the names that nodes announce, where they do, in place of their addresses.
    """
    found = []
    for line in text(reply).splitlines():
        words = line.split()
        if len(words) < 8:
            continue
        flags = frozenset(words[2].split(","))
        place, _, more = words[1].partition("@")
        host, _, port = place.rpartition(":")
        if by_name and (announced := more.split(",")[1:2]):
            host = announced[0] or host
        if "myself" in flags and not host and asked is not None:
            host = asked.host
        if not port.isdecimal():
            continue
        ranges = [word for word in words[8:] if not word.startswith("[")]
        found.append(
            Node(
                id=words[0],
                address=Address(host, int(port)),
                flags=flags,
                primary="" if words[3] == "-" else words[3],
                slots=sum(map(_slots, ranges)),
                moving=len(words[8:]) - len(ranges),
            )
        )
    return tuple(found)


def _slots(word: str) -> int:
    first, _, last = word.partition("-")
    if not first.isdecimal():
        return 0
    return int(last) - int(first) + 1 if last.isdecimal() else 1


def flags_of(fields: Mapping[str, str]) -> frozenset[str]:
    """The flags in an entry of a sentinel."""
    return frozenset(fields.get("flags", "").split(","))


def text(value: Reply) -> str:
    """A reply as text; nothing for a null."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)
