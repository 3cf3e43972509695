"""Server-sent events: the stream for clients that only read; browsers resume it by themselves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from anyio import CancelScope
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from rtx.gateway import messages
from rtx.gateway.auth import Caller, admit, check_site
from rtx.gateway.gateway import Gateway
from rtx.gateway.journals import parse_position
from rtx.gateway.messages import Channel
from rtx.gateway.outbox import MAX_CHANNELS
from rtx.gateway.problems import Refused, answer_to, documented

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx holds a stream back otherwise
}


@get(
    "/v1/stream/sse",
    guards=[admit],
    media_type="text/event-stream",
    summary="Stream of server-sent events",
    description=(
        "Each event's data is a JSON array of messages, as on the WebSocket. With one channel of "
        "executions or alerts, events carry their position as id, and `Last-Event-ID` resumes."
    ),
    responses=documented(400, 401, 403, 429, 503),
    opt={"query_token": True},
    tags=["Streams"],
)
async def events(
    request: Request[Any, Any, Any],
    gateway: NamedDependency[Gateway],
    channels: Annotated[
        str, QueryParameter(description="Channels with commas between, such as `market_data:*`")
    ],
    token: Annotated[
        str, QueryParameter(description="Token of the session, where no header can be sent")
    ] = "",
    last_event_id: Annotated[
        str, HeaderParameter(name="Last-Event-ID", description="Position to resume from")
    ] = "",
) -> Stream:
    check_site(gateway, request)
    if request.state.problem is not None:
        raise request.state.problem
    wanted = [messages.parse_channel(name) for name in channels.split(",") if name]
    if not 0 < len(wanted) <= MAX_CHANNELS:
        raise Refused(400, "bad_request", f"channels: name 1 to {MAX_CHANNELS} channels")
    journals = [channel for channel in wanted if channel.is_journal]
    for channel in journals:
        if channel.account_id is not None:
            request.state.caller.require(channel.account_id)
    resumable = journals[0] if len(journals) == 1 else None
    after = last_event_id if resumable is not None and last_event_id else None
    if after is not None and resumable is not None:
        parse_position(resumable, after)
    gateway.check_room()
    return Stream(
        _events(gateway, request.state.caller, wanted, resumable, after),
        media_type="text/event-stream",
        headers=_HEADERS,
    )


async def _events(
    gateway: Gateway,
    caller: Caller,
    channels: list[Channel],
    resumable: Channel | None,
    after: str | None,
) -> AsyncGenerator[bytes, None]:
    try:
        client = gateway.connect(caller)
    except Refused as error:  # the last place went to another one while this one began
        yield _event(f"[{messages.error(answer_to(error).problem)}]", "")
        return
    outbox = client.outbox
    try:
        outbox.put(await gateway.state.message())
        for channel in channels:
            client.subscribe(channel, after if channel == resumable else None)
            if not outbox.has_room:
                yield _event(outbox.take(), "")
        while text := await outbox.frame():
            yield _event(text, client.position_of(resumable) if resumable is not None else "")
    finally:
        with CancelScope(shield=True):  # a client that left has cancelled everything else here
            await gateway.disconnect(client)


def _event(text: str, position: str) -> bytes:
    head = f"id: {position}\n" if position else ""
    return f"{head}data: {text}\n\n".encode()
