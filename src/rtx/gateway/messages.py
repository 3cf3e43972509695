"""The messages of a stream: what a client may say, what it is told, and the channel names."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from msgspec import Struct

from rtx.gateway.auth import account_id_of
from rtx.gateway.orders import SYMBOL_PATTERN
from rtx.gateway.problems import Problem, Refused
from rtx.keys import SYSTEM

ALL = "*"
"""The symbol of `market_data:*`, which is all of them."""

Kind = Literal["market_data", "executions", "alerts"]


class Channel(Struct, frozen=True):
    """Parsed channel name; `subject` is a symbol, `*`, an account id or `system`."""

    name: str
    kind: Kind
    subject: str

    @property
    def account_id(self) -> int | None:
        """The account whose business this is, if it is one's."""
        private = self.kind != "market_data" and self.subject != SYSTEM
        return int(self.subject) if private else None

    @property
    def is_journal(self) -> bool:
        """Whether its messages are kept and can be resumed."""
        return self.kind != "market_data"


_SYMBOL = re.compile(SYMBOL_PATTERN)


def parse_channel(name: str) -> Channel:
    """The channel of this name; raises `Refused` for one that does not exist."""
    kind, _, subject = name.partition(":")
    if kind == "market_data" and (subject == ALL or _SYMBOL.search(subject)):
        return Channel(name, "market_data", subject)
    if kind == "alerts" and subject == SYSTEM:
        return Channel(name, "alerts", subject)
    if kind in ("executions", "alerts"):
        try:
            account_id = account_id_of(subject)
        except Refused:
            account_id = None
        if account_id is not None:
            # Under its plain name, so that 7 and 007 are one channel.
            plain = str(account_id)
            if kind == "executions":
                return Channel(f"executions:{plain}", "executions", plain)
            return Channel(f"alerts:{plain}", "alerts", plain)
    raise Refused(
        400,
        "unknown_channel",
        f"{name[:100]!r} is not a channel; there are market_data:SYMBOL, market_data:*, "
        "executions:ACCOUNT, alerts:ACCOUNT and alerts:system",
    )


# --- what a client says ----------------------------------------------------------------------


class Subscribe(Struct, tag_field="op", tag="subscribe"):
    """Follow channels; `after` resumes executions and alerts: `{channel: "epoch:seq"}`."""

    channels: list[str]
    after: dict[str, str] = {}


class Unsubscribe(Struct, tag_field="op", tag="unsubscribe"):
    """Leave channels."""

    channels: list[str]


class Ping(Struct, tag_field="op", tag="ping"):
    """Ask for a pong with the same id."""

    id: int | float | str | None = None


Request = Subscribe | Unsubscribe | Ping

_REQUEST: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def parse_request(text: str | bytes) -> Request:
    """What a client said; raises `Refused` with what is wrong with it."""
    try:
        return _REQUEST.decode(text)
    except msgspec.ValidationError as error:
        sentence = str(error)
        if "`$.op`" in sentence or "missing required field `op`" in sentence:
            raise Refused(
                400, "unknown_op", f"{sentence}; op is subscribe, unsubscribe or ping"
            ) from None
        raise Refused(400, "bad_message", sentence) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refused(400, "bad_json", f"the message is not valid JSON: {error}") from None


# --- what a client is told -------------------------------------------------------------------


class _Subscribed(Struct, tag_field="type", tag="subscribed"):
    channel: str
    recovered: bool
    reason: str
    last: str | None


class _Unsubscribed(Struct, tag_field="type", tag="unsubscribed"):
    channel: str


class _Gap(Struct, tag_field="type", tag="gap"):
    channel: str
    cause: str
    duration: float
    recovered: bool


class _Error(Struct, tag_field="type", tag="error", omit_defaults=True):
    code: str
    reason: str
    retryable: bool
    channel: str | None = None


class _Pong(Struct, tag_field="type", tag="pong"):
    id: int | float | str | None


class _State(Struct, tag_field="type", tag="state"):
    ready: bool
    degraded: bool
    time: int


_encode = msgspec.json.Encoder().encode


def subscribed(channel: str, *, recovered: bool, reason: str, last: str | None) -> str:
    """The channel is followed from here on; `last` is the position it goes on from."""
    return _encode(_Subscribed(channel, recovered, reason, last)).decode()


def unsubscribed(channel: str) -> str:
    """The channel was left; ticks already on the way may still follow."""
    return _encode(_Unsubscribed(channel)).decode()


def gap(channel: str, cause: str, duration: float, *, recovered: bool) -> str:
    """Messages may be missing, for `duration` seconds; all came after all if `recovered`."""
    return _encode(_Gap(channel, cause, duration, recovered)).decode()


def error(problem: Problem, channel: str | None = None) -> str:
    """Something the client asked for was refused, or ended."""
    return _encode(_Error(problem.code, problem.reason, problem.retryable, channel)).decode()


def pong(id: int | float | str | None) -> str:
    """The answer to a ping."""
    return _encode(_Pong(id)).decode()


def state(*, ready: bool, degraded: bool, time: int) -> str:
    """What the data layer can do at the moment; `time` in epoch milliseconds."""
    return _encode(_State(ready, degraded, time)).decode()


def journal_message(message: Struct, channel: str) -> str:
    """An execution or alert as on its channel, with the name of the channel added."""
    text = _encode(message).decode()
    return f'{text[:-1]},"channel":"{channel}"}}'


def tick_text(tick: Struct) -> str:
    """A tick as on its channel."""
    return _encode(tick).decode()
