"""Writes ticks: the latest of each symbol is stored as its price, and every one is published."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rtx import codecs
from rtx.errors import RtxError, ServerError, Unavailable, anew
from rtx.keys import Keys
from rtx.models import Tick
from rtx.pubsub.market_inbox import MarketDataStats
from rtx.wire import Caller, Reply, Script

AT_ONCE = 1_000  # ticks in one write, so that one feed cannot hold a connection for long
_IN_SCRIPT = 250  # prices: some 0.6 ms, in which the server does nothing else
_IN_ONE_STEP = 150  # ticks that the script publishes as well, so that all of it is one step
_NAMES_AT_MOST = 100_000
_LENGTHS = [b"$%d\r\n" % length for length in range(1_024)]
_FINE = {int}  # the types of the replies when all went well


@dataclass(slots=True)
class _Names:
    """What is the same in every command for a symbol, packed once."""

    price: bytes
    channel: bytes
    publish: bytes
    """The start of a command that publishes."""
    lone: bytes
    """The start of the script's call for one tick alone."""


class TickWriter:
    """Sends ticks to the servers of the roles cache and pubsub.

    The prices are stored before the ticks are published, in one write where these are one server,
    else one after the other. A price never takes the place of one of a later tick: a script sees to
    that, and all publishers of one turn of the event loop share its cost.
    """

    def __init__(
        self,
        cache: Caller,
        pubsub: Caller,
        keys: Keys,
        price_ttl: float,
        stats: MarketDataStats,
        *,
        one_server: bool,
        sharded: bool,
    ) -> None:
        self._cache = cache
        self._pubsub = pubsub
        self._keys = keys
        self._one_server = one_server
        self._stats = stats
        script = Script.load("rtx", "price")
        self._known = _bulk(b"EVALSHA") + _bulk(script.sha.encode())
        self._whole = _bulk(b"EVAL") + _bulk(script.text.encode())
        self._ttl = _bulk(b"%d" % max(1, round(price_ttl * 1000)))
        self._publish = b"*3\r\n" + _bulk(b"SPUBLISH" if sharded else b"PUBLISH")
        self._names: dict[str, _Names] = {}
        self._turn_began = False
        self._others: list[tuple[Tick, bytes, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let what is under way end; the time-outs of its calls bound it."""
        self._end_turn()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def write(self, tick: Tick) -> None:
        """Write one tick. Raises `Unavailable`, `ServerError`.

        The first of a turn of the event loop leaves at once, the others of that turn together;
        where prices and channels are at several servers, each by itself.
        """
        if not self._one_server:  # nor may a node that is away hold up the ticks of another
            await self.write_many([tick])
            return
        if self._turn_began:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._others.append((tick, self._message(tick), done))
            await done
            return
        self._turn_began = True
        asyncio.get_running_loop().call_soon(self._end_turn)
        [reply] = await self._cache.batch_packed([self._lone_call(tick)])
        if isinstance(reply, list) and reply[0] == 1 and isinstance(reply[1], int):
            self._stats.prices_stored += 1
            self._stats.published += 1
            return
        if not _is_unknown(reply):
            replies: list[Reply] = reply if isinstance(reply, list) else [reply, reply]
            self._count(replies[:1], replies[1:])
            _raise_first(replies)
            return
        _raise_first(*await self._write([tick]))

    async def write_many(self, ticks: Sequence[Tick]) -> None:
        """Write ticks in their order. Raises `Unavailable`, and the first `ServerError`."""
        self._end_turn()
        for start in range(0, len(ticks), AT_ONCE):
            _raise_first(*await self._write(ticks[start : start + AT_ONCE]))

    async def attempt(self, ticks: Sequence[Tick]) -> list[ServerError | None]:
        """Write at most `AT_ONCE` ticks; those that were not published have their errors at their
        places in the list, which is empty when all were.

        Raises `Unavailable`, of which `maybe_applied` says whether any may have been published.
        """
        _, published = await self._write(ticks)
        if _FINE.issuperset(map(type, published)):
            return []
        return [reply if isinstance(reply, ServerError) else None for reply in published]

    @property
    def down(self) -> RtxError | None:
        """Why nothing can be published; None while something can."""
        return self._pubsub.down

    def can_pack(self, tick: Tick) -> bool:
        """Whether the tick can be sent: it has no half characters and no odd types."""
        try:
            self._lone_call(tick)
        except (ValueError, TypeError, OverflowError):
            return False
        return True

    # --- a turn of the event loop ----------------------------------------------------------

    def _end_turn(self) -> None:
        self._turn_began = False
        others, self._others = self._others, []
        for start in range(0, len(others), AT_ONCE):
            task = asyncio.create_task(self._deliver(others[start : start + AT_ONCE]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, others: Sequence[tuple[Tick, bytes, asyncio.Future[None]]]) -> None:
        """Write ticks of several publishers, and tell each what came of its own."""
        prices = _latest([tick for tick, _, _ in others])
        messages = [message for _, message, _ in others]
        try:
            if len(messages) <= _IN_ONE_STEP:
                stored, published = await self._in_one_step(prices, messages)
            else:
                commands = [self._publish + message for message in messages]
                stored, published = await self._in_one_write(prices, commands)
        except Exception as failure:
            for _, _, done in others:
                if not done.done():
                    done.set_exception(anew(failure))
            return
        failed = {
            price.symbol: reply
            for price, reply in zip(prices, stored, strict=False)
            if isinstance(reply, ServerError)
        }
        for (tick, _, done), reply in zip(others, published, strict=True):
            if done.done():  # its publisher has given up
                continue
            error = reply if isinstance(reply, ServerError) else failed.get(tick.symbol)
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(anew(error))

    # --- the servers -----------------------------------------------------------------------

    async def _write(self, ticks: Sequence[Tick]) -> tuple[list[Reply], list[Reply]]:
        """The replies to prices and ticks; the first are missing where their server is away."""
        prices = _latest(ticks)
        if not self._one_server:
            return await self._in_two_writes(prices, self._commands(ticks))
        if len(ticks) <= _IN_ONE_STEP:
            return await self._in_one_step(prices, [*map(self._message, ticks)])
        return await self._in_one_write(prices, self._commands(ticks))

    async def _in_one_step(
        self, prices: Sequence[Tick], messages: Sequence[bytes]
    ) -> tuple[list[Reply], list[Reply]]:
        [replies] = await self._run([(prices, messages)])
        return self._count(replies[: len(prices)], replies[len(prices) :])

    async def _in_one_write(
        self, prices: Sequence[Tick], commands: Sequence[bytes]
    ) -> tuple[list[Reply], list[Reply]]:
        """Many are published faster by commands of their own, behind the script.

        It goes as a whole, lest it be unknown to a server that publishes them all the same.
        """
        parts = [prices[start : start + _IN_SCRIPT] for start in range(0, len(prices), _IN_SCRIPT)]
        calls = [self._call(self._whole, part, ()) for part in parts]
        replies = await self._cache.batch_packed([*calls, *commands])
        stored: list[Reply] = []
        for part, reply in zip(parts, replies, strict=False):
            stored += reply if isinstance(reply, list) else [reply] * len(part)
        return self._count(stored, replies[len(parts) :])

    async def _in_two_writes(
        self, prices: Sequence[Tick], commands: Sequence[bytes]
    ) -> tuple[list[Reply], list[Reply]]:
        try:
            # One by one, for the keys may be in different slots of a cluster.
            replies = await self._run([([price], ()) for price in prices])
            stored = [reply[0] for reply in replies]
        except Unavailable:
            # The live ticks are worth more than the snapshot; the old price expires by itself.
            stored = []
            self._stats.prices_not_stored += len(prices)
        published = await self._pubsub.batch_packed(commands, patient=False)
        return self._count(stored, published)

    async def _run(
        self, parts: Sequence[tuple[Sequence[Tick], Sequence[bytes]]]
    ) -> list[list[Reply]]:
        """Run the script for each part; the replies to its prices and messages."""
        calls = [self._call(self._known, *part) for part in parts]
        replies = await self._cache.batch_packed(calls, patient=False)
        unknown = [place for place, reply in enumerate(replies) if _is_unknown(reply)]
        if unknown:  # to a server that was restarted, or has just been promoted; nothing was done
            calls = [self._call(self._whole, *parts[place]) for place in unknown]
            again = await self._cache.batch_packed(calls, patient=False)
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return [
            reply if isinstance(reply, list) else [reply] * (len(prices) + len(messages))
            for (prices, messages), reply in zip(parts, replies, strict=True)
        ]

    def _count(
        self, stored: list[Reply], published: list[Reply]
    ) -> tuple[list[Reply], list[Reply]]:
        count, late = stored.count(1), stored.count(0)
        self._stats.prices_stored += count
        self._stats.prices_late += late
        self._stats.prices_not_stored += len(stored) - count - late
        if _FINE.issuperset(map(type, published)):
            self._stats.published += len(published)
        else:
            refused = sum(1 for reply in published if isinstance(reply, ServerError))
            self._stats.published += len(published) - refused
        return stored, published

    # --- RESP ------------------------------------------------------------------------------

    def _names_of(self, symbol: str) -> _Names:
        names = self._names.get(symbol)
        if names is None:
            if len(self._names) >= _NAMES_AT_MOST:
                self._names.clear()
            price = _bulk(self._keys.price(symbol).encode())
            channel = _bulk(self._keys.market_data(symbol).encode())
            lone = b"*8\r\n%b$1\r\n1\r\n%b%b" % (self._known, price, self._ttl)
            names = self._names[symbol] = _Names(price, channel, self._publish + channel, lone)
        return names

    def _message(self, tick: Tick) -> bytes:
        """Channel and message of a tick, as arguments of a command."""
        text = codecs.encode_tick(tick)
        return b"%b$%d\r\n%b\r\n" % (self._names_of(tick.symbol).channel, len(text), text)

    def _commands(self, ticks: Sequence[Tick]) -> list[bytes]:
        """The commands that publish ticks; what is spared here is spared for every one of them."""
        names, encode, commands = self._names, codecs.encode_tick, []
        for tick in ticks:
            text = encode(tick)
            length = len(text)
            commands.append(
                (names.get(tick.symbol) or self._names_of(tick.symbol)).publish
                + (_LENGTHS[length] if length < len(_LENGTHS) else b"$%d\r\n" % length)
                + text
                + b"\r\n"
            )
        return commands

    def _lone_call(self, tick: Tick) -> bytes:
        """The script for one tick."""
        value = codecs.encode_price(tick.symbol, tick.bid, tick.ask, tick.time)
        head = self._names_of(tick.symbol).lone
        return b"%b$%d\r\n%b\r\n%b" % (head, len(value), value, self._message(tick))

    def _call(self, script: bytes, prices: Sequence[Tick], messages: Sequence[bytes]) -> bytes:
        """The script for several prices and messages."""
        count = b"%d" % len(prices)
        words = 4 + 2 * len(prices) + 2 * len(messages)
        parts = [b"*%d\r\n%b$%d\r\n%b\r\n" % (words, script, len(count), count)]
        parts += [self._names_of(tick.symbol).price for tick in prices]
        parts.append(self._ttl)
        for tick in prices:
            value = codecs.encode_price(tick.symbol, tick.bid, tick.ask, tick.time)
            parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
        return b"".join([*parts, *messages])


def _latest(ticks: Iterable[Tick]) -> list[Tick]:
    """The latest tick of each symbol, by its own time, and of those the last."""
    latest: dict[str, Tick] = {}
    for tick in ticks:
        before = latest.get(tick.symbol)
        if before is None or before.time <= tick.time:
            latest[tick.symbol] = tick
    return list(latest.values())


def _raise_first(*several: Sequence[Reply]) -> None:
    for replies in several:
        if _FINE.issuperset(map(type, replies)):
            continue
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply


def _is_unknown(reply: Reply) -> bool:
    return isinstance(reply, ServerError) and reply.prefix == "NOSCRIPT"


def _bulk(text: bytes) -> bytes:
    """A bulk string of RESP."""
    return b"$%d\r\n%b\r\n" % (len(text), text)
