"""Executions and alerts for one client: every message once, in order, from where it left off."""

from __future__ import annotations

import asyncio
import logging

from rtx.errors import RtxError
from rtx.gateway import messages
from rtx.gateway.messages import Channel
from rtx.gateway.outbox import INTERNAL, Outbox
from rtx.gateway.problems import Refused, answer_to
from rtx.layer import DataLayer
from rtx.models import Alert, Execution
from rtx.pubsub import Gap, JournalSubscription, Offset

_log = logging.getLogger("rtx.gateway")


def parse_position(channel: Channel, after: str) -> Offset:
    """The position to resume a channel from; raises `Refused` for what is none."""
    if not channel.is_journal:
        raise Refused(400, "bad_message", "after: market data cannot be resumed; leave it out")
    try:
        return Offset.parse(after)
    except ValueError as error:
        raise Refused(400, "bad_message", f"after: {error}") from None


class Follower:
    """Puts a channel's messages into an outbox until it is stopped, or the client is ended.

    Begins with `subscribed` once the server has confirmed, which in an outage is when it is over.
    """

    def __init__(
        self, layer: DataLayer, channel: Channel, after: Offset | None, outbox: Outbox
    ) -> None:
        self._layer = layer
        self._channel = channel
        self._after = after
        self._outbox = outbox
        self.position = "" if after is None else str(after)
        """Of the last message put; empty until it is known."""
        self.task = asyncio.create_task(self._run(), name=f"rtx-gateway-{channel.name}")

    def confirm(self) -> None:
        """Say `subscribed` again, unless it has not been said yet and will be."""
        if self.position and self._after is None:
            self._say_subscribed(recovered=True, reason="", last=self.position)

    async def _run(self) -> None:
        try:
            async with self._subscribe() as subscription:
                await subscription.ready()
                last = str(subscription.position)
                if self._after is None:
                    self.position = last
                self._after = None
                self._say_subscribed(
                    recovered=subscription.recovered, reason=subscription.reason, last=last
                )
                async for item in subscription:
                    if not self._outbox.has_room and not await self._outbox.brake():
                        return
                    self._pass_on(item)
        except RtxError as error:
            self._outbox.put(messages.error(answer_to(error).problem, self._channel.name))
        except Exception:
            _log.exception("%s has failed for a client, which is closed", self._channel.name)
            self._outbox.end(INTERNAL, "the gateway failed; its log has the cause")

    def _subscribe(self) -> JournalSubscription[Execution] | JournalSubscription[Alert]:
        account_id = self._channel.account_id
        if self._channel.kind == "executions" and account_id is not None:
            return self._layer.executions.subscribe(account_id, self._after)
        subject = self._channel.subject if account_id is None else account_id
        return self._layer.alerts.subscribe(subject, self._after)

    def _say_subscribed(self, *, recovered: bool, reason: str, last: str) -> None:
        self._outbox.put(
            messages.subscribed(self._channel.name, recovered=recovered, reason=reason, last=last)
        )

    def _pass_on(self, item: Execution | Alert | Gap) -> None:
        name = self._channel.name
        if isinstance(item, Gap):
            self._outbox.put(
                messages.gap(name, item.cause, item.duration, recovered=item.recovered)
            )
        else:
            self._outbox.put(messages.journal_message(item, name))
            if item.seq:  # another program's message may be outside the log
                self.position = f"{item.epoch}:{item.seq}"
