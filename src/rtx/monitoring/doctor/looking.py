"""Looking at one server: a few questions over one connection, within a time, changing nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

from rtx import urls
from rtx.errors import AccessDenied, RtxError, ServerError
from rtx.monitoring.doctor import parsing, sample
from rtx.monitoring.doctor.host import Host
from rtx.monitoring.doctor.server import Server, is_near
from rtx.wire import Connection, Reply

DEADLINE = 5.0
"""Seconds for all questions to one server."""

ANSWER_WITHIN = 2.0
"""Seconds in which a server has to take a connection, and to answer."""

Dial: TypeAlias = "Callable[[], Awaitable[Connection]]"
HostOf: TypeAlias = "Callable[[int], Host | None]"

QUESTIONS: dict[str, tuple[str, ...]] = {
    "INFO": ("INFO",),
    "INFO commandstats": ("INFO", "commandstats"),
    "CONFIG GET": ("CONFIG", "GET", "*"),
    "ACL LIST": ("ACL", "LIST"),
    "SLOWLOG GET": ("SLOWLOG", "GET", "128"),
    "LATENCY LATEST": ("LATENCY", "LATEST"),
}
_OF_CLUSTERS = {"CLUSTER INFO": ("CLUSTER", "INFO"), "CLUSTER NODES": ("CLUSTER", "NODES")}


async def look_at(server: Server, dial: Dial, host_of: HostOf) -> Server:
    """The server with what it said; one that says nothing has an `error`. Never raises for it."""
    seen = [server]
    try:
        async with asyncio.timeout(DEADLINE):
            connection = await dial()
            try:
                await _ask(seen, connection, host_of)
            finally:
                await connection.close()
    except AccessDenied as error:
        seen.append(replace(seen[-1], error=str(error), denied=True))
    except RtxError as error:
        seen.append(replace(seen[-1], error=str(error)))
    except TimeoutError:
        seen.append(_cut_short(seen[-1], f"it did not answer all within {DEADLINE:g} s"))
    return seen[-1]


def _cut_short(server: Server, reason: str) -> Server:
    if not server.info:
        return replace(server, error=reason)
    return replace(server, unseen={**server.unseen, "keys": reason})


async def _ask(seen: list[Server], connection: Connection, host_of: HostOf) -> None:
    server = seen[0]
    unseen: dict[str, str] = {}
    questions = {**QUESTIONS, **(_OF_CLUSTERS if server.in_cluster else {})}
    replies = dict(zip(questions, await connection.batch([*questions.values()]), strict=True))
    for name, reply in replies.items():
        if isinstance(reply, ServerError):
            if not isinstance(reply, AccessDenied) and name == "INFO":
                raise reply  # it is loading, or busy with a script
            unseen[name] = str(reply)
    info = parsing.lines_of(replies["INFO"])
    asked = time.time()
    told = await _or_none(connection, "TIME", unseen)
    answered = time.time()
    ends = connection.certificate_ends
    clock, skew = parsing.clock_of(told, asked, answered)
    server = replace(
        server,
        info=info,
        calls=parsing.calls_of(replies["INFO commandstats"]),
        config=parsing.config_of(replies["CONFIG GET"]),
        users=parsing.users_of(replies["ACL LIST"]),
        passwords=parsing.passwords_of(replies["ACL LIST"]),
        slow=parsing.slow_of(replies["SLOWLOG GET"], clock),
        events=parsing.events_of(replies["LATENCY LATEST"], clock),
        clock=clock,
        skew=skew,
        certificate_left=None if ends is None else ends - answered,
        cluster=parsing.lines_of(replies.get("CLUSTER INFO")),
        nodes=parsing.nodes_of(
            replies.get("CLUSTER NODES"),
            server.address,
            # A certificate has the name that a node announces.
            by_name=isinstance(server.location, urls.Cluster) and server.location.tls,
        ),
        unseen=unseen,
    )
    host = _host(server, host_of)
    if host is None:
        unseen["the machine"] = "the server does not run on this machine, or in a container"
    else:
        server = replace(server, host=host)
    seen.append(server)
    if not server.is_primary:
        return  # its primary has the same keys
    try:
        seen.append(replace(server, sample=await sample.take(connection, sample.counts_of(info))))
    except ServerError as error:
        seen.append(replace(server, unseen={**unseen, "keys": str(error)}))


async def _or_none(connection: Connection, command: str, unseen: dict[str, str]) -> Reply:
    try:
        return await connection.call(command)
    except ServerError as error:
        unseen[command] = str(error)
        return None


def _host(server: Server, host_of: HostOf) -> Host | None:
    if server.address is not None and not is_near(server.address):
        return None
    return host_of(server.number("process_id"))
