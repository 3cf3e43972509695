"""Server-sent events: the same messages for clients that only read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

import rtx
from rtx.gateway.outbox import MAX_CHANNELS
from tests.conftest import eventually
from tests.gateway.conftest import Message, Running, assert_problem, running, types_of

URL = "/v1/stream/sse"


class Events:
    """Reads events; `id` is that of the last one, as a browser keeps it."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self._pending: list[Message] = []
        self.id = ""

    async def next(self, *types: str) -> Message:
        """The next message of one of these types; `state` is passed over unless asked for."""
        async with asyncio.timeout(5.0):
            while True:
                while not self._pending:
                    line = await anext(self._lines)
                    if line.startswith("id: "):
                        self.id = line.removeprefix("id: ")
                    if line.startswith("data: "):
                        self._pending = json.loads(line.removeprefix("data: "))
                message = self._pending.pop(0)
                if message["type"] in types or not (types or message["type"] == "state"):
                    return message


@asynccontextmanager
async def events(
    gateway: Running, channels: str, *, token: str = "", last: str = ""
) -> AsyncIterator[Events]:
    params = {"channels": channels} | ({"token": token} if token else {})
    headers = {"Last-Event-ID": last} if last else {}
    async with gateway.http.stream("GET", URL, params=params, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)


def fill(order: int) -> rtx.Execution:
    return rtx.Execution(order, 9, "EURUSD", "BUY", 1.0, 1.095)


async def test_events_are_arrays_of_the_streams_messages(gateway: Running) -> None:
    async with events(gateway, "market_data:EURUSD,alerts:system") as stream:
        assert (await stream.next("state"))["ready"] is True
        confirmed = [await stream.next("subscribed"), await stream.next("subscribed")]
        assert {item["channel"] for item in confirmed} == {"market_data:EURUSD", "alerts:system"}
        await gateway.layer.market_data.publish(rtx.Tick("EURUSD", bid=1.5, ask=1.6))
        assert (await stream.next())["bid"] == 1.5
        await gateway.layer.alerts.publish("system", rtx.Alert("news", "info", "hello"))
        alert = await stream.next()
        assert (alert["message"], alert["channel"]) == ("hello", "alerts:system")


async def test_a_browser_resumes_executions_by_the_id_of_the_last_event(gateway: Running) -> None:
    publish = gateway.layer.executions.publish
    async with events(gateway, "executions:1") as stream:
        await stream.next("subscribed")
        assert stream.id.endswith(":0"), "even before the first execution"
        before_any = stream.id
        first = await publish(1, fill(1))
        assert (await stream.next("execution"))["order_id"] == 1
        assert stream.id == str(first)
    await publish(1, fill(2))
    for last, missed in ((str(first), [2]), (before_any, [1, 2])):
        async with events(gateway, "executions:1", last=last) as stream:
            assert (await stream.next("subscribed"))["recovered"] is True
            assert [(await stream.next("execution"))["order_id"] for _ in missed] == missed


async def test_events_need_the_same_rights_as_the_websocket(guarded: Running) -> None:
    answer = await guarded.http.get(URL, params={"channels": "executions:1"})
    assert_problem(answer, 401, "login_required")
    answer = await guarded.http.get(URL, params={"channels": "executions:1", "token": "none"})
    assert_problem(answer, 401, "session_ended")
    token = await guarded.log_in()
    answer = await guarded.http.get(URL, params={"channels": "executions:3", "token": token})
    assert_problem(answer, 403, "not_your_account")
    async with events(guarded, "executions:1", token=token) as stream:
        await stream.next("subscribed")


async def test_bad_requests_are_refused_before_the_stream_begins(gateway: Running) -> None:
    many = ",".join(f"market_data:{n}" for n in range(MAX_CHANNELS + 1))
    for params, code in (
        ({}, "bad_request"),
        ({"channels": ""}, "bad_request"),
        ({"channels": ","}, "bad_request"),
        ({"channels": "nothing:1"}, "unknown_channel"),
        ({"channels": "market_data:A,executions:x"}, "unknown_channel"),
        (
            {"channels": many},
            "bad_request",
        ),
    ):
        assert_problem(await gateway.http.get(URL, params=params), 400, code)
    for last in ("7", "e:x"):
        answer = await gateway.http.get(
            URL, params={"channels": "executions:1"}, headers={"Last-Event-ID": last}
        )
        assert_problem(answer, 400, "bad_message")
    answer = await gateway.http.get(
        URL, params={"channels": "market_data:A"}, headers={"Origin": "https://evil.example"}
    )
    assert_problem(answer, 403, "other_site")


async def test_a_client_that_leaves_takes_its_subscriptions_along(gateway: Running) -> None:
    async with events(gateway, "market_data:A,executions:1") as stream:
        await stream.next("subscribed")
        assert gateway.gateway.stats()["connections"] == 1
    await eventually(lambda: gateway.gateway.stats()["connections"] == 0)
    await eventually(lambda: gateway.layer.hub.stats.channels == 0)


async def test_many_channels_fit_through_a_small_queue(layer: rtx.DataLayer) -> None:
    names = [f"market_data:S{n}" for n in range(100)]
    async with (
        running(layer, send_queue=10) as gateway,
        events(gateway, ",".join(names)) as stream,
    ):
        confirmed = [await stream.next() for _ in names]
        assert set(types_of(confirmed)) == {"subscribed"}
