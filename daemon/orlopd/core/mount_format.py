"""Mounts that refer to earlier ones of their stack: the types ``format/TYPE``, as containerd has them.

In source and options ``{{ mount N }}`` is the place of the N-th mount, ``{{ source N }}`` and
``{{ target N }}`` are its parts, and ``{{ overlay FROM TO }}`` the places from one to another as overlay's
``lowerdir=`` has them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.mount import escape_option
from orlopd.plugin.values import Mount

from .identifiers import quoted

PREFIX = "format/"

_CALL = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_NUMBERS = {"mount": 1, "source": 1, "target": 1, "overlay": 2}


@dataclass(frozen=True, slots=True)
class Placed:
    """A mount that was performed, and where."""

    mount: Mount
    point: str


def is_format(mount: Mount) -> bool:
    """Whether a mount has to be filled in."""
    return mount.type.startswith(PREFIX)


def fill(mount: Mount, below: Sequence[Placed]) -> Mount:
    """The mount with what its words stand for.

    :raises InvalidArgument: a word is unknown, or there is no such mount below
    """

    def value(match: re.Match[str]) -> str:
        name, *given = match[1].split()
        wrong = InvalidArgument(f"malformed mount: {quoted(match[0])} among {len(below)} mounts below")
        if _NUMBERS.get(name) != len(given) or not all(each.isdecimal() for each in given):
            raise wrong
        numbers = [int(each) for each in given]
        if max(numbers) >= len(below):
            raise wrong
        first = below[numbers[0]]
        if name == "overlay":
            start, end = numbers
            step = 1 if start <= end else -1
            points = [below[number].point for number in range(start, end + step, step)]
            return ":".join(escape_option(point, lower=True) for point in points)
        return {"mount": first.point, "source": first.mount.source, "target": first.mount.target}[name]

    def filled(text: str) -> str:
        return _CALL.sub(value, text)

    return replace(
        mount,
        type=mount.type.removeprefix(PREFIX),
        source=filled(mount.source),
        target=filled(mount.target),
        options=tuple(filled(option) for option in mount.options),
    )
