"""Numbers of the contract's enums, and what they mean."""

from __future__ import annotations

from typing import Any, TypeVar

from orlopd.plugin.errors import InvalidArgument

T = TypeVar("T")


def known(table: dict[Any, T], value: Any, what: str) -> T:
    """What an enum's value means. :raises InvalidArgument: a value of a later version"""
    if value not in table:
        raise InvalidArgument(f"{what} {value} is not known to this daemon")
    return table[value]


def number_of(table: dict[Any, Any], value: Any) -> Any:
    """The number that says ``value``."""
    # The last key of a value: the first may be "unspecified".
    return [key for key, each in table.items() if each is value][-1]
