"""Names of the contract's enums as the SDK's."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

E = TypeVar("E", bound=StrEnum)


def to_enum(cls: type[E], name: str, prefix: str, otherwise: E) -> E:
    """A protobuf enum's name as ours; what a newer daemon adds is ``otherwise``."""
    try:
        return cls(name.removeprefix(prefix).lower())
    except ValueError:
        return otherwise
