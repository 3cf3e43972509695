"""What the gateway counts; plain integers, which the metrics read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What the gateway did since it started; `connections` is how many streams are open."""

    connections: int = 0
    connections_opened: int = 0
    connections_refused: int = 0
    frames: int = 0
    messages: int = 0
    conflated: int = 0
    closed_overflow: int = 0
    bad_messages: int = 0
    limited: int = 0
    limiter_away: int = 0
    logins: int = 0
    logins_failed: int = 0
    responses_2xx: int = 0
    responses_3xx: int = 0
    responses_4xx: int = 0
    responses_5xx: int = 0

    def responded(self, status: int) -> None:
        """Count an HTTP response."""
        name = f"responses_{status // 100}xx"
        setattr(self, name, getattr(self, name, 0) + 1)
