"""A gateway that really runs: uvicorn in the test's loop, on a free port, over real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from pydantic import SecretStr

import rtx
from rtx.database.sql import SqlDatabase
from rtx.gateway import MarketOrder, OrderDesk, OrderRejected, create_app, serve
from rtx.gateway.gateway import Gateway
from rtx.gateway.passwords import _key, _text
from rtx.models import Execution, SymbolSpec
from rtx.setting_groups import GatewaySettings, LimitSettings, UserSettings
from rtx.settings import Settings

EURUSD = SymbolSpec("EURUSD", "Euro / US Dollar", "EUR", "USD", 5, 100_000.0, 0.01)
GBPUSD = SymbolSpec("GBPUSD", "Pound / US Dollar", "GBP", "USD", 5, 100_000.0, 0.01)

Message = dict[str, Any]


def cheap_hash(password: str) -> str:
    """A password hash as of `hash_password`, with a cost that does not slow the tests."""
    cost = (16, 1, 1)
    return _text(cost, b"saltsaltsaltsalt", _key(password, b"saltsaltsaltsalt", cost))


USERS = {
    "ann": UserSettings(password_hash=SecretStr(cheap_hash("right")), accounts=(1, 2)),
    "bob": UserSettings(password_hash=SecretStr(cheap_hash("bob's")), accounts=(3,)),
}


def gateway_settings(**changes: object) -> GatewaySettings:
    """Settings of an open gateway with two users, changed as asked."""
    given: dict[str, Any] = {"auth": "open", "users": USERS, **changes}
    return GatewaySettings(**given)


@dataclass
class Running:
    """A gateway that accepts connections at `url`."""

    url: str
    http: httpx.AsyncClient
    gateway: Gateway
    layer: rtx.DataLayer
    server: asyncio.Task[None]
    stop: asyncio.Event

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws") + "/v1/stream"

    async def log_in(self, user: str = "ann", password: str = "right") -> str:
        answer = await self.http.post("/v1/sessions", json={"user": user, "password": password})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    @asynccontextmanager
    async def streams(self, count: int) -> AsyncIterator[list[Stream]]:
        """Several streams at once."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.stream()) for _ in range(count)]

    def stream(self, token: str = "", **options: Any) -> AbstractAsyncContextManager[Stream]:
        return _stream(self.ws_url + (f"?token={token}" if token else ""), options)


@asynccontextmanager
async def _stream(url: str, options: dict[str, Any]) -> AsyncIterator[Stream]:
    async with websockets.connect(url, **options) as socket:
        yield Stream(socket)


class Stream:
    """A WebSocket client that reads one message at a time and keeps the frames."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.frames: list[list[Message]] = []
        self._pending: list[Message] = []

    async def say(self, op: str, **fields: object) -> None:
        await self.socket.send(json.dumps({"op": op, **fields}))

    async def next(self, *types: str, within: float = 5.0) -> Message:
        """The next message of one of these types; `state` is passed over unless asked for."""
        async with asyncio.timeout(within):
            while True:
                while not self._pending:
                    frame = json.loads(await self.socket.recv())
                    assert isinstance(frame, list), "every frame is an array"
                    self.frames.append(frame)
                    self._pending += frame
                message = self._pending.pop(0)
                if message["type"] in types or not (types or message["type"] == "state"):
                    return message

    async def subscribe(self, *channels: str, **fields: object) -> list[Message]:
        """Subscribe and wait for every confirmation."""
        await self.say("subscribe", channels=channels, **fields)
        return [await self.next("subscribed") for _ in channels]

    async def closed(self, within: float = 5.0) -> int | None:
        """Read until the server closes; the close code."""
        async with asyncio.timeout(within):
            try:
                while True:
                    self._pending += json.loads(await self.socket.recv())
            except websockets.ConnectionClosed as error:
                return error.rcvd.code if error.rcvd else None


@asynccontextmanager
async def running(
    layer: rtx.DataLayer, *, orders: OrderDesk | None = None, **changes: object
) -> AsyncIterator[Running]:
    """A gateway over the layer, until the block ends."""
    app = create_app(layer, orders=orders, settings=gateway_settings(**changes))
    stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(app, "127.0.0.1", 0, ready=url.set_result, stop=stop))
    try:
        await asyncio.wait((server, url), return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            await server
        async with httpx.AsyncClient(base_url=url.result(), trust_env=False) as http:
            yield Running(url.result(), http, app.state.gateway, layer, server, stop)
    finally:
        stop.set()
        await server


class Desk:
    """An order desk that fills at a fixed price, or raises what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.orders: list[tuple[int, MarketOrder]] = []

    async def place(self, account_id: int, order: MarketOrder) -> Execution:
        if self.error is not None:
            raise self.error
        self.orders.append((account_id, order))
        return Execution(
            7, 8, order.symbol, order.side, order.volume, 1.095, 1_705_575_045_123, 1, "e"
        )


def rejecting(code: str, **facts: Any) -> Desk:
    """A desk that rejects every order."""
    return Desk(OrderRejected(code, "why, and what to do", **facts))


@pytest.fixture
async def database(tmp_path: Path) -> SqlDatabase:
    """Accounts 1 (with a position), 2 and 3, and two symbols; the layer opens and closes it."""
    async with SqlDatabase(f"sqlite+aiosqlite:///{tmp_path}/rtx.db") as database:
        ids = await database.add_accounts(
            (f"RTX-{number:06}", Decimal("10000.00")) for number in (1, 2, 3)
        )
        assert list(ids) == [1, 2, 3]
        await database.add_symbols([EURUSD, GBPUSD])
        async with database.update_account(1) as account:
            position = await account.open_position("EURUSD", "BUY", 1.0, 1.095, Decimal("500.00"))
            await account.mark_position(position.id, 1.0955, Decimal("50.00"))
    return SqlDatabase(f"sqlite+aiosqlite:///{tmp_path}/rtx.db")


@pytest.fixture
def roomy(settings: Settings) -> Settings:
    """Settings whose api limit no test reaches by accident."""
    return settings.model_copy(update={"limits": {"api": LimitSettings(limit=100_000, per=60.0)}})


@pytest.fixture
async def layer(roomy: Settings, database: SqlDatabase) -> AsyncIterator[rtx.DataLayer]:
    """An open layer on the shared server, with the database behind it."""
    async with rtx.open(roomy, database=database) as opened:
        yield opened


@pytest.fixture
async def gateway(layer: rtx.DataLayer) -> AsyncIterator[Running]:
    """An open gateway (no login needed) with a desk that fills every order."""
    async with running(layer, orders=Desk()) as found:
        yield found


@pytest.fixture
async def guarded(layer: rtx.DataLayer) -> AsyncIterator[Running]:
    """A gateway that requires a session for accounts."""
    async with running(layer, orders=Desk(), auth="required") as found:
        yield found


def assert_problem(
    answer: httpx.Response, status: int, code: str, *, retryable: bool | None = None
) -> Message:
    """The answer is an error of our one shape, by a limit a problem document; returns its body."""
    assert answer.status_code == status, answer.text
    body: Message = answer.json()
    ours = {"code", "reason", "retryable"}
    if answer.headers["content-type"] == "application/problem+json":
        assert set(body) == ours | {"type", "title", "status", "detail", "violated-policies"}, body
        assert (body["status"], body["detail"]) == (status, body["reason"])
        assert status in (429, 503)
    else:
        assert set(body) == ours, body
        assert status != 429
    assert body["code"] == code
    assert len(body["reason"]) > 10
    if retryable is not None:
        assert body["retryable"] is retryable
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return body


def types_of(messages: Sequence[Message]) -> list[str]:
    """The types of messages, in order."""
    return [message["type"] for message in messages]
