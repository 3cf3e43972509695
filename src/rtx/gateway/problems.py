"""Every error a client sees: one shape, one place that decides it.

`{"code": "stale_price", "reason": "cause and remedy", "retryable": true}`, over HTTP with its
status and `Retry-After`, over a stream as a message of type `error`. A denial by a limit is a
problem document (RFC 9457) besides, with the `RateLimit` fields. What went wrong inside (addresses,
statements) goes to the log, never to a client.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from litestar import MediaType, Request
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec
from msgspec import Struct, convert, field
from msgspec.structs import astuple

from rtx.errors import DatabaseUnavailable, NotFound, RtxError, ServerError, Unavailable
from rtx.gateway.orders import OrderRejected
from rtx.gateway.replies import JsonResponse
from rtx.ratelimit import Decision, Limits
from rtx.web.ruling import PROBLEM_JSON, Policy, Ruling, problem_of, whole_seconds

_log = logging.getLogger("rtx.gateway")

RETRY_AFTER_OUTAGE = 1.0
"""Seconds a client is asked to wait when a server behind the gateway is away."""


class Problem(Struct, frozen=True):
    """Error as a client sees it; `code` is a stable word, `reason` a sentence for people."""

    code: str
    reason: str
    retryable: bool


class LimitProblem(Struct, frozen=True):
    """A denial by a limit: a problem document of RFC 9457, and what every error has."""

    type: str
    title: str
    status: int
    detail: str
    violated_policies: list[str] = field(name="violated-policies")
    code: str
    reason: str
    retryable: bool


class Refused(RtxError):
    """The gateway turns a request down; the facts are those of the answer, times in seconds."""

    code: str  # type: ignore[misc]  # one class for all reasons, so per instance
    retryable: bool  # type: ignore[misc]

    def __init__(
        self,
        status: int,
        code: str,
        reason: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        ruling: Ruling | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.ruling = ruling


def refused_by(ruling: Ruling) -> Refused:
    """What a ruling that denies is answered with."""
    detail, wait = ruling.detail(), ruling.retry_after
    if ruling.status == 429:
        return Refused(429, "rate_limited", detail, retryable=True, retry_after=wait, ruling=ruling)
    return Refused(503, "unavailable", detail, retryable=True, retry_after=wait, ruling=ruling)


class Answer(Struct, frozen=True):
    """What an error is answered with; `retry_after` in seconds, `violated` the limits that denied.

    `violated` is None where it was no limit.
    """

    status: int
    problem: Problem
    retry_after: float | None = None
    violated: list[str] | None = None

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.retry_after is not None or self.status in (429, 503):
            headers["Retry-After"] = str(whole_seconds(self.retry_after or 0))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def body(self) -> Problem | LimitProblem:
        """What is sent: for limits a problem document."""
        if self.violated is None:
            return self.problem
        code, reason, retryable = astuple(self.problem)
        facts = problem_of(self.status, reason, self.violated)
        return convert(
            {**facts, "code": code, "reason": reason, "retryable": retryable}, LimitProblem
        )


def answer_to(error: Exception, *, writes: bool = False) -> Answer:
    """The answer to an error; `writes` says that the request asked for a change."""
    if isinstance(error, Refused | OrderRejected):
        problem = Problem(error.code, str(error), error.retryable)
        return Answer(error.status, problem, error.retry_after, _violated(error))
    if isinstance(error, Unavailable | DatabaseUnavailable) and writes and error.maybe_applied:
        # Sending an order again after this answer could fill it twice.
        what = "data servers" if isinstance(error, Unavailable) else "database"
        code = "unavailable" if isinstance(error, Unavailable) else error.code
        reason = (
            f"the {what} broke off, and the request may have been carried out; "
            "look at the executions before sending it again"
        )
        return Answer(503, Problem(code, reason, False), RETRY_AFTER_OUTAGE)
    if isinstance(error, Unavailable):
        reason = "the data servers cannot be reached; try again in a moment"
        return Answer(503, Problem("unavailable", reason, True), RETRY_AFTER_OUTAGE)
    if isinstance(error, DatabaseUnavailable):
        reason = "the database cannot be reached; try again in a moment"
        return Answer(503, Problem(error.code, reason, True), RETRY_AFTER_OUTAGE)
    if isinstance(error, ServerError):
        reason = "the data server refused the command; its log and `rtx doctor` say why"
        return Answer(503, Problem(error.code, reason, error.retryable), RETRY_AFTER_OUTAGE)
    if isinstance(error, NotFound):
        return Answer(404, Problem(error.code, str(error), False))
    if isinstance(error, HTTPException):
        return _of_framework(error)
    reason = "the gateway failed; its log has the cause"
    return Answer(500, Problem("internal", reason, False))


def _violated(error: Refused | OrderRejected) -> list[str] | None:
    if isinstance(error, Refused):
        return error.ruling.violated if error.ruling is not None else None
    if error.decision is not None:
        return [error.decision.policy]
    return [] if error.status == 429 else None


def _of_framework(error: HTTPException) -> Answer:
    status = error.status_code
    # Python 3.13 renamed the phrase of 413; a code is a word that stays.
    phrase = "Request Entity Too Large" if status == 413 else HTTPStatus(status).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    reason = error.detail
    if isinstance(error, ValidationException):
        reason = "; ".join(_field_sentence(item) for item in error.extra or ()) or reason
    elif status == 400 and error.__cause__ is not None:
        reason = f"the body is not valid JSON: {error.detail}"
    elif status == 404:
        reason = "there is no such route; /docs lists them"
    elif status >= 500:
        return Answer(
            status, Problem("internal", "the gateway failed; its log has the cause", False)
        )
    return Answer(status, Problem(code, reason, False))


def _field_sentence(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    message = item.get("message", "is not valid")
    field = item.get("key", "")
    if field in ("", "data"):  # the whole body
        return "the body is missing; send a JSON object" if message == "'data'" else str(message)
    if "matching regex" in message:
        message = "not of the form that /docs describes"
    return f"{field}: {message}"


def handle(
    request: Request[Any, Any, Any], error: Exception
) -> JsonResponse[Problem | LimitProblem]:
    """Litestar's exception handler for everything raised in a route."""
    answer = answer_to(error, writes=request.method not in ("GET", "HEAD"))
    if answer.status >= 500:
        known = isinstance(error, RtxError)
        _log.log(
            logging.WARNING if known else logging.ERROR,
            "%s %s failed with %s: %s",
            request.method,
            request.scope["path"],
            answer.status,
            error,
            exc_info=None if known else error,
        )
    headers = answer.headers()
    if isinstance(error, HTTPException) and error.headers:
        headers |= {name.title(): value for name, value in error.headers.items()}
    if isinstance(error, OrderRejected) and error.decision is not None:
        headers |= _fields(request.app.state.gateway.layer.limits, error.decision)
    body = answer.body()
    media_type = PROBLEM_JSON if isinstance(body, LimitProblem) else None
    return JsonResponse(body, status_code=answer.status, headers=headers, media_type=media_type)


def _fields(limits: Limits, decision: Decision) -> dict[str, str]:
    """The fields of a desk's limit; those of `api` are on every answer already."""
    limit = limits.get(decision.policy)
    policies = (Policy(decision.policy, decision.limit, limit.per),) if limit is not None else ()
    return Ruling(policies, (decision,)).headers()


_DESCRIPTIONS = {
    400: "A parameter or the body is malformed; `reason` names the field",
    401: "No session: log in with POST /v1/sessions",
    403: "The session may not use this account, or the request comes from another site",
    404: "It does not exist; `code` says which part",
    409: "It cannot be done in the present state; `code` says why",
    413: "The body is too large",
    422: "The values are well-formed but not acceptable",
    429: "Over a limit, which `violated-policies` names; wait as long as Retry-After says",
    500: "The gateway failed; its log has the cause",
    503: "A server behind the gateway is away; wait as long as Retry-After says",
}


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """The error answers of a route, for its OpenAPI description."""
    return {
        status: ResponseSpec(
            LimitProblem if status == 429 else Problem,
            description=_DESCRIPTIONS[status],
            generate_examples=False,
            media_type=PROBLEM_JSON if status == 429 else MediaType.JSON,
        )
        for status in statuses
    }
