"""Whatever a peer sends: the right reply to the right caller, or a typed error. Never a hang."""

from __future__ import annotations

import asyncio
import math

import pytest

from rtx.errors import (
    AccessDenied,
    ConnectFailed,
    ConnectionLost,
    NotWritable,
    OutOfMemory,
    ServerBusy,
    ServerError,
)
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions
from rtx.wire.replies import Reply, server_error
from tests.conftest import eventually
from tests.wire.conftest import Opener
from tests.wire.faults import Faults, Peer, Proxy, scripted

CALLS: list[tuple[str | bytes | int, ...]] = [
    ("SET", "{ns}k", "value"),
    ("GET", "{ns}k"),
    ("GET", "{ns}absent"),
    ("INCR", "{ns}n"),
    ("LPUSH", "{ns}l", "a", "bb", b"\r\n$-1\r\n"),
    ("LRANGE", "{ns}l", 0, -1),
    ("HSET", "{ns}h", "f", "v"),
    ("HGETALL", "{ns}h"),
    ("GET", "{ns}l"),
    ("ECHO", "last"),
]
ANSWERS = [
    b"OK",
    b"value",
    None,
    1,
    3,
    [b"\r\n$-1\r\n", b"bb", b"a"],
    1,
    {b"f": b"v"},
    ServerError,
    b"last",
]


def pipeline(
    connection: Connection, namespace: str
) -> tuple[list[asyncio.Future[Reply]], asyncio.Future[list[Reply]]]:
    """Ten calls and, in their midst, a batch."""

    def named(command: tuple[str | bytes | int, ...]) -> tuple[str | bytes | int, ...]:
        return tuple(
            word.replace("{ns}", namespace) if isinstance(word, str) else word for word in command
        )

    futures = [connection.call(*named(command)) for command in CALLS[:5]]
    batch = connection.batch(
        [("ECHO", "one"), ("NOSUCH",), ("ECHO", "three"), ("LLEN", f"{namespace}h2")]
    )
    futures += [connection.call(*named(command)) for command in CALLS[5:]]
    return futures, batch


def check_answers(results: list[object], whole: bool) -> None:
    """Each caller has its own answer, or, from the first lost one on, the loss."""
    lost = False
    for result, answer in zip(results, ANSWERS, strict=True):
        if isinstance(result, ConnectionLost):
            assert not whole
            assert result.maybe_applied
            lost = True
        elif answer is ServerError:
            assert isinstance(result, ServerError)
            assert result.prefix == "WRONGTYPE"
        else:
            assert result == answer
            assert not lost, "a reply after a lost one"


def check_batch(result: object) -> None:
    if not isinstance(result, ConnectionLost):
        assert isinstance(result, list)
        assert result[0] == b"one"
        assert isinstance(result[1], ServerError)
        assert result[2:] == [b"three", 0]


async def test_a_cut_at_every_byte_gives_each_caller_its_own_reply_or_the_loss(
    address: Address, namespace: str
) -> None:
    """HELLO's reply included; with FIN and, at every third byte, RST."""
    faults = Faults()
    async with Proxy(address, lambda: faults) as proxy:
        connection = await Connection.dial(proxy.address, ConnectOptions())
        futures, batch = pipeline(connection, f"{namespace}whole")
        check_answers(await asyncio.gather(*futures, return_exceptions=True), whole=True)
        check_batch(await batch)
        await connection.close()
        total = proxy.replied
        assert total > 250
        dialed = 0
        for cut in range(total):
            faults = Faults(cut_replies_after=cut, reset=cut % 3 == 0, slice=1 + cut % 50)
            try:
                connection = await Connection.dial(proxy.address, ConnectOptions())
            except ConnectFailed:
                continue
            dialed += 1
            futures, batch = pipeline(connection, f"{namespace}{cut}")
            async with asyncio.timeout(5):
                *results, whole = await asyncio.gather(*futures, batch, return_exceptions=True)
            check_answers(results, whole=False)
            check_batch(whole)
            assert connection.error is not None
            await connection.wait_closed()
    assert dialed > 100


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_replies_may_come_in_any_pieces(
    address: Address, connect: Opener, namespace: str, size: int
) -> None:
    async with Proxy(address, lambda: Faults(slice=size)) as proxy:
        connection = await connect(proxy.address)
        futures, batch = pipeline(connection, namespace)
        check_answers(await asyncio.gather(*futures, return_exceptions=True), whole=True)
        check_batch(await batch)


async def test_the_servers_own_samples_of_every_type_are_read(
    address: Address, connect: Opener
) -> None:
    connection = await connect(address)
    kinds = [
        "string",
        "integer",
        "double",
        "null",
        "array",
        "set",
        "map",
        "verbatim",
        "true",
        "false",
        "bignum",
    ]
    replies = await connection.batch([("DEBUG", "PROTOCOL", kind) for kind in kinds])
    found = dict(zip(kinds, replies, strict=True))
    assert found == {
        "string": b"Hello World",
        "integer": 12345,
        "double": pytest.approx(3.141),
        "null": None,
        "array": [0, 1, 2],
        "set": [0, 1, 2],
        "map": {0: False, 1: True, 2: False},
        "verbatim": b"This is a verbatim\nstring",
        "true": True,
        "false": False,
        "bignum": b"1234567999999999999999999999999999999",
    }


@pytest.mark.parametrize(
    ("raw", "reply"),
    [
        (b"%1\r\n+a\r\n%1\r\n+b\r\n*2\r\n:1\r\n_\r\n", {b"a": {b"b": [1, None]}}),
        (b"~2\r\n+a\r\n%1\r\n+k\r\n~1\r\n#t\r\n", [b"a", {b"k": [True]}]),
        (b"*0\r\n", []),
        (b"%0\r\n", {}),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b",inf\r\n", math.inf),
        (b",-inf\r\n", -math.inf),
        (b":-9223372036854775808\r\n", -(2**63)),
        (b"=7\r\nmkd:a\nb\r\n", b"a\nb"),
        (b"+\xff\xfe\r\n", b"\xff\xfe"),
        (b"*2\r\n-ERR inside\r\n+fine\r\n", [ServerError, b"fine"]),
    ],
    ids=lambda value: repr(value) if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("bytewise", [False, True], ids=["at_once", "bytewise"])
async def test_nested_and_rare_replies_keep_their_place(
    connect: Opener, raw: bytes, reply: object, bytewise: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(3):
            await peer.command()
        stream = b"+before\r\n" + raw + b"+after\r\n"
        await (peer.send_bytewise(stream) if bytewise else peer.send_bytewise(stream, 999))
        await peer.until_hung_up()

    async with scripted(script) as address:
        connection = await connect(address)
        before, middle, after = await asyncio.gather(*(connection.call("X", n) for n in range(3)))
        assert (before, after) == (b"before", b"after")
        if isinstance(middle, list) and middle and isinstance(middle[0], ServerError):
            middle[0] = ServerError
        assert middle == reply


async def test_pushes_between_replies_go_to_their_own_handler(connect: Opener) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(2):
            await peer.command()
        push = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\n%d\r\n"
        await peer.send_bytewise(push % 1 + b"+a\r\n" + push % 2 + push % 3 + b"+b\r\n" + push % 4)
        await peer.until_hung_up()

    pushed: list[object] = []
    async with scripted(script) as address:
        connection = await Connection.dial(address, ConnectOptions(), on_push=pushed.extend)
        assert await asyncio.gather(connection.call("A"), connection.call("B")) == [b"a", b"b"]
        await eventually(lambda: len(pushed) == 4)
        await connection.close()
    assert [push[2] for push in pushed] == [b"1", b"2", b"3", b"4"]  # type: ignore[index]


async def test_subscriptions_and_calls_share_a_pipeline(
    address: Address, connect: Opener, namespace: str
) -> None:
    """Confirmations are pushes, so they must neither take a reply nor leave a gap."""
    connection = await connect(address)
    a, b = f"{namespace}a", f"{namespace}b"
    results = await asyncio.gather(
        connection.call("ECHO", 1),
        connection.subscribe("SUBSCRIBE", [a, b]),
        connection.call("ECHO", 2),
        connection.subscribe("PSUBSCRIBE", [f"{namespace}*"]),
        connection.subscribe("UNSUBSCRIBE", [a, b]),
        connection.call("ECHO", 3),
        connection.subscribe("UNSUBSCRIBE", [a]),
        connection.call("ECHO", 4),
    )
    assert [reply for reply in results if reply] == [b"1", b"2", b"3", b"4"]


async def test_a_batch_of_nothing_takes_no_reply_from_the_next_call(
    address: Address, connect: Opener
) -> None:
    connection = await connect(address)
    nothing, mine = await asyncio.gather(connection.batch([]), connection.call("ECHO", "mine"))
    assert nothing == []
    assert mine == b"mine"


async def test_an_argument_that_cannot_be_sent_disturbs_nobody(
    address: Address, connect: Opener
) -> None:
    connection = await connect(address)
    before = connection.call("ECHO", "before")
    for bad in (None, object(), ["list"], "\ud800"):
        with pytest.raises((TypeError, ValueError)):
            connection.call("ECHO", bad)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError)):
            connection.batch([("ECHO", "fine"), ("ECHO", bad)])  # type: ignore[list-item]
    after = connection.call("ECHO", "after")
    assert await asyncio.gather(before, after) == [b"before", b"after"]


@pytest.mark.parametrize(
    ("text", "kind", "prefix"),
    [
        ("NOAUTH Authentication required.", AccessDenied, "NOAUTH"),
        ("WRONGPASS invalid username-password pair", AccessDenied, "WRONGPASS"),
        ("NOPERM User x has no permissions", AccessDenied, "NOPERM"),
        ("READONLY You can't write against a read only replica.", NotWritable, "READONLY"),
        ("NOREPLICAS Not enough good replicas to write.", NotWritable, "NOREPLICAS"),
        ("MISCONF Errors writing to the AOF file", NotWritable, "MISCONF"),
        ("LOADING server is loading the dataset in memory", ServerBusy, "LOADING"),
        ("BUSY server is busy running a script", ServerBusy, "BUSY"),
        ("BUSYGROUP Consumer Group name already exists", ServerError, "BUSYGROUP"),
        ("OOM command not allowed when used memory > 'maxmemory'.", OutOfMemory, "OOM"),
        ("ERR unknown command 'X'", ServerError, "ERR"),
        ("WRONGTYPE Operation against a key", ServerError, "WRONGTYPE"),
        ("something said in a script", ServerError, "ERR"),
        ("", ServerError, "ERR"),
    ],
)
def test_error_replies_have_types_prefixes_and_their_own_words(
    text: str, kind: type[ServerError], prefix: str
) -> None:
    error = server_error(text)
    assert type(error) is kind
    assert error.prefix == prefix
    assert str(error).startswith(text)
    assert (str(error) != text) is (kind is not ServerError), "typed errors name the remedy"
