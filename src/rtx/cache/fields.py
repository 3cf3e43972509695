"""Fields of cached values by name: those of the JSON, and what is worked out from them."""

from __future__ import annotations

import msgspec

from rtx.errors import UnknownName


def fields_of(kind: type) -> tuple[str, ...]:
    """The names of a model's fields and properties; none for what is not a model."""
    if not issubclass(kind, msgspec.Struct):
        return ()
    worked_out = [name for name, item in vars(kind).items() if isinstance(item, property)]
    return (*kind.__struct_fields__, *worked_out)


def field_of(value: object, name: str) -> object:
    """One field of a value. Raises `UnknownName`, which names those that there are."""
    known = fields_of(type(value))
    if name not in known:
        there = f"there are {', '.join(known)}" if known else "read the whole value"
        raise UnknownName(f"{type(value).__name__} has no field {name!r}; {there}")
    found: object = getattr(value, name)
    return found
