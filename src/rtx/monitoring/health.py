"""The layer's health as others read it: a JSON object, and whether to send traffic here."""

from __future__ import annotations

from msgspec import Struct

from rtx.layer_health import Health as LayerHealth
from rtx.layer_health import PartHealth


class RoleState(Struct, frozen=True):
    """Whether a part answers; `error` says what is wrong, `latency_ms` in milliseconds."""

    up: bool
    error: str
    latency_ms: float


class Health(Struct, frozen=True):
    """State of the layer; `ready` when all of it works.

    `degraded` means that Redis is away in part or whole, so that accounts, positions and symbols
    are read from the database while the rest waits. `database` is null without one.
    """

    ready: bool
    degraded: bool
    roles: dict[str, RoleState]
    database: RoleState | None
    subscriber: RoleState


def of(health: LayerHealth) -> Health:
    """The health of a layer in the form that is sent."""
    return Health(
        ready=health.ready,
        degraded=health.degraded,
        roles={name: _state(part) for name, part in health.roles.items()},
        database=None if health.database is None else _state(health.database),
        subscriber=_state(health.subscriber),
    )


def _state(part: PartHealth) -> RoleState:
    return RoleState(part.up, part.error, round(part.latency_ms, 3))
