"""One client of the streams: its channels, and the rules of subscribing to them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rtx.gateway import messages
from rtx.gateway.auth import Caller
from rtx.gateway.journals import Follower, parse_position
from rtx.gateway.messages import Channel, Ping, Subscribe, Unsubscribe
from rtx.gateway.outbox import MAX_CHANNELS, Outbox
from rtx.gateway.problems import Refused, answer_to

if TYPE_CHECKING:
    from rtx.gateway.gateway import Gateway


class Client:
    """A WebSocket's or SSE stream's side of the gateway; `close` leaves everything behind it."""

    def __init__(self, gateway: Gateway, caller: Caller) -> None:
        self._gateway = gateway
        self._caller = caller
        self._journals: dict[Channel, Follower] = {}
        self._symbols: set[Channel] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # of journals, left ones until they have ended
        self.outbox = Outbox(gateway.settings.send_queue, gateway.counters)

    @property
    def token(self) -> str:
        """The token of the client's session, empty without one."""
        return self._caller.token

    @property
    def _count(self) -> int:
        return len(self._journals) + len(self._symbols)

    def position_of(self, channel: Channel) -> str:
        """The position of a journal's last message put; empty when it is not known."""
        follower = self._journals.get(channel)
        return follower.position if follower is not None else ""

    async def hear(self, text: str | bytes) -> None:
        """Do what the client says; what cannot be done is answered with an error message.

        Waits while the answers pile up, so that a client is not ended for asking a lot at once.
        """
        await self.outbox.brake()
        try:
            request = messages.parse_request(text)
        except Refused as error:
            self.refuse(error)
            return
        match request:
            case Subscribe():
                for name in request.channels:
                    await self.outbox.brake()
                    self._try_subscribe(name, request.after.get(name))
            case Unsubscribe():
                for name in request.channels:
                    await self.outbox.brake()
                    self._unsubscribe(name)
            case Ping():
                self.outbox.put(messages.pong(request.id))

    def subscribe(self, channel: Channel, after: str | None = None) -> None:
        """Follow a channel, resuming after `after`; one already followed is confirmed again.

        Raises `Refused` when the caller may not, or follows too many.
        """
        position = None
        if channel.account_id is not None:
            self._caller.require(channel.account_id)
        if after is not None:
            position = parse_position(channel, after)
        follower = self._journals.get(channel)
        if follower is not None and position is None and not follower.task.done():
            follower.confirm()
            return
        self._leave_journal(channel)
        if channel not in self._symbols and self._count >= MAX_CHANNELS:
            raise Refused(
                400,
                "too_many_channels",
                f"a client may follow {MAX_CHANNELS} channels; leave some, or follow market_data:*",
            )
        if channel.is_journal:
            follower = Follower(self._gateway.layer, channel, position, self.outbox)
            self._journals[channel] = follower
            self._tasks.add(follower.task)
            follower.task.add_done_callback(self._tasks.discard)
        else:
            self._symbols.add(channel)
            self._gateway.ticks.join(channel.subject, self.outbox)

    def refuse(self, error: Exception, channel: str | None = None) -> None:
        """Answer with an error message."""
        self._gateway.counters.bad_messages += 1
        self.outbox.put(messages.error(answer_to(error).problem, channel))

    async def close(self) -> None:
        """Leave all channels; returns when its tasks have ended."""
        for channel in [*self._symbols, *self._journals]:
            self._leave(channel)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _try_subscribe(self, name: str, after: str | None) -> None:
        try:
            self.subscribe(messages.parse_channel(name), after)
        except Refused as error:
            self.refuse(error, name)

    def _unsubscribe(self, name: str) -> None:
        try:
            channel = messages.parse_channel(name)
        except Refused as error:
            self.refuse(error, name)
            return
        self._leave(channel)
        self.outbox.put(messages.unsubscribed(channel.name))

    def _leave(self, channel: Channel) -> None:
        if channel in self._symbols:
            self._symbols.discard(channel)
            self._gateway.ticks.leave(channel.subject, self.outbox)
        self._leave_journal(channel)

    def _leave_journal(self, channel: Channel) -> None:
        follower = self._journals.pop(channel, None)
        if follower is not None:
            follower.task.cancel()
