"""A planned failover by sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from rtx import urls
from rtx.errors import ConnectFailed, RtxError, ServerError, Unavailable
from rtx.topology.base import Manner
from rtx.topology.handover import (
    LOOK_EVERY,
    Handover,
    WriteProbe,
    connected,
    nothing_begun,
    unfinished,
)
from rtx.topology.sentinel_words import replicas_of, word_of
from rtx.topology.standing import Standing, standing_of
from rtx.urls import Address
from rtx.wire.connection import Connection
from rtx.wire.replies import Reply

_SENTINEL_TIMEOUT = 1.0
_WITHOUT_COORDINATION = (
    "these sentinels or servers know no coordinated failover (Valkey 9 does): writes that the old "
    "primary acknowledges until its clients have left it may be lost"
)


async def hand_over_by_sentinels(
    location: urls.Sentinel,
    manner: Manner,
    key: str,
    *,
    within: float,
    warn: Callable[[str], None],
) -> Handover:
    """Have the sentinels replace the primary of a service, and wait until all of them name the new.

    Coordinated where they know that: the primary then holds writes up until its replica has them
    all. Where they do not, `warn` is told that writes may be lost. `key` is one that does not
    exist, and that the user may delete; `within` is in seconds, from the beginning to the end.

    Raises `Unavailable` kinds, with `maybe_applied` where the failover was begun but its end was
    not seen, and `ServerError` kinds where it is refused: `NOGOODSLAVE`, `NOQUORUM`, `INPROG`.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + within
    options = manner.options(manner.sentinel_credentials, tls=location.tls)
    options = replace(options, connect_timeout=_SENTINEL_TIMEOUT, read_timeout=_SENTINEL_TIMEOUT)
    async with connected(location.sentinels, options) as (sentinels, errors):
        if not sentinels:
            said = "; ".join(map(str, errors.values()))
            raise ConnectFailed(f"no sentinel answers ({said}); see that they run, and the URL")
        for address, error in errors.items():
            warn(f"sentinel {address} is not asked: {error}")
        leader = next(iter(sentinels.values()))
        with nothing_begun():
            old = await _agreed(sentinels, location.service)
            known = await leader.call("SENTINEL", "REPLICAS", location.service)
            _check_replicas(await _ask_primary(old, location, manner), known, old)
            await _check_quorum(leader, location.service)
        probe = WriteProbe((old, *replicas_of(known)), key)
        data = manner.options(location.credentials, db=location.db or 0, tls=location.tls)
        async with probe.running(data):
            lossless = await _begin(leader, location.service, warn)
            new = await _ended(sentinels, leader, location.service, old, probe, give_up, within)
        return Handover(old, new, probe.held_up(old, new), lossless)


async def _agreed(sentinels: dict[Address, Connection], service: str) -> Address:
    """The primary that all sentinels name."""
    named = {address: await _named(one, service) for address, one in sentinels.items()}
    primaries = {primary for primary, _ in named.values()}
    if len(primaries) > 1:
        said = ", ".join(f"{sentinel}: {primary}" for sentinel, (primary, _) in named.items())
        raise Unavailable(f"the sentinels name different primaries ({said}); wait until they agree")
    if any(leading for _, leading in named.values()):
        raise ServerError(f"a failover of {service!r} is under way; wait until it ends", "INPROG")
    return primaries.pop()


async def _named(sentinel: Connection, service: str) -> tuple[Address, bool]:
    """The primary that a sentinel names, and whether it leads a failover."""
    questions = ("MASTER", "GET-MASTER-ADDR-BY-NAME")
    state, address = await sentinel.batch([("SENTINEL", each, service) for each in questions])
    word = word_of(state, address)
    if word is None or not isinstance(state, dict):
        error = state if isinstance(state, ServerError) else ServerError("it gives none")
        raise ServerError(
            f"sentinel {sentinel.address} does not name the primary of {service!r}: {error}; see "
            "the end of the URL, and `sentinel monitor` in its configuration",
            error.prefix,
        )
    flags = state.get(b"flags")
    return word.address, isinstance(flags, bytes) and b"failover_in_progress" in flags


async def _ask_primary(primary: Address, location: urls.Sentinel, manner: Manner) -> Standing:
    """What the primary says of itself; refuses where it is away or denies being one."""
    try:
        options = manner.options(location.credentials, tls=location.tls)
        connection = await Connection.dial(primary, options)
        try:
            standing = standing_of(await connection.call("ROLE"))
        finally:
            await connection.close()
    except Unavailable as error:
        raise Unavailable(
            f"the primary {primary} does not answer ({error}); a planned failover needs it, and "
            "without it the sentinels begin one by themselves"
        ) from None
    if not standing.is_primary:
        raise Unavailable(
            f"{primary}, which the sentinels call the primary, says that it is none "
            f"({standing.role}); wait until they have set it right"
        )
    return standing


def _check_replicas(standing: Standing, known: Reply, primary: Address) -> None:
    """Refuse where no replica is in sync, or the sentinels could choose one that is not."""
    if not standing.replicas:
        raise ServerError(
            f"no replica is in sync with the primary {primary}; start one, or see why the links "
            "of its replicas are down (INFO replication)",
            "NOGOODSLAVE",
        )
    astray = [str(one) for one in replicas_of(known, eligible=True) if not standing.lists(one)]
    if astray:
        raise ServerError(
            f"{', '.join(astray)} could be chosen, but is not in sync with the primary {primary}; "
            "wait until it is (INFO replication), or give it the replica-priority 0",
            "NOGOODSLAVE",
        )


async def _check_quorum(sentinel: Connection, service: str) -> None:
    try:
        await sentinel.call("SENTINEL", "CKQUORUM", service)
    except ServerError as error:
        raise ServerError(
            f"too few sentinels are there to fail over {service!r}: {error}; start those that are "
            "missing (SENTINEL SENTINELS names them)",
            "NOQUORUM",
        ) from None


async def _begin(sentinel: Connection, service: str, warn: Callable[[str], None]) -> bool:
    """Ask for the failover; whether it is a coordinated one."""
    try:
        try:
            await sentinel.call("SENTINEL", "FAILOVER", service, "COORDINATED")
        except ServerError as error:
            unknown = "wrong number of arguments" in str(error)
            if not unknown and error.prefix != "NOGOODPRIMARY":
                raise
            warn(_WITHOUT_COORDINATION)
            await sentinel.call("SENTINEL", "FAILOVER", service)
            return False
    except ServerError as error:
        raise _refused(error, service) from None
    return True


def _refused(error: ServerError, service: str) -> ServerError:
    remedies = {
        "NOGOODSLAVE": "see flags, master-link-status and slave-priority in SENTINEL REPLICAS",
        "INPROG": "wait until it has ended, which SENTINEL MASTER shows",
    }
    remedy = remedies.get(error.prefix, "see the sentinel's log")
    return ServerError(
        f"the sentinels refuse to fail over {service!r}: {error}; {remedy}", error.prefix
    )


async def _ended(
    sentinels: dict[Address, Connection],
    leader: Connection,
    service: str,
    old: Address,
    probe: WriteProbe,
    give_up: float,
    within: float,
) -> Address:
    """The new primary, once it says that it is one and all sentinels name it."""
    loop = asyncio.get_running_loop()
    said = "no replica became the primary"
    while loop.time() < give_up:
        await asyncio.sleep(LOOK_EVERY)
        try:
            named = {address: await _named(one, service) for address, one in sentinels.items()}
        except RtxError as error:
            said = f"a sentinel ceased to answer ({error})"
            continue
        new, leading = named[leader.address]
        if new == old:
            if not leading:
                raise Unavailable(
                    f"the sentinels gave the failover of {service!r} up, and nothing has changed; "
                    "their logs say why (-failover-abort)"
                )
            continue
        late = [str(sentinel) for sentinel, (primary, _) in named.items() if primary != new]
        if not late and new in probe.primaries:
            return new
        said = (
            f"the sentinels name {new}, but {', '.join(late)} did not"
            if late
            else f"the sentinels name {new}, but it did not say that it is the primary"
        )
    raise unfinished(said, within)
