"""OpenTelemetry spans and durations of calls, put around the callers of the roles.

Imported only by a process that has `telemetry.spans` or `telemetry.metrics` on: off, the callers
are the plain ones. Names and attributes follow the semantic conventions for database clients, 1.44:
https://opentelemetry.io/docs/specs/semconv/db/redis/

Nothing here repeats a key, an argument or what the server said: session tokens, account ids and
rejected commands are in these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from time import perf_counter
from typing import TypeAlias, TypeVar

from rtx import urls
from rtx.errors import MissingExtra, RtxError, ServerError
from rtx.setting_groups import TelemetrySettings
from rtx.urls import Address
from rtx.wire.caller import Caller
from rtx.wire.options import Argument
from rtx.wire.pool import PoolStats
from rtx.wire.replies import Reply
from rtx.wire.scripts import NAMES

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as error:
    raise MissingExtra("otel", "opentelemetry-api") from error

_T = TypeVar("_T")
_C = TypeVar("_C")
_Attributes: TypeAlias = "dict[str, str | int]"
_What: TypeAlias = "Argument | tuple[Argument, Argument] | None"
"""A command's name, with the script if it runs one; None for commands of several names."""

BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Advised for `db.client.operation.duration`, in seconds; a view of the SDK takes others."""

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
_RUN_A_SCRIPT = frozenset({"EVAL", "EVALSHA", b"EVAL", b"EVALSHA"})
_MOST_KNOWN = 1_000  # operations whose attributes are kept; a program that makes up names has more


@dataclass(frozen=True, slots=True)
class _Operation:
    """What all calls of one kind have in common."""

    span_name: str
    attributes: _Attributes


class Telemetry:
    """Makes the instruments of a process once, for the callers of all roles."""

    def __init__(self, settings: TelemetrySettings) -> None:
        version = metadata.version("rtx-datalayer")
        self.spans = settings.spans
        self.tracer = trace.get_tracer("rtx", version, schema_url=_SCHEMA)
        self.record: Callable[[float, _Attributes], None] | None = None
        if settings.metrics:
            meter = metrics.get_meter("rtx", version, schema_url=_SCHEMA)
            self.record = meter.create_histogram(
                "db.client.operation.duration",
                unit="s",
                description="Duration of database client operations.",
                explicit_bucket_boundaries_advisory=BUCKETS,
            ).record

    @property
    def wanted(self) -> bool:
        """Whether anybody wants to know of a call that begins now."""
        return self.record is not None or self._wants_span()

    def _wants_span(self) -> bool:
        if self.spans == "children":
            return trace.get_current_span().is_recording()
        return self.spans == "all"

    def watch(self, operation: _Operation, *, batch: bool = False, size: int = 1) -> _Watch | None:
        """Begin to watch a call, or a batch of `size` commands; None if nobody wants to know."""
        span: trace.Span | None = None
        if self._wants_span():
            attributes = operation.attributes
            if size != 1:  # the conventions take a batch of one for a single call
                attributes = {**attributes, "db.operation.batch.size": size}
            span = self.tracer.start_span(
                operation.span_name, kind=trace.SpanKind.CLIENT, attributes=attributes
            )
            if not span.is_recording():
                span = None
        if span is None and self.record is None:
            return None
        return _Watch(operation.attributes, span, self.record, batch)


class _Watch:
    """One call under way."""

    __slots__ = ("_attributes", "_batch", "_began", "_record", "_span")

    def __init__(
        self,
        attributes: _Attributes,
        span: trace.Span | None,
        record: Callable[[float, _Attributes], None] | None,
        batch: bool,
    ) -> None:
        self._attributes = attributes
        self._span = span
        self._record = record
        self._batch = batch
        self._began = perf_counter()

    def over(self, answer: Awaitable[_T]) -> Awaitable[_T]:
        """The same answer, and the watch ends with it, before anybody who awaits it goes on.

        A future stays a future: its call is sent already, whether anybody awaits it or not.
        """
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(self._done)
            return answer
        return self._through(answer)

    async def _through(self, answer: Awaitable[_T]) -> _T:
        try:
            reply = await answer
        except BaseException as error:
            self.end(error)
            raise
        self.end(self._error_in(reply))
        return reply

    def _done(self, answer: asyncio.Future[_T]) -> None:
        if answer.cancelled():
            self.end(asyncio.CancelledError())
        else:
            self.end(answer.exception() or self._error_in(answer.result()))

    def _error_in(self, reply: object) -> ServerError | None:
        """The first error among the replies of a batch."""
        if self._batch and isinstance(reply, list):
            for one in reply:
                if isinstance(one, ServerError):
                    return one
        return None

    def end(self, error: BaseException | None) -> None:
        """The call ended, with this error or well."""
        took = perf_counter() - self._began
        failed: _Attributes | None = None
        if error is not None:
            failed = _failed(error)
        if self._record is not None:
            about = self._attributes if failed is None else {**self._attributes, **failed}
            self._record(took, about)
        if self._span is not None:
            if failed is not None:
                self._span.set_attributes(failed)
                self._span.set_status(trace.StatusCode.ERROR)
            self._span.end()


class ObservedCaller:
    """A `Caller` around that of a role: one span and one duration for each call, all retries in it.

    A redirection, a retry and the second attempt at another server belong to the call. Of a batch
    in which commands failed the first error is told.
    """

    def __init__(
        self, caller: Caller, telemetry: Telemetry, role: str, server: _Attributes
    ) -> None:
        self._caller = caller
        self._telemetry = telemetry
        self._watch = telemetry.watch
        self._base: _Attributes = {"db.system.name": "redis", **server, "rtx.role": role}
        self._singles: dict[_What, _Operation] = {}
        self._batches: dict[_What, _Operation] = {}

    # --- calls -----------------------------------------------------------------------------

    def call(self, *args: Argument, timeout: float | None = None) -> Awaitable[Reply]:
        """See `Caller`."""
        what: _What = args[0]
        if what in _RUN_A_SCRIPT:
            what = (args[0], args[1])
        watch = self._watch(self._singles.get(what) or self._single(what))
        if watch is None:
            return self._caller.call(*args, timeout=timeout)
        try:
            return watch.over(self._caller.call(*args, timeout=timeout))
        except BaseException as error:  # a command that is not sent, such as BLPOP
            watch.end(error)
            raise

    async def execute(
        self, *args: Argument, idempotent: bool = False, timeout: float | None = None
    ) -> Reply:
        """See `Caller`."""
        what: _What = args[0]
        if what in _RUN_A_SCRIPT:
            what = (args[0], args[1])
        watch = self._watch(self._singles.get(what) or self._single(what))
        answer = self._caller.execute(*args, idempotent=idempotent, timeout=timeout)
        return await (answer if watch is None else watch.over(answer))

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> Awaitable[list[Reply]]:
        """See `Caller`."""
        watch = self._watch_batch(_what, commands)
        if watch is None:
            return self._caller.batch(commands, timeout)
        try:
            return watch.over(self._caller.batch(commands, timeout))
        except BaseException as error:
            watch.end(error)
            raise

    def batch_packed(
        self, commands: Sequence[bytes], *, patient: bool = True
    ) -> Awaitable[list[Reply]]:
        """See `Caller`."""
        watch = self._watch_batch(_what_of_packed, commands)
        if watch is None:
            return self._caller.batch_packed(commands, patient=patient)
        try:
            return watch.over(self._caller.batch_packed(commands, patient=patient))
        except BaseException as error:
            watch.end(error)
            raise

    def _watch_batch(self, what_of: Callable[[_C], _What], commands: Sequence[_C]) -> _Watch | None:
        if not self._telemetry.wanted:
            return None
        what, size = _common(map(what_of, commands)), len(commands)
        if size == 1:
            operation = self._singles.get(what) or self._single(what)
        else:
            operation = self._batches.get(what) or self._batch(what)
        return self._watch(operation, batch=True, size=size)

    def _single(self, what: _What) -> _Operation:
        return _kept(self._singles, what, self._operation(_text(what), what))

    def _batch(self, what: _What) -> _Operation:
        name = "PIPELINE" if what is None else f"PIPELINE {_text(what)}"
        return _kept(self._batches, what, self._operation(name, what))

    def _operation(self, name: str, what: _What) -> _Operation:
        attributes = {**self._base, "db.operation.name": name}
        script = NAMES.get(_str(what[1])) if isinstance(what, tuple) else None
        if script is None:
            return _Operation(name, attributes)
        return _Operation(f"{name} {script}", {**attributes, "db.stored_procedure.name": script})

    # --- the rest is the role's own --------------------------------------------------------

    @property
    def down(self) -> RtxError | None:
        return self._caller.down

    @property
    def stats(self) -> PoolStats:
        return self._caller.stats

    def hurry(self) -> None:
        self._caller.hurry()

    def on_loss(self, told: Callable[[], None]) -> None:
        self._caller.on_loss(told)

    async def close(self) -> None:
        await self._caller.close()


def server_attributes(location: urls.Location, db: int, own: Address | None) -> _Attributes:
    """Address and database as configured, without the login; `own` is the embedded server's."""
    if isinstance(location, urls.Cluster):
        # The conventions put the port into the address where there are several of them.
        return {"server.address": ",".join(map(str, location.nodes)), "db.namespace": "0"}
    found: _Attributes = {}
    if isinstance(location, urls.Sentinel):
        sentinels = ",".join(map(str, location.sentinels))
        found = {"server.address": f"{sentinels}/{location.service}"}
    else:
        address = location.address if isinstance(location, urls.Standalone) else own
        if address is not None and address.path is not None:
            found = {"server.address": address.path}
        elif address is not None:
            found = {"server.address": address.host, "server.port": address.port}
    if not isinstance(location, urls.Embedded) and location.db is not None:
        db = location.db
    return {**found, "db.namespace": str(db)}


def _failed(error: BaseException) -> _Attributes:
    if isinstance(error, ServerError):
        return {"error.type": error.prefix, "db.response.status_code": error.prefix}
    return {"error.type": type(error).__qualname__}


def _what(args: Sequence[Argument]) -> _What:
    return (args[0], args[1]) if args[0] in _RUN_A_SCRIPT else args[0]


def _what_of_packed(command: bytes) -> _What:
    # *7 CRLF $7 CRLF EVALSHA CRLF $40 CRLF 0f5e… CRLF and more
    parts = command.split(b"\r\n", 5)
    return (parts[2], parts[4]) if parts[2] in _RUN_A_SCRIPT else parts[2]


def _common(whats: Iterable[_What]) -> _What:
    """What the commands of a batch have in common: name and script, the name, or nothing."""
    found = {*whats}
    if len(found) > 1:
        found = {what[0] if isinstance(what, tuple) else what for what in found}
    return found.pop() if len(found) == 1 else None


def _kept(known: dict[_What, _Operation], what: _What, operation: _Operation) -> _Operation:
    if len(known) < _MOST_KNOWN:
        known[what] = operation
    return operation


def _text(what: _What) -> str:
    return _str(what[0]) if isinstance(what, tuple) else _str(what)


def _str(word: Argument | None) -> str:
    return word.decode("latin-1") if isinstance(word, bytes) else str(word)
