"""The WebSocket: subscribing, ticks, executions, resuming, bad input, and endings."""

from __future__ import annotations

import asyncio
import json

import pytest
import websockets

import rtx
from rtx.gateway.outbox import MAX_CHANNELS
from tests.conftest import eventually
from tests.gateway.conftest import Running, running, types_of


def fill(order: int) -> rtx.Execution:
    return rtx.Execution(order, 9, "EURUSD", "BUY", 1.0, 1.095, timestamp=1_705_575_045_123)


def tick(bid: float, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=1_705_575_045_123, bid=bid, ask=bid + 0.1, lp="TEST")


# --- the protocol ----------------------------------------------------------------------------


async def test_the_first_message_is_the_state(gateway: Running) -> None:
    async with gateway.stream() as stream:
        state = await stream.next("state")
        assert list(state) == ["type", "ready", "degraded", "time"]
        assert (state["ready"], state["degraded"]) == (True, False)


async def test_the_state_comes_again_every_heartbeat(layer: rtx.DataLayer) -> None:
    async with running(layer, heartbeat=0.1) as gateway, gateway.stream() as stream:
        times = [(await stream.next("state"))["time"] for _ in range(4)]
        assert times == sorted(times)


async def test_a_ping_is_answered_with_its_id(gateway: Running) -> None:
    async with gateway.stream() as stream:
        for id in (7, "seven", None, 1.5):
            await stream.say("ping", id=id)
            assert await stream.next() == {"type": "pong", "id": id}


async def test_a_subscriber_gets_ticks_as_they_are_on_the_channel(gateway: Running) -> None:
    async with gateway.stream() as stream:
        (confirmation,) = await stream.subscribe("market_data:EURUSD")
        assert confirmation == {
            "type": "subscribed",
            "channel": "market_data:EURUSD",
            "recovered": True,
            "reason": "",
            "last": None,
        }
        await gateway.layer.market_data.publish(tick(1.5))
        assert await stream.next("tick") == {
            "type": "tick",
            "symbol": "EURUSD",
            "time": 1705575045123,
            "bid": 1.5,
            "ask": 1.6,
            "lp": "TEST",
        }


async def test_a_client_that_keeps_up_gets_every_tick_in_order(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("market_data:EURUSD")
        bids = [1.0 + n / 1000 for n in range(500)]
        for start in range(0, 500, 50):
            await gateway.layer.market_data.publish_many(
                tick(bid) for bid in bids[start : start + 50]
            )
        got = [(await stream.next("tick"))["bid"] for _ in bids]
        assert got == bids
        assert max(map(len, stream.frames)) > 1, "ticks that come together share a frame"


@pytest.mark.parametrize("channel", ["market_data:EURUSD", "market_data:*"])
async def test_the_fresh_price_comes_first(gateway: Running, channel: str) -> None:
    await gateway.layer.prices.put(rtx.Price("EURUSD", 1.5, 1.6, 1_705_575_045_123))
    async with gateway.stream() as first, gateway.stream() as second:
        for stream in (first, second):  # the second joins a subscription that is there
            await stream.subscribe(channel)
            snapshot = await stream.next("tick")
            assert (snapshot["symbol"], snapshot["bid"]) == ("EURUSD", 1.5)


async def test_all_symbols_can_be_followed_as_one(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("market_data:*")
        await gateway.layer.market_data.publish_many([tick(1.5, "A"), tick(2.5, "B")])
        assert [(await stream.next("tick"))["symbol"] for _ in "AB"] == ["A", "B"]


async def test_a_tick_followed_twice_comes_once(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("market_data:*", "market_data:A")
        await gateway.layer.market_data.publish_many([tick(1.0, "A"), tick(2.0, "A")])
        await gateway.layer.market_data.publish(tick(3.0, "A"))
        assert [(await stream.next("tick"))["bid"] for _ in range(3)] == [1.0, 2.0, 3.0]


async def test_unsubscribing_ends_a_channel_and_no_other(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("market_data:A", "market_data:B", "executions:1")
        await stream.say("unsubscribe", channels=["market_data:A", "executions:1"])
        assert [(await stream.next("unsubscribed"))["channel"] for _ in "AB"] == [
            "market_data:A",
            "executions:1",
        ]
        await gateway.layer.executions.publish(1, fill(1))
        await gateway.layer.market_data.publish_many([tick(1.0, "A"), tick(2.0, "B")])
        assert (await stream.next())["symbol"] == "B"


async def test_many_clients_share_one_subscription(gateway: Running) -> None:
    async with gateway.streams(30) as streams:
        for stream in streams:
            await stream.subscribe("market_data:EURUSD")
        assert gateway.layer.hub.stats.channels == 1
        await gateway.layer.market_data.publish(tick(1.5))
        for stream in streams:
            assert (await stream.next("tick"))["bid"] == 1.5
        assert gateway.gateway.stats()["connections"] == 30

    async def gone() -> bool:
        return gateway.layer.hub.stats.channels == 0

    await eventually(gone)
    assert gateway.gateway.stats()["connections"] == 0
    assert gateway.gateway.stats()["market_channels"] == 0


# --- executions and alerts -------------------------------------------------------------------


async def test_executions_carry_their_channel_and_position(gateway: Running) -> None:
    async with gateway.stream() as stream:
        (confirmation,) = await stream.subscribe("executions:1")
        assert confirmation["last"].endswith(":0")
        offset = await gateway.layer.executions.publish(1, fill(5))
        assert await stream.next() == {
            "type": "execution",
            "order_id": 5,
            "position_id": 9,
            "symbol": "EURUSD",
            "side": "BUY",
            "volume": 1.0,
            "price": 1.095,
            "timestamp": 1705575045123,
            "seq": 1,
            "epoch": offset.epoch,
            "channel": "executions:1",
        }


async def test_a_client_that_was_away_gets_what_it_missed_once_and_in_order(
    gateway: Running,
) -> None:
    publish = gateway.layer.executions.publish
    async with gateway.stream() as stream:
        await stream.subscribe("executions:1")
        await publish(1, fill(1))
        seen = await stream.next("execution")
    for order in (2, 3, 4):
        await publish(1, fill(order))
    async with gateway.stream() as stream:
        after = {"executions:1": f"{seen['epoch']}:{seen['seq']}"}
        (confirmation,) = await stream.subscribe("executions:1", after=after)
        assert (confirmation["recovered"], confirmation["reason"]) == (True, "")
        assert confirmation["last"] == f"{seen['epoch']}:4"
        await publish(1, fill(5))
        assert [(await stream.next("execution"))["order_id"] for _ in range(4)] == [2, 3, 4, 5]


async def test_a_position_that_cannot_be_resumed_is_said_to_be_lost(gateway: Running) -> None:
    await gateway.layer.executions.publish(1, fill(1))
    async with gateway.stream() as stream:
        await stream.say("subscribe", channels=["executions:1"], after={"executions:1": "old:7"})
        confirmation = await stream.next("subscribed")
        assert (confirmation["recovered"], confirmation["reason"]) == (False, "epoch changed")
        gap = await stream.next("gap")
        assert list(gap) == ["type", "channel", "cause", "duration", "recovered"]
        assert (gap["channel"], gap["recovered"]) == ("executions:1", False)
        assert (await stream.next("execution"))["order_id"] == 1


async def test_a_long_absence_is_made_up_for_without_overflow(layer: rtx.DataLayer) -> None:
    for order in range(1, 301):
        await layer.executions.publish(1, fill(order))
    epoch = (await layer.executions.history(1, limit=1)).last.epoch
    async with running(layer, send_queue=20) as gateway, gateway.stream() as stream:
        await stream.say(
            "subscribe", channels=["executions:1"], after={"executions:1": f"{epoch}:0"}
        )
        orders = [(await stream.next("execution"))["order_id"] for _ in range(300)]
        assert orders == list(range(1, 301))
        assert max(map(len, stream.frames)) <= 21


async def test_alerts_reach_their_account_and_system_alerts_everyone(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("alerts:1", "alerts:system")
        await gateway.layer.alerts.publish(2, rtx.Alert("margin_call", "critical", "not for 1"))
        await gateway.layer.alerts.publish(1, rtx.Alert("margin_call", "critical", "for 1"))
        alert = await stream.next()
        assert (alert["type"], alert["message"], alert["channel"]) == ("alert", "for 1", "alerts:1")
        await gateway.layer.alerts.publish("system", rtx.Alert("news", "info", "for all"))
        alert = await stream.next()
        assert (alert["message"], alert["channel"]) == ("for all", "alerts:system")


async def test_subscribing_again_is_confirmed_and_doubles_nothing(
    gateway: Running,
) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("executions:1", "market_data:A")
        await stream.subscribe("executions:001", "market_data:A")
        await gateway.layer.executions.publish(1, fill(1))
        await stream.say("subscribe", channels=["executions:1"])
        fill_and_confirmation = [await stream.next(), await stream.next()]
        assert sorted(types_of(fill_and_confirmation)) == ["execution", "subscribed"]
        await gateway.layer.market_data.publish(tick(1.0, "A"))
        assert (await stream.next())["type"] == "tick"
        await stream.say("ping", id="end")
        assert (await stream.next())["type"] == "pong"


# --- who may see what ------------------------------------------------------------------------


async def test_private_channels_need_a_session_that_lists_the_account(guarded: Running) -> None:
    async with guarded.stream() as stream:
        await stream.subscribe("market_data:EURUSD", "alerts:system")
        for channel in ("executions:1", "alerts:1"):
            await stream.say("subscribe", channels=[channel])
            error = await stream.next()
            assert (error["type"], error["code"]) == ("error", "login_required")
            assert (error["channel"], error["retryable"]) == (channel, False)
    async with guarded.stream(await guarded.log_in()) as stream:
        await stream.subscribe("executions:1", "alerts:2")
        await stream.say("subscribe", channels=["executions:3"])
        assert (await stream.next())["code"] == "not_your_account"


async def test_the_token_may_be_in_the_header(guarded: Running) -> None:
    headers = {"Authorization": f"Bearer {await guarded.log_in()}"}
    async with guarded.stream(additional_headers=headers) as stream:
        await stream.subscribe("executions:1")


async def test_a_token_that_has_ended_closes_the_connection(guarded: Running) -> None:
    async with guarded.stream("no-such-token") as stream:
        error = await stream.next("error")
        assert error["code"] == "session_ended"
        assert await stream.closed() == 4001


async def test_a_session_that_ends_ends_its_stream(layer: rtx.DataLayer) -> None:
    async with running(layer, auth="required", heartbeat=0.1) as gateway:
        token = await gateway.log_in()
        async with gateway.stream(token) as stream, gateway.stream() as anonymous:
            await stream.subscribe("executions:1")
            await layer.sessions.revoke(token)
            assert (await stream.next("error"))["code"] == "session_ended"
            assert await stream.closed() == 4001
            await anonymous.say("ping", id=1)
            assert (await anonymous.next())["type"] == "pong"


async def test_another_sites_page_cannot_open_a_stream_of_an_open_gateway(
    gateway: Running, layer: rtx.DataLayer
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with gateway.stream(origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with gateway.stream(origin=gateway.url) as stream:
        assert (await stream.next("state"))["ready"]
    partner = "https://partner.example"
    async with running(layer, auth="required") as guarded, guarded.stream(origin=partner) as stream:
        assert (await stream.next("state"))["ready"]


# --- bad input -------------------------------------------------------------------------------


EXECUTIONS = '{"op":"subscribe","channels":["executions:1"],'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("\x00", "bad_json"),
        ("null", "bad_message"),
        ("[]", "bad_message"),
        ("7", "bad_message"),
        ("{}", "unknown_op"),
        ('{"op":"dance"}', "unknown_op"),
        ('{"op":7}', "unknown_op"),
        ('{"op":"subscribe"}', "bad_message"),
        ('{"op":"subscribe","channels":"executions:1"}', "bad_message"),
        ('{"op":"subscribe","channels":[7]}', "bad_message"),
        (EXECUTIONS + '"after":7}', "bad_message"),
        (EXECUTIONS + '"after":{"executions:1":7}}', "bad_message"),
        (EXECUTIONS + '"after":{"executions:1":"x"}}', "bad_message"),
        (
            '{"op":"subscribe","channels":["market_data:A"],"after":{"market_data:A":"e:1"}}',
            "bad_message",
        ),
        ('{"op":"unsubscribe","channels":["nothing:1"]}', "unknown_channel"),
        ('{"op":"ping","id":{}}', "bad_message"),
        ('{"op":"subscribe","channels":["\\ud800"]}', "bad_json"),
        *(
            (json.dumps({"op": "subscribe", "channels": [name]}), "unknown_channel")
            for name in (
                "", ":", "market_data", "market_data:", "market_data:A*", "market_data:A B",
                "executions:x", "executions:-1", "executions:*", "executions:system", "prices:A",
                "executions:1:2", "alerts:everyone", "x" * 5000, "market_data:A\n",
            )
        ),
    ],
)  # fmt: skip
async def test_bad_input_is_answered_and_the_connection_stays(
    gateway: Running, text: str, code: str
) -> None:
    async with gateway.stream() as stream:
        await stream.socket.send(text)
        error = await stream.next()
        assert (error["type"], error["code"]) == ("error", code), error
        assert len(error["reason"]) > 10
        assert error["retryable"] is False
        await stream.say("ping", id="still here")
        assert await stream.next() == {"type": "pong", "id": "still here"}


async def test_a_binary_frame_is_read_as_json_too(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.socket.send(b'{"op":"ping","id":1}')
        assert await stream.next() == {"type": "pong", "id": 1}
        await stream.socket.send(b"\xff\xfe")
        assert (await stream.next())["code"] == "bad_json"


async def test_one_bad_channel_does_not_spoil_the_others(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.say("subscribe", channels=["nothing", "market_data:A"])
        assert types_of([await stream.next(), await stream.next()]) == ["error", "subscribed"]


async def test_a_client_has_so_many_channels_and_no_more(gateway: Running) -> None:
    async with gateway.stream() as stream:
        names = [f"market_data:S{n}" for n in range(MAX_CHANNELS)]
        await stream.subscribe(*names)
        await stream.say("subscribe", channels=["market_data:ONE_MORE"])
        error = await stream.next()
        assert (error["code"], error["channel"]) == ("too_many_channels", "market_data:ONE_MORE")
        await stream.say("unsubscribe", channels=names[:1])
        await stream.next("unsubscribed")
        await stream.subscribe("market_data:ONE_MORE")


async def test_a_client_may_ask_for_more_at_once_than_its_queue_holds(
    layer: rtx.DataLayer,
) -> None:
    async with running(layer, send_queue=10) as gateway, gateway.stream() as stream:
        await stream.subscribe(*(f"market_data:S{n}" for n in range(100)))
        await stream.say("subscribe", channels=["bad"] * 100)
        assert {(await stream.next())["code"] for _ in range(100)} == {"unknown_channel"}


async def test_a_frame_over_64_kb_closes_the_connection(gateway: Running) -> None:
    async with gateway.stream() as stream:
        await stream.subscribe("market_data:A")
        await stream.socket.send(" " * 65_537)
        assert await stream.closed() == 1009
    await eventually(lambda: gateway.gateway.stats()["connections"] == 0)


# --- limits and endings ----------------------------------------------------------------------


async def test_connections_over_the_maximum_are_turned_away(layer: rtx.DataLayer) -> None:
    async with running(layer, max_connections=2) as gateway:
        async with gateway.stream() as first, gateway.stream() as second:
            await first.next("state")
            await second.next("state")
            async with gateway.stream() as third:
                error = await third.next("error")
                assert (error["code"], error["retryable"]) == ("too_many_connections", True)
                assert await third.closed() == 1013
            answer = await gateway.http.get("/v1/stream/sse?channels=market_data:A")
            assert answer.status_code == 503
        await eventually(lambda: gateway.gateway.stats()["connections"] == 0)
        async with gateway.stream() as stream:
            await stream.next("state")


async def test_clients_that_vanish_leave_nothing_behind(gateway: Running) -> None:
    before = asyncio.all_tasks()
    async with gateway.streams(10) as streams:
        for stream in streams:
            await stream.subscribe("executions:1", "alerts:1", "market_data:A", "market_data:*")
        for stream in streams:
            stream.socket.transport.abort()
    await eventually(lambda: gateway.gateway.stats()["connections"] == 0)
    await eventually(lambda: gateway.layer.hub.stats.channels == 0)
    assert {task for task in asyncio.all_tasks() - before if "rtx-gateway" in task.get_name()} == (
        set()
    )


async def test_a_failure_inside_closes_the_stream_and_is_logged(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with gateway.stream() as stream:
        await stream.subscribe("executions:1")
        monkeypatch.setattr("rtx.gateway.messages.journal_message", fail)
        await gateway.layer.executions.publish(1, fill(1))
        assert await stream.closed() == 1011
    async with gateway.stream() as stream:
        monkeypatch.setattr("rtx.gateway.messages.parse_request", fail)
        await stream.say("ping")
        assert await stream.closed() == 1011
    assert caplog.text.count("ZeroDivisionError: a bug") == 2
